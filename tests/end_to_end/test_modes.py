"""The same promises in every mode: the real server process over real TLS sockets."""

import inspect
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from end_to_end.mode_transports import (
    EXTENDED_CONNECT,
    MODES,
    FedByPosts,
    ModeSession,
    RawH1,
    RawH2,
    connect_by,
    websocket_headers,
)
from end_to_end.server_process import ServerProcess, server_process
from end_to_end.spec_client import (
    DEADLINE,
    Device,
    Endpoint,
    FrameType,
    ServerInfo,
    StreamEndedError,
    connect,
    server_info,
)
from project.project_files import ROOT

CHANNEL = 7
ONE_SIDED_END = [mode for mode in MODES if "websocket" not in mode and "posts" not in mode]
"""Ways to connect in which a client can end its side and still read."""
CONFIG = """
[server]
auto_approve_devices = true
[limits]
new_devices_per_hour = 10000
"""


@attrs.frozen
class Running:
    process: ServerProcess
    endpoint: Endpoint
    info: ServerInfo

    def connect(self, device: Device, mode: str, *capabilities: str) -> ModeSession:
        return connect_by(self.endpoint, self.info, device, mode, capabilities or ("delivery-ack",))

    def confirmed(self, device: Device) -> int:
        """The inbox's watermark; asking takes nothing out of it."""
        with connect(self.endpoint, self.info, device, "XK", ("send-only",)) as session:
            return int(session.ack.json()["inbox"]["confirmed"])

    def wait_confirmed(self, device: Device, number: int) -> None:
        end = time.monotonic() + DEADLINE
        while self.confirmed(device) < number:
            assert time.monotonic() < end, "never confirmed"


def describe(process: ServerProcess) -> Running:
    endpoint = Endpoint("127.0.0.1", process.port, process.ca_file)
    return Running(process, endpoint, server_info(endpoint))


@pytest.fixture(scope="module", params=["embedded", "postgres and redis"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = CONFIG
    if request.param != "embedded":
        dsn = request.getfixturevalue("postgres_databases").empty()
        url = request.getfixturevalue("redis_url")
        config += f'[storage]\npostgres_dsn = "{dsn}"\nredis_url = "{url}"\n'
    with server_process(tmp_path_factory.mktemp("modes"), config) as process:
        yield describe(process)


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def device(name: str) -> Device:
    unique = f"{name}-{secrets.token_hex(6)}"
    return Device(f"device-{unique}", unique)


def joined(running: Running, mode: str, receiver: Device) -> ModeSession:
    sender = running.connect(device("sender"), mode)
    sender.join(CHANNEL, [receiver.device_id])
    return sender


def test_messages_go_both_ways(running: Running, mode: str) -> None:
    with running.connect(device("bob"), mode) as bob, joined(running, mode, bob.device) as alice:
        bob.join(CHANNEL, [alice.device.device_id])
        for sender, receiver in ((alice, bob), (bob, alice)) * 3:
            payload = secrets.token_bytes(100)
            sender.message(CHANNEL, payload)
            assert receiver.receive(FrameType.MSG).payload == payload


def test_an_offline_device_gets_its_messages_in_order(running: Running, mode: str) -> None:
    with running.connect(device("bob"), mode) as bob:
        pass
    with joined(running, mode, bob.device) as alice:
        for number in range(50):
            alice.message(CHANNEL, b"%d" % number)
    with running.connect(bob.device, mode) as again:
        assert [again.receive(FrameType.MSG).payload for _ in range(50)] == [b"%d" % n for n in range(50)]


def test_the_transport_confirms(running: Running, mode: str) -> None:
    with (
        running.connect(device("bob"), mode, "none") as bob,
        joined(running, mode, bob.device) as alice,
    ):
        alice.message(CHANNEL, b"seen")
        number = bob.receive(FrameType.MSG).sequence
        bob.wire.transport.wait_confirmed()
        running.wait_confirmed(bob.device, number)


def test_what_is_not_confirmed_comes_again(running: Running, mode: str) -> None:
    with running.connect(device("bob"), mode) as bob, joined(running, mode, bob.device) as alice:
        alice.message(CHANNEL, b"again")
        number = bob.receive(FrameType.MSG).sequence
        with running.connect(bob.device, mode) as later:
            frame = later.receive(FrameType.MSG)
            assert (frame.sequence, frame.payload) == (number, b"again")
            later.confirm(number)
            assert running.confirmed(bob.device) == number


@pytest.mark.parametrize("size", [65_520, 1_000_000])
def test_large_frames(running: Running, mode: str, size: int) -> None:
    payload = secrets.token_bytes(size)
    with running.connect(device("bob"), mode) as bob, joined(running, mode, bob.device) as alice:
        alice.message(CHANNEL, payload)
        assert bob.receive(FrameType.MSG).payload == payload


def test_refused_frames_leave_the_session_alone(running: Running, mode: str) -> None:
    with running.connect(device("bob"), mode) as bob, joined(running, mode, bob.device) as alice:
        unreadable = (b"[" * 128 + b"]" * 128, b'"%s"' % (b"x" * 300_000), b"{")
        for payload, kind in zip(unreadable, ("bad_request", "too_large", "bad_request"), strict=True):
            sequence = alice.send(FrameType.TYPING, CHANNEL, payload)
            error = alice.receive(FrameType.ERROR)
            assert error.channel == CHANNEL
            assert (error.json()["error"], error.json()["ref"]) == (kind, sequence)
        alice.message(CHANNEL, b"still here")
        assert bob.receive(FrameType.MSG).payload == b"still here"


def test_a_slow_reader_misses_nothing(running: Running, mode: str) -> None:
    with running.connect(device("bob"), mode) as bob, joined(running, mode, bob.device) as alice:
        for number in range(60):
            alice.message(CHANNEL, number.to_bytes(200_000, "little"))
        for number in range(60):
            assert bob.receive(FrameType.MSG).payload == number.to_bytes(200_000, "little")


def test_a_newer_session_replaces_an_older_one(running: Running, mode: str) -> None:
    with running.connect(device("bob"), mode) as old, running.connect(old.device, mode):
        error = old.wire.receive_noise()
        assert (error.kind, error.json()["error"]) == (FrameType.ERROR, "replaced")
        with pytest.raises(StreamEndedError):
            old.wire.receive_noise()


@pytest.mark.parametrize("mode", ONE_SIDED_END)
def test_a_client_that_ends_is_still_answered(running: Running, mode: str) -> None:
    with running.connect(device("bob"), mode) as bob, joined(running, mode, bob.device) as alice:
        sequence = alice.send(FrameType.MSG, CHANNEL, b"last")
        alice.wire.transport.finish(0)
        assert alice.receive(FrameType.ACK).json()["ack"] == sequence
        with pytest.raises(StreamEndedError):
            alice.wire.receive_noise()


def test_shutdown_is_told(tmp_path: Path, mode: str) -> None:
    with server_process(tmp_path) as process:
        running = describe(process)
        with running.connect(device("bob"), mode) as bob:
            os.kill(process.pid, signal.SIGTERM)
            error = bob.wire.receive_noise()
            assert (error.kind, error.json()["error"]) == (FrameType.ERROR, "shutdown")
            with pytest.raises(StreamEndedError):
                bob.wire.receive_noise()
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("method", "changes", "status"),
    [
        ("GET", {"upgrade": "h2c"}, 400),
        ("GET", {"connection": "keep-alive"}, 400),
        ("GET", {"sec-websocket-version": "8"}, 400),
        ("GET", {"sec-websocket-key": "short"}, 400),
        ("POST", {}, 405),
    ],
)
def test_a_bad_upgrade_is_refused(
    running: Running, method: str, changes: dict[str, str], status: int
) -> None:
    headers = websocket_headers() | changes
    raw = RawH1(running.endpoint, method, "/connect?mode=ws", headers, body=False)
    assert raw.status == status
    assert raw.headers["content-type"] == "application/problem+json"
    raw.close()


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 400),
        ("CONNECT", EXTENDED_CONNECT | {"sec-websocket-version": "12"}, 400),
        ("CONNECT", EXTENDED_CONNECT | {":protocol": "webtransport"}, 400),
    ],
)
def test_a_bad_websocket_over_http_2_is_refused(
    running: Running, method: str, headers: dict[str, str], status: int
) -> None:
    raw = RawH2(running.endpoint, method, "/connect?mode=websocket", headers, body=False)
    assert raw.status == status
    raw.close()


