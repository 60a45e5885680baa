"""People who call each other with the client's commands."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from cli.call_builders import speech_like
from commucat_cli.calls.likeness import RATE, Likeness, compare, to_rate
from commucat_media.pcm import samples_of
from commucat_media.wav import read_wav
from end_to_end.client_people import Person, Running, read_until


@attrs.define
class Answering:
    """An ``answer`` that waits for a call, or is in one."""

    running: Running
    _errors: bytes = b""

    def wait_for(self, text: str) -> None:
        """Until it has told this on standard error."""
        assert self.running.process.stderr is not None
        self._errors = read_until(self.running.process.stderr.fileno(), text.encode(), self._errors)

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Exit status, summary, and everything on standard error."""
        status, out, errors = self.running.end()
        return status, json.loads(out) if out else {}, self._errors.decode() + errors


@contextmanager
def talking(person: Person, command: str, *options: str) -> Iterator[Answering]:
    """``answer`` or ``call``, running, with ``--json``."""
    with person.running(command, "--json", *options) as running:
        yield Answering(running)


@contextmanager
def answering(person: Person, *options: str) -> Iterator[Answering]:
    """Somebody who waits for a call."""
    with talking(person, "answer", *options) as found:
        found.wait_for("waiting for a call")
        yield found


def call(person: Person, *to: Person, options: tuple[str, ...] = ()) -> "tuple[int, dict[str, Any], str]":
    """A whole call: exit status, summary, standard error."""
    named = [word for each in to for word in ("--to", each.device_id)]
    done = person.run("call", *named, "--json", *options)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def likeness(recorded: Path, seconds: float, seed: int = 1) -> Likeness:
    """Of a recording and what was said into the call."""
    sound = read_wav(recorded)
    assert (sound.sample_rate, sound.channels) == (48_000, 1)
    played = to_rate(speech_like(seconds, seed=seed), 48_000)
    found = compare(played, to_rate(samples_of(sound.pcm), sound.sample_rate, RATE), max_delay=1.5)
    assert found is not None, "the recording is silent"
    return found
