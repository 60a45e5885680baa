"""The real server process and the terminal client of October 2025."""

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from end_to_end.server_process import ServerProcess, server_process
from end_to_end.spec_client import (
    DEADLINE,
    Device,
    Endpoint,
    FrameType,
    Http2,
    ServerInfo,
    Session,
    SpecError,
    StreamEndedError,
    connect,
    dump_json,
    server_info,
)
from end_to_end.terminal_client import HTTP2_WINDOW, Terminal, terminal_device

CHANNEL = 7
SHOUT = "miau " * 100
CONFIG = """
[server]
auto_approve_devices = true
[limits]
new_devices_per_hour = 10000
[timeouts]
write_stall = 0.5
[channels]
open_join = true
[transport]
clear_frames = "{mode}"
"""


@attrs.frozen
class Running:
    process: ServerProcess
    endpoint: Endpoint
    info: ServerInfo

    def terminal(self, device: Device, **options: Any) -> Terminal:
        return Terminal(self.endpoint, self.info, device, **options)

    def encrypting(self, device: Device, *capabilities: str) -> Session:
        return connect(self.endpoint, self.info, device, "XK", capabilities or ("delivery-ack",))

    def confirmed(self, device: Device) -> int:
        """The inbox's watermark; asking takes nothing out of it."""
        with self.encrypting(device, "send-only") as session:
            return int(session.ack.json()["inbox"]["confirmed"])

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, "it never became true"

    @property
    def warnings(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.process.log.read_text().splitlines()]
        return [line for line in lines if line["level"] == "warning"]


def running_with(home: Path, mode: str) -> Iterator[Running]:
    with server_process(home, CONFIG.format(mode=mode)) as process:
        endpoint = Endpoint("127.0.0.1", process.port, process.ca_file)
        yield Running(process, endpoint, server_info(endpoint))
        assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def auto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from running_with(tmp_path_factory.mktemp("auto"), "auto")


