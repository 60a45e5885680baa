"""How long packets should wait before they are played, from how unevenly they arrive."""

from collections import deque
from typing import Final

import attrs

WINDOW: Final = 200
"""Packets whose arrival counts: four seconds of speech. Older ones are forgotten, and with them a clock
that runs faster or slower than ours."""
COVERED: Final = 0.95
"""Share of packets that shall arrive before they are due; the others would cost everybody more delay than
their concealment is worth."""
WARM: Final = 25
"""Packets after which the measured delay replaces the one assumed first."""
_REFRESH: Final = 8


@attrs.define(kw_only=True)
class PlayoutDelay:
    """Measures arrivals, and says when the packet of a timestamp is due. Seconds everywhere."""

    first: float
    """Assumed until enough packets have come."""
    shortest: float
    longest: float
    _transits: deque[float] = attrs.field(init=False, factory=lambda: deque(maxlen=WINDOW))
    _base: float = attrs.field(init=False, default=0.0)
    _spread: float = attrs.field(init=False, default=0.0)
    _since: int = attrs.field(init=False, default=0)

    @property
    def known(self) -> bool:
        """Whether a packet has come at all."""
        return bool(self._transits)

    def forget(self) -> None:
        self._transits.clear()
        self._spread = 0.0
        self._since = 0

    def lateness(self, transit: float) -> float:
        """How much longer one with this transit time took than the fastest packet."""
        return transit - self._base if self._transits else 0.0

    def measure(self, transit: float) -> None:
        """Take in the arrival time minus the timestamp of a packet."""
        if not self._transits or transit < self._base:
            self._base = transit
        self._transits.append(transit)
        self._since += 1
        # Sorting two hundred numbers for each packet would cost more than it tells.
        if self._since >= _REFRESH or len(self._transits) < _REFRESH:
            self._since = 0
            ordered = sorted(self._transits)
            self._base = ordered[0]
            self._spread = ordered[min(int(len(ordered) * COVERED), len(ordered) - 1)] - ordered[0]

    def target(self, spare: float) -> float:
        """Return the delay to aim at; ``spare`` is added to what the measurement says."""
        wanted = self.shortest + self._spread + spare
        if len(self._transits) < WARM:
            wanted = max(wanted, self.first)
        return min(wanted, self.longest)

    def due(self, now: float, spare: float) -> float:
        """Return the timestamp, in seconds of the sender's clock, that should be played now."""
        return now - self._base - self.target(spare)
