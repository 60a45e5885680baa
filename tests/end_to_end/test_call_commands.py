"""Calls between two and more real clients through a real server, with real sound.

How well a recording fits what was played is bounded generously: the machine that runs the tests may be
busy, and voice that comes late is concealed as lost voice is.
"""

import signal
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from cli.call_builders import write_speech
from commucat_cli.calls.likeness import Likeness
from end_to_end.call_people import answering, call, likeness, talking
from end_to_end.client_people import Person, error_line, login
from end_to_end.server_process import ServerProcess, server_process
from end_to_end.spec_client import (
    Device,
    Endpoint,
    FrameType,
    Session,
    connect,
    dump_json,
    server_info,
)

SECONDS = 2.5


@attrs.frozen
class World:
    server: ServerProcess
    alice: Person
    bob: Person
    carol: Person
    speech: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("calls")
    with server_process(home) as server:
        people = [login(server, name) for name in ("alice", "bob", "carol")]
        yield World(server, *people, speech=write_speech(home / "speech.wav", SECONDS))
        assert "Traceback" not in server.log.read_text()


def check_sound(found: Likeness, figures: dict[str, Any]) -> None:
    """What was heard is what was said, but for what had to be made up: voice that was lost or came too late.

    Other speech has a correlation of 0.3.
    """
    made_up = figures["frames_concealed"] * 0.02 / SECONDS
    assert found.correlation > 0.75 - 3 * made_up, (found, figures)
    if made_up < 0.1:
        assert -500 < found.delay_ms < 1500, (found, figures)


@pytest.mark.parametrize("drop", [0, 5, 20])
def test_what_is_said_is_heard_in_spite_of_lost_packets(world: World, tmp_path: Path, drop: int) -> None:
    heard, answer = tmp_path / "heard.wav", write_speech(tmp_path / "answer.wav", SECONDS, 16_000, seed=2)
    with answering(world.bob, "--record", str(heard), "--play", str(answer), "--wait", "60") as bob:
        back = tmp_path / "back.wav"
        options = ("--play", str(world.speech), "--record", str(back), "--drop", str(drop), "--seed", "1")
        status, sent, errors = call(world.alice, world.bob, options=options)
        assert status == 0, errors
        status, received, errors = bob.end()
    assert status == 0, errors
    assert sent["call_id"] == received["call_id"]
    assert (sent["ended"], received["ended"]) == ("hung_up", "ended")
    assert sent["encrypted"]
    assert received["encrypted"]
    assert sent["seconds"] >= SECONDS

    assert (sent["packets_dropped"] > 0) == (drop > 0)
    # What was sent in the last moment may find the call over.
    missing = sent["packets_sent"] - received["packets_received"]
    assert 0 <= missing <= 10, (sent, received)
    assert received["packets_lost"] <= sent["packets_dropped"] + missing
    if drop == 20:
        assert received["packets_lost"] >= sent["packets_dropped"] / 2
        assert received["frames_recovered"] + received["frames_concealed"] > 0
    assert received["packets_unreadable"] == 0
    assert 0 <= received["jitter_mean_ms"] <= received["jitter_p99_ms"] + 1

    check_sound(likeness(heard, SECONDS), received)
    check_sound(likeness(back, SECONDS, seed=2), sent)


def test_three_in_a_call_hear_the_others_together(world: World, tmp_path: Path) -> None:
    other = write_speech(tmp_path / "other.wav", SECONDS, seed=3)
    records = {name: tmp_path / f"{name}.wav" for name in ("alice", "bob", "carol")}
    with (
        answering(world.bob, "--record", str(records["bob"])) as bob,
        answering(world.carol, "--record", str(records["carol"]), "--play", str(other)) as carol,
    ):
        options = ("--play", str(world.speech), "--record", str(records["alice"]), "--duration", "4")
        status, sent, errors = call(world.alice, world.bob, world.carol, options=options)
        assert status == 0, errors
        figures = {"alice": sent, "bob": bob.end()[1], "carol": carol.end()[1]}
    assert {each["call_id"] for each in figures.values()} == {sent["call_id"]}
    assert all(each["encrypted"] for each in figures.values())
    # Bob says nothing, and hears two at once.
    assert figures["bob"]["packets_received"] > figures["alice"]["packets_received"]
    check_sound(likeness(records["alice"], SECONDS, seed=3), figures["alice"])
    check_sound(likeness(records["carol"], SECONDS), figures["carol"])