def test_extended_connect_is_announced(running: Running) -> None:
    raw = RawH2(running.endpoint, "GET", "/api/server-info", {}, body=False)
    assert raw.http.offers_extended_connect
    raw.close()


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize("raw_type", [RawH1, RawH2])
def test_other_methods_are_not_found(running: Running, raw_type: type[RawH1 | RawH2], method: str) -> None:
    raw = raw_type(running.endpoint, method, "/connect", {}, body=False)
    assert raw.status == 404
    raw.close()


@pytest.mark.parametrize("mode", ["h1-sse-posts", "h2-long-poll-posts"])
def test_posts_that_do_not_fit(running: Running, mode: str) -> None:
    with running.connect(device("alice"), mode) as alice:
        transport = alice.wire.transport
        assert isinstance(transport, FedByPosts)
        assert transport.post(10**9, b"from the future") == 409
        assert transport.post("x", b"nowhere") == 400
        assert transport.post(0, b"known already") == 204
        assert transport.post(0, b"whose", name="0" * 64) == 404
        # What was refused or known has changed nothing.
        alice.join(CHANNEL, [])
    with running.connect(alice.device, mode) as again:
        again.join(CHANNEL, [])
        assert transport.post(0, b"late") == 404


@pytest.mark.parametrize("target", ["/connect?upstream=new", "/connect?mode=ws&upstream=new"])
def test_only_text_modes_are_fed_by_posts(running: Running, target: str) -> None:
    raw = RawH1(running.endpoint, "GET", target, {}, body=False)
    assert raw.status == 400
    raw.close()


def test_rest_over_http_1(running: Running) -> None:
    raw = RawH1(running.endpoint, "GET", "/api/server-info", {}, body=False)
    assert raw.status == 200
    assert b"noise_public" in raw.read(time.monotonic() + DEADLINE)
    raw.close()


def modes_of(function: Callable[..., None]) -> list[str]:
    """The ways to connect that a test of this file goes through."""
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "parametrize" and mark.args[0] == "mode":
            return list(mark.args[1])
    return list(MODES)


def test_the_matrix_of_the_documents_is_this_file() -> None:
    scenarios = {
        name.removeprefix("test_").replace("_", " "): modes_of(function)
        for name, function in globals().items()
        if name.startswith("test_") and "mode" in inspect.signature(function).parameters
    }
    rows = [["", *(f"`{mode}`" for mode in MODES)], ["---"] * (len(MODES) + 1)]
    rows += [[name, *("yes" if mode in ways else "-" for mode in MODES)] for name, ways in scenarios.items()]
    table = "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |", 1) for row in rows)
    assert f"\n\n{table}\n" in (ROOT / "docs" / "protocol.md").read_text()
