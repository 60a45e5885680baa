"""How well the packets of streams arrive. No input or output; times are seconds of one clock.

Loss is counted as in RFC 3550, appendix A.3: what the numbers say was sent, less what came. Jitter is told
in two ways: the smoothed one of RFC 3550, section 6.4.1, which goes into CallStats; and for the summary the
distribution of how much later a packet came than the fastest one of its stream did.
"""

from typing import Final

import attrs

from commucat_media.packet import U32_MASK

LONGEST: Final = 2000
"""Milliseconds; what was later counts as this."""
_HALF: Final = 1 << 31


def unwrapped(value: int, near: int) -> int:
    """The number nearest to ``near`` whose low 32 bits are ``value``: counters on the wire wrap."""
    return near + ((value - near + _HALF) & U32_MASK) - _HALF


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

    def percentile(self, percent: float) -> int | None:
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
    """One stream, as its receiver sees it."""

    def __init__(self, ticks: int) -> None:
        """``ticks``: units of the timestamps in a second."""
        self._ticks = ticks
        self.received = 0
        """Different packets."""
        self.bytes = 0
        """Of their payloads."""
        self.delays = Delays()
        self._first: int | None = None
        self._highest = 0
        self._time = 0
        self._fastest = 0.0
        self._transit = 0.0
        self._jitter = 0.0
        self._reported = (0, 0)

    @property
    def expected(self) -> int:
        """Packets that were sent, as far as their numbers tell."""
        return 0 if self._first is None else self._highest - self._first + 1

    @property
    def lost(self) -> int:
        """Packets that have not come (yet)."""
        return max(self.expected - self.received, 0)

    @property
    def jitter_ms(self) -> float:
        """Interarrival jitter (RFC 3550, section 6.4.1)."""
        return self._jitter * 1000

    def note(self, number: int, timestamp: int, size: int, now: float) -> None:
        """A packet that has not come before, of ``size`` bytes."""
        self.received += 1
        self.bytes += size
        if self._first is None:
            self._first = self._highest = number
            self._time = timestamp
            self._transit = self._fastest = now - timestamp / self._ticks
            self.delays.note(0.0)
            return
        place = unwrapped(number, self._highest)
        self._highest = max(self._highest, place)
        self._first = min(self._first, place)
        at = unwrapped(timestamp, self._time)
        self._time = max(self._time, at)
        transit = now - at / self._ticks
        self._jitter += (abs(transit - self._transit) - self._jitter) / 16
        self._transit = transit
        self._fastest = min(self._fastest, transit)
        self.delays.note((transit - self._fastest) * 1000)

    def interval(self) -> tuple[int, int]:
        """Packets expected and lost since this was asked last; the second is negative when late ones came."""
        expected, lost = self.expected, self.expected - self.received
        before = self._reported
        self._reported = (expected, lost)
        return expected - before[0], lost - before[1]