def test_a_declined_call(world: World) -> None:
    with answering(world.bob, "--decline") as bob:
        status, _, errors = call(world.alice, world.bob)
        assert bob.end()[0] == 0
    assert status == 1
    assert errors.splitlines()[-1] == f"error: {world.bob.device_id}: declined"


def test_only_the_one_who_is_waited_for_is_answered(world: World) -> None:
    with answering(world.bob, "--from", world.carol.device_id) as bob:
        status, _, errors = call(world.alice, world.bob)
        assert status == 1
        assert errors.splitlines()[-1] == f"error: {world.bob.device_id}: declined"
        status, _, errors = call(world.carol, world.bob, options=("--duration", "0.3"))
        assert status == 0, errors
        assert bob.end()[0] == 0


def test_who_is_in_a_call_is_busy(world: World) -> None:
    with answering(world.bob) as bob, talking(world.carol, "call", "--to", world.bob.device_id) as carol:
        carol.wait_for("is in the call")
        status, _, errors = call(world.alice, world.bob)
        assert status == 1
        assert errors.splitlines()[-1] == f"error: {world.bob.device_id}: busy"
        carol.running.process.send_signal(signal.SIGINT)
        status, figures, _ = carol.end()
        assert (status, figures["ended"]) == (0, "hung_up")
        status, figures, _ = bob.end()
        assert (status, figures["ended"]) == (0, "ended")


def test_nobody_answers(world: World) -> None:
    status, figures, errors = call(world.alice, world.bob, options=("--ring-timeout", "1"))
    assert (status, figures) == (1, {})
    assert errors.splitlines()[-1] == f"error: {world.bob.device_id}: no answer"


def test_giving_up_while_it_rings(world: World) -> None:
    with talking(world.alice, "call", "--to", world.bob.device_id) as alice:
        alice.wait_for("calling")
        alice.running.process.send_signal(signal.SIGINT)
        status, _, errors = alice.end()
    assert status == 130
    assert errors.endswith("error: interrupted\n")
    # What is left of it in the inbox is no call any more.
    done = world.bob.run("answer", "--wait", "1")
    assert "nobody called within 1 s" in error_line_among(done.stderr)


def error_line_among(errors: str) -> str:
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


def test_a_callee_who_leaves_ends_a_call_of_two(world: World) -> None:
    with answering(world.bob) as bob, talking(world.alice, "call", "--to", world.bob.device_id) as alice:
        alice.wait_for("is in the call")
        bob.wait_for("in a call with")
        bob.running.process.send_signal(signal.SIGTERM)
        assert bob.end()[1]["ended"] == "hung_up"
        status, figures, _ = alice.end()
    assert (status, figures["ended"]) == (0, "ended")


def test_messages_stay_in_the_inbox(world: World) -> None:
    assert world.alice.send(world.bob, "before").returncode == 0
    with answering(world.bob) as bob:
        status, _, errors = call(world.alice, world.bob, options=("--duration", "0.2"))
        assert status == 0, errors
        assert bob.end()[0] == 0
    assert [message["text"] for message in world.bob.listen(1)] == ["before"]


def test_a_device_does_not_call_itself(world: World) -> None:
    own = world.alice.device_id
    done = world.alice.run("call", "--to", own)
    assert error_line(done) == f"error: {own} is this device: it cannot call itself; name another with --to"


def test_a_device_that_does_not_exist(world: World) -> None:
    done = world.alice.run("call", "--to", "nobody-of-that-name")
    assert error_line(done) == "error: the server knows no device nobody-of-that-name"
    done = world.alice.run("call", "--to", "bob@elsewhere.example")
    assert (
        error_line(done) == "error: device bob@elsewhere.example is on another server, where calls do not go"
    )