@pytest.fixture(scope="module")
def always(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from running_with(tmp_path_factory.mktemp("always"), "always")


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from running_with(tmp_path_factory.mktemp("never"), "never")


@pytest.fixture
def channel() -> int:
    """A number of each test's own: rooms outlive their sessions."""
    return secrets.randbelow(2**31) + 1


def device(name: str) -> Device:
    return terminal_device(name, secrets.token_hex(6), secrets.token_bytes(32))


def backlog_for(running: Running, receiver: Device, channel: int, texts: list[str]) -> None:
    """Messages of an encrypting client, which wait for a terminal that has joined before."""
    with running.encrypting(device("alice")) as alice:
        alice.join(channel, [receiver.device_id])
        for text in texts:
            alice.send(FrameType.MSG, channel, text.encode())
        for _ in texts:
            assert "refused" not in alice.receive(FrameType.ACK).json()


def texts_of(frames: list[Any]) -> list[str]:
    return [frame.payload.decode() for frame in frames if frame.kind is FrameType.MSG]


def test_two_terminals_talk_in_one_channel(auto: Running, channel: int) -> None:
    with auto.terminal(device("alice")) as alice, auto.terminal(device("bob")) as bob:
        alice.enter(channel)
        bob.enter(channel)
        for turn in range(5):
            sequence = alice.say(channel, f"meow {turn} ünï")
            assert bob.heard() == f"meow {turn} ünï"
            assert alice.next_of(FrameType.ACK).json() == {"ack": sequence}
            bob.say(channel, f"purr {turn}")
            assert alice.heard() == f"purr {turn}"
        # Hello, Auth, Join, then five messages.
        assert alice.last_sequence == 8


def test_a_third_one_that_joins_disturbs_nobody(auto: Running, channel: int) -> None:
    terminals = [auto.terminal(device(name)) for name in ("alice", "bob", "carol")]
    for terminal in terminals:
        terminal.enter(channel)
    for speaker in terminals:
        speaker.say(channel, speaker.device.device_id)
        for listener in terminals:
            if listener is not speaker:
                assert listener.heard() == speaker.device.device_id
    for terminal in terminals:
        terminal.close()


def test_one_that_leaves_hears_no_more(auto: Running, channel: int) -> None:
    with auto.terminal(device("alice")) as alice, auto.terminal(device("bob")) as bob:
        alice.enter(channel)
        bob.enter(channel)
        sequence = bob.send(FrameType.LEAVE, channel, b"{}")
        assert bob.next_of(FrameType.ACK).json() == {"ack": sequence}

        alice.say(channel, "nobody?")
        while (answer := alice.read()).kind is not FrameType.ERROR:
            pass
        assert answer.json()["error"] == "no_route"

        bob.enter(channel)
        alice.say(channel, "welcome")
        assert bob.heard() == "welcome"


def test_the_room_survives_reconnects(auto: Running, channel: int) -> None:
    alice_device, bob_device = device("alice"), device("bob")
    with auto.terminal(alice_device) as alice, auto.terminal(bob_device) as bob:
        alice.enter(channel)
        bob.enter(channel)
    with auto.terminal(alice_device) as alice:
        sequence = alice.say(channel, "are you there?")
        assert alice.next_of(FrameType.ACK).json() == {"ack": sequence}
    with auto.terminal(bob_device) as bob:
        assert bob.heard() == "are you there?"


def test_its_certificate_opens_the_second_connection(auto: Running) -> None:
    with auto.terminal(device("alice")) as first:
        certificate = first.certificate
        assert certificate["public_key"] == first.device.public.hex()
        assert len(first.ack.json()["noise_keys"]) == 1
    with auto.terminal(first.device, certificate=certificate) as second:
        assert second.certificate == certificate


def test_it_is_sent_only_what_it_can_read(auto: Running, channel: int) -> None:
    with auto.terminal(device("bob")) as bob, auto.encrypting(device("alice")) as alice:
        bob.enter(channel)
        alice.join(channel, [])
        odd = {"typing": "yes", "ttl_ms": -1, "label": 7, "expires_in": 5, "mood": {}}
        rotated = {"device_id": alice.device.device_id, "event": "mine"}
        offer = {"call_id": secrets.token_hex(8), "from": alice.device.device_id, "to": []}
        alice.send(FrameType.PRESENCE, 0, dump_json({"state": "away"}))
        alice.send(FrameType.TYPING, channel, dump_json(odd))
        alice.send(FrameType.VOICE_FRAME, channel, b"\x01\x00\x00opus")
        alice.send(FrameType.KEY_UPDATE, channel, dump_json(rotated))
        alice.send(FrameType.CALL_OFFER, channel, dump_json(offer))
        alice.send(FrameType.MSG, channel, b"the last")
        seen = []
        while (frame := bob.read()).kind is not FrameType.MSG:
            seen.append(frame)
        # Notices go out when there is nothing else, so the last of them may come behind.
        while FrameType.TYPING not in {frame.kind for frame in seen}:
            seen.append(bob.read())

        kinds = {frame.kind for frame in seen}
        assert kinds <= {FrameType.PRESENCE, FrameType.TYPING, FrameType.GROUP_EVENT, FrameType.CALL_OFFER}
        [typing] = [frame.json() for frame in seen if frame.kind is FrameType.TYPING]
        assert typing == {"device": alice.device.device_id, "expires_in": 5}
        [event] = [frame.json() for frame in seen if frame.kind is FrameType.GROUP_EVENT]
        assert event == {"device_id": alice.device.device_id, "event": "device-key-rotated"}
        assert FrameType.CALL_OFFER in kinds


def test_a_long_backlog_comes_over_many_connections_each_line_once_and_in_order(
    auto: Running, channel: int
) -> None:
    bob_device = device("bob")
    with auto.terminal(bob_device) as bob:
        bob.enter(channel)
    texts = [f"{number} {SHOUT}" for number in range(500)]
    assert sum(map(len, texts)) > 200_000
    backlog_for(auto, bob_device, channel, texts)

    heard: list[str] = []
    connections = 0
    while len(heard) < len(texts):
        with auto.terminal(bob_device) as bob:
            connections += 1
            with contextlib.suppress(StreamEndedError):
                while len(heard) < len(texts):
                    heard.append(bob.heard())
            assert heard == texts[: len(heard)]
            assert bob.http.received_data <= HTTP2_WINDOW
            if len(heard) < len(texts):
                bob.wire.wait_for_end()
                # Every PING was answered; that confirms nothing of what the window did not let out.
                assert auto.confirmed(bob_device) == len(heard)
    assert connections >= 4


def test_a_stuck_window_ends_the_session_and_confirms_only_what_was_heard(
    auto: Running, channel: int
) -> None:
    bob_device = device("bob")
    with auto.terminal(bob_device) as bob:
        bob.enter(channel)
        backlog_for(auto, bob_device, channel, [f"{number}{'x' * 20_000}" for number in range(5)])
        frames = bob.read_to_end()
        assert bob.http.received_data == HTTP2_WINDOW
    numbers = [frame.sequence for frame in frames if frame.kind is FrameType.MSG]
    assert numbers == [1, 2, 3]
    assert auto.confirmed(bob_device) == 3
    with auto.terminal(bob_device) as again:
        assert again.heard().startswith("3x")
        assert again.heard().startswith("4x")


def test_lines_that_a_dropped_connection_swallowed_come_again(auto: Running, channel: int) -> None:
    bob_device = device("bob")
    with auto.terminal(bob_device) as bob:
        bob.enter(channel)
        bob.http.muted = True  # answers no PING: its program may have crashed with the bytes unread
        backlog_for(auto, bob_device, channel, ["one", "two", "three"])
        assert bob.heard() == "one"
        bob.leave_behind()
    with auto.terminal(bob_device) as again:
        assert [again.heard() for _ in range(3)] == ["one", "two", "three"]
        again.http.wait_for_ping()
        auto.wait_until(lambda: auto.confirmed(bob_device) == 3)


def test_it_ends_by_an_empty_frame_and_is_told_the_same(auto: Running, channel: int) -> None:
    with auto.terminal(device("bob")) as bob:
        bob.enter(channel)
        bob.http.finish(1)
        assert bob.read_to_end() == []


def test_a_newer_start_replaces_an_older_one_in_words_it_can_read(auto: Running) -> None:
    with auto.terminal(device("bob")) as old, auto.terminal(old.device):
        [error] = old.read_to_end()
        assert error.json()["error"] == "replaced"


def test_an_undecodable_frame_is_answered_in_clear(auto: Running) -> None:
    with auto.terminal(device("bob")) as bob:
        bob.wire.send_bytes(b"\x03\xff\x00\x00")
        [error] = bob.read_to_end()
        assert error.json()["error"] == "decode"


def test_shutdown_is_told_in_clear(tmp_path: Path) -> None:
    for running in running_with(tmp_path, "auto"):
        with running.terminal(device("bob")) as bob:
            os.kill(running.process.pid, signal.SIGTERM)
            [error] = bob.read_to_end()
            assert error.json()["error"] == "shutdown"
        assert running.process.wait() == 0


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_clients_that_encrypt_are_served_as_ever(
    request: pytest.FixtureRequest, mode: str, channel: int
) -> None:
    running: Running = request.getfixturevalue(mode)
    with running.encrypting(device("bob")) as bob, running.encrypting(device("alice"), "send-only") as alice:
        bob.join(channel, [])
        alice.join(channel, [])
        alice.message(channel, b"sealed")
        frame = bob.receive(FrameType.MSG)
        bob.confirm(frame.sequence)
        assert running.confirmed(bob.device) == frame.sequence
        assert bob.wire.encrypted_bytes


def test_always_serves_other_names_of_the_terminal_too(always: Running, channel: int) -> None:
    with always.terminal(device("bob"), user_agent="tail") as bob, always.terminal(device("alice")) as alice:
        bob.enter(channel)
        alice.enter(channel)
        alice.say(channel, "meow")
        assert bob.heard() == "meow"
        with Http2(always.endpoint) as http:
            assert http.get("/healthz")[1]["security"]["clear_sessions"] >= 2


def test_auto_goes_by_the_name(auto: Running) -> None:
    with auto.terminal(device("bob"), user_agent="tail") as bob:
        bob.say(1, "meow")
        assert bob.wire.wait_for_end() == b""


def test_never_ends_at_its_first_clear_frame_and_keeps_its_messages(never: Running, channel: int) -> None:
    bob_device = device("bob")
    never.encrypting(bob_device).close()
    backlog_for(never, bob_device, channel, ["kept"])

    with never.terminal(bob_device) as bob:
        bob.http.read(1, time.monotonic() + DEADLINE)  # the message, encrypted
        bob.http.round_trip()  # what the server asks of its transport is answered meanwhile
        bob.send(FrameType.JOIN, channel, b"{}")
        bob.wire.wait_for_end()

    [line] = [line for line in never.warnings if line.get("device") == bob_device.device_id]
    assert "transport.clear_frames" in line["event"]
    assert never.confirmed(bob_device) == 0
    with never.encrypting(bob_device) as current:
        assert current.receive(FrameType.MSG).payload == b"kept"


@pytest.mark.parametrize(("mode", "count"), [("never", 0), ("auto", 1), ("always", 1)])
def test_the_operator_is_warned_once_at_start(request: pytest.FixtureRequest, mode: str, count: int) -> None:
    running: Running = request.getfixturevalue(mode)
    assert len([line for line in running.warnings if "transport.clear_frames is" in line["event"]]) == count


def test_a_stranger_that_speaks_in_clear_gets_no_further_than_the_handshake(auto: Running) -> None:
    mine = device("bob")
    with auto.terminal(mine):
        pass
    with pytest.raises(SpecError, match="invalid request"):
        auto.terminal(Device(mine.device_id, mine.handle))
