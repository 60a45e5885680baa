"""How the packets of a stream arrive, over a whole call. No input or output; times are seconds of one clock.

Loss is counted as in RFC 3550, appendix A.3: what the numbers say was sent, less what came. Jitter is the
distribution of how much later each packet came than the fastest one of its stream.
"""

from typing import Final

import attrs

from commucat_media import AUDIO_TICKS
from commucat_media.reception import unwrapped

LONGEST: Final = 2000
"""Milliseconds; what was later counts as this."""


@attrs.define
class Delays:
    """A distribution of milliseconds, in bins of one: bounded, however long the call is."""

    _bins: list[int] = attrs.field(factory=lambda: [0] * (LONGEST + 1))
    count: int = 0
    _sum: float = 0.0

    def note(self, milliseconds: float) -> None:
        value = min(max(milliseconds, 0.0), float(LONGEST))
        self._bins[round(value)] += 1
        self._sum += value
        self.count += 1

    @property
    def mean(self) -> float | None:
        """None when nothing was measured."""
        return self._sum / self.count if self.count else None

    def percentile(self, percent: int) -> int | None:
        """The smallest value that so many percent do not exceed (nearest rank)."""
        wanted = max(1, -(-self.count * percent // 100))
        seen = 0
        for value, number in enumerate(self._bins):
            seen += number
            if seen >= wanted:
                return value
        return None

    def add(self, other: "Delays") -> None:
        """Take the values of another one as well."""
        self._bins = [ours + theirs for ours, theirs in zip(self._bins, other._bins, strict=True)]
        self._sum += other._sum
        self.count += other.count


class StreamQuality:
    """One stream of sound, as its receiver sees it."""

    def __init__(self) -> None:
        self.received = 0
        """Different packets."""
        self.bytes = 0
        """Of their payloads."""
        self.delays = Delays()
        self._first: int | None = None
        self._highest = 0
        self._time = 0
        self._fastest = 0.0

    @property
    def lost(self) -> int:
        """Packets that were sent, as far as the numbers tell, and have not come (yet)."""
        if self._first is None:
            return 0
        return max(self._highest - self._first + 1 - self.received, 0)

    def note(self, number: int, timestamp: int, size: int, now: float) -> None:
        """A packet that has not come before, of ``size`` bytes; number and timestamp of 32 bits."""
        self.received += 1
        self.bytes += size
        if self._first is None:
            self._first = self._highest = number
            self._time = timestamp
            self._fastest = now - timestamp / AUDIO_TICKS
        place = unwrapped(number, self._highest)
        self._highest = max(self._highest, place)
        self._first = min(self._first, place)
        at = unwrapped(timestamp, self._time)
        self._time = max(self._time, at)
        transit = now - at / AUDIO_TICKS
        self._fastest = min(self._fastest, transit)
        self.delays.note((transit - self._fastest) * 1000)
