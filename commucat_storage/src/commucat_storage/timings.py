"""How long something took, again and again, as plain integers that cost little to write."""

from bisect import bisect_left
from collections.abc import Sequence

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: upper ends of the ranges that are counted apart. What took longer is counted behind them."""


class Timings:
    """Counts durations by range. One thread writes; others may read at any time, a little late."""

    __slots__ = ("bounds", "counts", "longest", "total")

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """How often a duration fell in each range, the last one without an end."""
        self.total = 0.0
        """The sum of all durations, in seconds."""
        self.longest = 0.0
        """The longest one, in seconds."""

    def note(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    def cumulative(self) -> list[tuple[float, int]]:
        """For each bound, and infinity, how often the duration was at most so long."""
        found: list[tuple[float, int]] = []
        count = 0
        for bound, each in zip((*self.bounds, float("inf")), tuple(self.counts), strict=True):
            count += each
            found.append((bound, count))
        return found
