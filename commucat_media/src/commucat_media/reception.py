"""What has arrived of a stream: numbers without their wrap, repeats, losses and jitter (RFC 3550)."""

from typing import Final

import attrs

from commucat_media.packet import U32_MASK

REPEAT_WINDOW: Final = 1_024
"""Numbers behind the newest one that are remembered. What is older counts as a repeat: it is of no use."""
MAX_DROPOUT: Final = 3_000
"""Packets that may be missing at once (RFC 3550, appendix A.1); a longer jump is a new beginning."""
LOSS_WINDOW: Final = 100
"""Packets among which a missing one counts as a sign that the network loses some."""
MISORDER: Final = 3
"""Packets by which another may be overtaken before it counts as missing."""
_HALF: Final = 1 << 31


def unwrapped(value: int, near: int) -> int:
    """Return the number nearest to ``near`` whose lower 32 bits are ``value``."""
    return near + ((value - near + _HALF) & U32_MASK) - _HALF


@attrs.frozen(kw_only=True)
class ReceptionReport:
    """What arrived since the report before, as CallStats tells it to the sender."""

    expected: int
    """Packets that the numbers say were sent."""
    lost: int
    """Those of them that have not arrived."""
    jitter: float
    """Seconds by which the time between two packets varies, smoothed (RFC 3550, section 6.4.1)."""

    @property
    def loss(self) -> float:
        """Share of packets lost, 0 to 1."""
        return self.lost / self.expected if self.expected else 0.0


class Reception:
    """Counts the packets of one stream; never looks at a clock."""

    def __init__(self, ticks_per_second: int) -> None:
        self._ticks = ticks_per_second
        self.forget()

    def forget(self) -> None:
        """Begin anew with the next packet."""
        self._highest: int | None = None
        self._timestamp = 0
        self._seen = 0
        self._span = 0
        self._expected = self._received = 0
        self._transit: float | None = None
        self._jitter = 0.0
        self._awaited: int | None = None

    def place(self, number: int, timestamp: int) -> tuple[int, int] | None:
        """Return number and timestamp without their wrap; None if the number is a repeat or out of place.

        A number far from all before is out of place. When the one after it comes next, the sender has begun
        anew: everything is forgotten (RFC 3550, appendix A.1).
        """
        if self._highest is not None:
            full = unwrapped(number, self._highest)
            if not self._highest - MAX_DROPOUT <= full <= self._highest + MAX_DROPOUT:
                if number != self._awaited:
                    self._awaited = (number + 1) & U32_MASK
                    return None
                self.forget()
        self._awaited = None
        if self._highest is None:
            # From the middle of the numbers, so that older ones that come late are not negative.
            self._highest = full = number + U32_MASK + 1
            self._timestamp = timestamp + U32_MASK + 1
            self._seen = self._span = 1
            self._expected = self._received = 1
            return full, self._timestamp
        full_timestamp = unwrapped(timestamp, self._timestamp)
        ahead = full - self._highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & ((1 << REPEAT_WINDOW) - 1)
            self._highest = full
            self._timestamp = full_timestamp
            self._expected += ahead
            self._span += ahead
        else:
            bit = 1 << -ahead
            if -ahead >= REPEAT_WINDOW or self._seen & bit:
                return None
            self._seen |= bit
        self._received += 1
        return full, full_timestamp

    @property
    def missing(self) -> bool:
        """Whether one of the last :data:`LOSS_WINDOW` numbers has not arrived."""
        counted = min(self._span - MISORDER, LOSS_WINDOW)
        if counted <= 0:
            return False
        every = (1 << counted) - 1
        return self._seen >> MISORDER & every != every

    def measure(self, timestamp: int, now: float) -> None:
        """Take in when a packet arrived; ``timestamp`` without its wrap, ``now`` in seconds."""
        transit = now - timestamp / self._ticks
        if self._transit is not None:
            self._jitter += (abs(transit - self._transit) - self._jitter) / 16
        self._transit = transit

    def report(self) -> ReceptionReport:
        """Return what arrived since the report before. A late packet makes up for one lost before."""
        report = ReceptionReport(
            expected=self._expected,
            lost=min(max(self._expected - self._received, 0), self._expected),
            jitter=self._jitter,
        )
        self._expected = self._received = 0
        return report
