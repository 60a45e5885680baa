"""Messages that can be told apart: ``run (8 bytes) | number (8 bytes, big-endian, from 0) | filler``.

The filler is random bytes, the same for all messages of a run: they compress as badly as sealed
ones, and a receiver can compare them.
"""

import random
from collections.abc import Iterator, Sequence

from commucat_cli.bench.jobs import Load

RUN_LEN = 8
_NUMBER_LEN = 8
HEADER_LEN = RUN_LEN + _NUMBER_LEN


def make_payloads(load: Load) -> Iterator[bytes]:
    """All payloads of a run, in their order."""
    run, filler = bytes.fromhex(load.run), _filler(load)
    for number in range(load.messages):
        yield b"".join((run, number.to_bytes(_NUMBER_LEN, "big"), filler))


def _filler(load: Load) -> bytes:
    # Both sides make it from the run; it hides nothing.
    return random.Random(bytes.fromhex(load.run)).randbytes(load.size - HEADER_LEN)  # noqa: S311


class Tally:
    """What one receiver got: every message is looked at, byte by byte."""

    def __init__(self, load: Load) -> None:
        self._run = bytes.fromhex(load.run)
        self._filler = _filler(load)
        self._seen = bytearray(load.messages)
        self._expected = 0
        self.received = 0
        """Different messages of this run."""
        self.duplicates = 0
        self.out_of_order = 0
        """Messages that came after a later one."""
        self.damaged = 0
        """Messages that nobody sent so: foreign, cut or changed."""

    @property
    def complete(self) -> bool:
        return self.received == len(self._seen)

    def take(self, payload: bytes) -> int | None:
        """Count one message; returns its number if it is a new one."""
        number = int.from_bytes(payload[RUN_LEN:HEADER_LEN], "big")
        intact = payload[:RUN_LEN] == self._run and payload[HEADER_LEN:] == self._filler
        if not intact or number >= len(self._seen):
            self.damaged += 1
            return None
        if self._seen[number]:
            self.duplicates += 1
            return None
        self._seen[number] = 1
        self.received += 1
        self.out_of_order += number < self._expected
        self._expected = max(self._expected, number + 1)
        return number


class Arrivals:
    """When the last of several devices had each message."""

    def __init__(self, messages: int, devices: int) -> None:
        self._left = [devices] * messages
        self._times = [0.0] * messages

    def note(self, number: int, now: float) -> None:
        """One device has message ``number`` since ``now``."""
        self._left[number] -= 1
        # Who is read last is not always who had it last.
        self._times[number] = max(self._times[number], now)

    @property
    def times(self) -> Sequence[float]:
        """By number; 0 for a message that some device does not have."""
        return [0.0 if left else when for left, when in zip(self._left, self._times, strict=True)]
