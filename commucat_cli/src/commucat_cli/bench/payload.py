"""Messages that can be told apart: ``run (8 bytes) | number (8 bytes, big-endian, from 0) | filler``.

The filler is random bytes, the same for all messages of a run: they compress as badly as sealed
ones, and a receiver can compare them.
"""

import random

RUN_LEN = 8
_NUMBER_LEN = 8
HEADER_LEN = RUN_LEN + _NUMBER_LEN


def make_payloads(run: bytes, messages: int, size: int) -> list[bytes]:
    """All payloads of a run, made beforehand so that making them is not measured."""
    filler = _filler(run, size)
    return [b"".join((run, number.to_bytes(_NUMBER_LEN, "big"), filler)) for number in range(messages)]


def _filler(run: bytes, size: int) -> bytes:
    # Both sides make it from the run; it hides nothing.
    return random.Random(run).randbytes(size - HEADER_LEN)  # noqa: S311


class Tally:
    """What one receiver got: every message is looked at, byte by byte."""

    def __init__(self, run: bytes, messages: int, size: int) -> None:
        self._run = run
        self._filler = _filler(run, size)
        self._seen = bytearray(messages)
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

    def take(self, payload: bytes) -> None:
        """Count one message."""
        number = int.from_bytes(payload[RUN_LEN:HEADER_LEN], "big")
        intact = payload[:RUN_LEN] == self._run and payload[HEADER_LEN:] == self._filler
        if not intact or number >= len(self._seen):
            self.damaged += 1
        elif self._seen[number]:
            self.duplicates += 1
        else:
            self._seen[number] = 1
            self.received += 1
            self.out_of_order += number < self._expected
            self._expected = number + 1
