"""Two who call each other at once, programs that begin anew, recordings that cannot be written."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from cli.call_builders import write_speech
from end_to_end.call_people import answering, call, talking
from end_to_end.client_people import Person, error_line, login
from end_to_end.server_process import DEADLINE, server_process


@attrs.frozen
class World:
    alice: Person
    bob: Person


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with server_process(tmp_path_factory.mktemp("calls")) as server:
        yield World(*(login(server, name) for name in ("alice", "bob")))
        assert "Traceback" not in server.log.read_text()


def test_two_who_call_each_other_are_busy_at_once(world: World) -> None:
    one, other = world.alice, world.bob
    with (
        talking(one, "call", "--to", other.device_id, "--ring-timeout", "60") as first,
        talking(other, "call", "--to", one.device_id, "--ring-timeout", "60") as second,
    ):
        for each, called in ((first, other), (second, one)):
            status, _, errors = each.end()
            assert (status, errors.splitlines()[-1]) == (1, f"error: {called.device_id}: busy")


def test_who_calls_again_after_a_crash_ends_the_call_before(world: World) -> None:
    with answering(world.bob) as bob:
        with talking(world.alice, "call", "--to", world.bob.device_id) as crashed:
            crashed.wait_for("is in the call")
            crashed.running.process.kill()
            crashed.running.process.wait()
        status, _, errors = call(world.alice, world.bob, options=("--ring-timeout", "60"))
        assert (status, errors.splitlines()[-1]) == (1, f"error: {world.bob.device_id}: busy")
        status, figures, _ = bob.end()
        assert (status, figures["ended"]) == (1, "lost")


def test_what_is_to_be_said_is_not_overwritten(world: World, tmp_path: Path) -> None:
    speech = write_speech(tmp_path / "speech.wav", 0.2)
    before = speech.read_bytes()
    (tmp_path / "other.wav").symlink_to(speech)
    for record in (speech, tmp_path / "other.wav"):
        options = ("--play", str(speech), "--record", str(record))
        done = world.alice.run("call", "--to", world.bob.device_id, *options)
        assert done.returncode == 1
        assert "would overwrite it" in error_line(done)
    assert speech.read_bytes() == before


def test_a_pipe_that_brings_nothing_can_be_given_up(world: World, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with talking(world.alice, "call", "--to", world.bob.device_id, "--play", str(pipe)) as alice:
        writer = opened_for_writing(pipe)
        alice.running.process.send_signal(signal.SIGINT)
        assert alice.end()[0] == 130
        os.close(writer)


def opened_for_writing(pipe: Path) -> int:
    """As soon as somebody reads from it."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno != errno.ENXIO or time.monotonic() > end:
                raise
            os.sched_yield()


def test_who_can_record_no_more_hangs_up(world: World, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with answering(world.bob) as bob:
        options = ("--to", world.bob.device_id, "--record", str(tmp_path / "pipe"))
        with talking(world.alice, "call", *options) as alice:
            alice.wait_for("is in the call")
            os.close(reader)
            status, _, errors = alice.end()
            assert (status, "cannot be written" in errors) == (1, True)
        status, figures, _ = bob.end()
        assert (status, figures["ended"]) == (0, "ended")
