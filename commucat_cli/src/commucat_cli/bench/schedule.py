"""When messages of an open loop are due: a fixed rate that no slow server can slow down.

Latency counts from the moment a message was due. A sender that waited for the server, and counted
from when it could send at last, would leave out just the messages that had to wait (coordinated omission).
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

AWAKE: Final = 0.0005
"""Seconds before a message is due from which its sender does not sleep: who sleeps is woken late, by 0.1 ms
mostly and at times by more, and that is nothing the server did."""
AWAKE_SHARE: Final = 0.1
"""Part of a processor that being awake may take."""
_TIMER_SLACK: Final = Path("/proc/self/timerslack_ns")


def wake_in_time() -> None:
    """Have Linux wake the main thread, which must be the caller, when it asked for it: by default it is woken
    50 microseconds later, together with others (proc_pid_timerslack_ns(5))."""
    with suppress(OSError):
        _TIMER_SLACK.write_text("1", "ascii")


@attrs.frozen
class Schedule:
    """``count`` messages, ``rate`` per second; the first is due at 0."""

    rate: float = attrs.field(validator=attrs.validators.gt(0))
    count: int = attrs.field(validator=attrs.validators.ge(0))

    def due(self, number: int) -> float:
        """Seconds after the start at which message ``number`` (from 0) is due."""
        return number / self.rate

    def due_by(self, elapsed: float) -> int:
        """How many messages are due ``elapsed`` seconds after the start."""
        if elapsed < 0:
            return 0
        guess = min(math.floor(elapsed * self.rate) + 1, self.count)
        # Multiplication and division round apart; due() decides.
        while guess < self.count and self.due(guess) <= elapsed:
            guess += 1
        while guess > 0 and self.due(guess - 1) > elapsed:
            guess -= 1
        return guess

    def rest(self, left: float) -> float:
        """Seconds that a sender may sleep if the next message is due in ``left``; 0 for none at all."""
        return max(0.0, left - min(AWAKE, AWAKE_SHARE / self.rate))

    def between(self, first: float, last: float) -> range:
        """Numbers of the messages due from ``first`` to before ``last``, in seconds after the start."""
        low = self.due_by(first)
        if low and self.due(low - 1) == first:
            low -= 1
        high = self.due_by(last)
        if high and self.due(high - 1) == last:
            high -= 1
        return range(low, max(low, high))