def test_files_that_cannot_be_used(world: World, tmp_path: Path) -> None:
    to = ("--to", world.bob.device_id)
    text = tmp_path / "text.wav"
    text.write_text("no sound at all")
    assert f"{text}: no WAV file" in error_line(world.alice.run("call", *to, "--play", str(text)))
    missing = tmp_path / "missing.wav"
    line = error_line(world.alice.run("call", *to, "--play", str(missing)))
    assert line == f"error: {missing} cannot be read: No such file or directory"
    many = tmp_path / "many.wav"
    with wave.open(str(many), "wb") as file:
        file.setnchannels(6)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(bytes(12))
    assert "6 channels" in error_line(world.alice.run("call", *to, "--play", str(many)))
    nowhere = tmp_path / "none" / "record.wav"
    assert "cannot be written" in error_line(world.alice.run("call", *to, "--record", str(nowhere)))


def test_a_full_disk_ends_the_call(world: World) -> None:
    with answering(world.bob) as bob:
        options = ("--record", "/dev/full", "--duration", "30")
        status, _, errors = call(world.alice, world.bob, options=options)
        assert status == 1
        assert error_line_among(errors) == "error: /dev/full cannot be written: No space left on device"
        bob.running.process.send_signal(signal.SIGINT)
        bob.end()


def test_a_call_outlives_its_server(tmp_path: Path) -> None:
    speech = write_speech(tmp_path / "speech.wav", 0.5)
    with server_process(tmp_path) as server:
        alice, bob = login(server, "alice"), login(server, "bob")
        options = ("call", "--to", bob.device_id, "--play", str(speech), "--duration", "3600")
        with answering(bob) as called, talking(alice, *options) as calling:
            calling.wait_for("is in the call")
            called.wait_for("in a call with")
            server.kill()
            calling.wait_for("trying again")
            called.wait_for("trying again")
            server.start()
            calling.wait_for("connected again")
            called.wait_for("connected again")
            calling.running.process.send_signal(signal.SIGINT)
            status, figures, errors = calling.end()
            assert (status, figures["ended"]) == (0, "hung_up"), errors
            # Whoever still was in the same call hears that it is over.
            status, figures, errors = called.end()
            assert (status, figures["ended"]) == (0, "ended"), errors


# -- devices that know nothing of call-media ----------------------------------------------------------


@pytest.fixture
def old(world: World) -> Iterator[Session]:
    """A client written from the protocol alone, with media packets of version 1 only."""
    host, _, port = world.server.url.removeprefix("https://").rpartition(":")
    endpoint = Endpoint(host, int(port), world.server.ca_file)
    device = Device("old-client", "old-client")
    with connect(endpoint, server_info(endpoint), device) as session:
        yield session


def take_call(old: Session, caller: Person) -> None:
    offer = old.receive(FrameType.CALL_OFFER)
    old.join(offer.channel, [caller.device_id])
    answer = {"call_id": offer.json()["call_id"], "accept": True}
    old.send(FrameType.CALL_ANSWER, offer.channel, dump_json(answer))


def test_a_device_without_encryption_is_refused_unless_permitted(world: World, old: Session) -> None:
    with talking(world.alice, "call", "--to", "old-client") as alice:
        alice.wait_for("calling")
        take_call(old, world.alice)
        status, figures, errors = alice.end()
    assert status == 1
    assert figures == {}
    assert "device old-client does not encrypt; --allow-unencrypted permits that" in errors
    assert old.receive(FrameType.CALL_END).json()["reason"] == "cancel"

    permitted = ("--allow-unencrypted", "--play", str(world.speech))
    with talking(world.alice, "call", "--to", "old-client", *permitted) as alice:
        alice.wait_for("calling")
        take_call(old, world.alice)
        packets = [old.receive(FrameType.VOICE_FRAME).payload for _ in range(20)]
        status, figures, errors = alice.end()
    assert status == 0, errors
    assert not figures["encrypted"]
    # Version 1, Opus as it left the encoder.
    assert {packet[:3] for packet in packets} == {b"\x01\x00\x00"}
