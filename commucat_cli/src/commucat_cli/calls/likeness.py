"""How much a recording is like what was played, and how much later it comes. No input or output.

Both are brought to 8 kHz. Pieces of what was played, where it is loud, are looked for in the recording by
normalised cross-correlation: first at 1 kHz over all delays that may be, then at 8 kHz around the best ones.
That needs no Fourier transform, and a delay that changes during a call shows as pieces that differ.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import mul
from typing import Final

import attrs

RATE: Final = 8000
"""Samples a second of what is compared; voice has little above half of it."""
COARSE: Final = 8
"""So many of them make a sample of the first search."""
PIECE: Final = 0.6
"""Seconds of each piece."""
_LENGTH: Final = round(PIECE * RATE)
MAX_PIECES: Final = 12
CANDIDATES: Final = 12
"""Places that are looked at closely: the rough search cannot tell the periods of a voice apart for sure."""
LOUD: Final = 0.25
"""Part of the loudest piece's level below which a piece is taken for silence, which is like everything."""


@attrs.frozen(kw_only=True)
class Likeness:
    """The median of the delays in ms, and the mean of the correlations (-1 to 1, 1 for the same wave)."""

    delay_ms: float
    delay_min_ms: float
    delay_max_ms: float
    correlation: float
    correlation_min: float
    pieces: int


def to_rate(samples: Sequence[float], rate: int, wanted: int = RATE) -> list[float]:
    """The same sound with ``wanted`` samples a second, each the mean of those it stands for.

    For comparisons only: the filter is a plain box. ``rate`` is not below ``wanted``.
    """
    sums = [0.0, *accumulate(samples)]
    count = len(samples) * wanted // rate
    edges = [number * rate // wanted for number in range(count + 1)]
    return [(sums[after] - sums[before]) / (after - before) for before, after in pairwise(edges)]


def compare(played: Sequence[float], recorded: Sequence[float], *, max_delay: float) -> Likeness | None:
    """Look for ``played`` in ``recorded``, both of :data:`RATE`, up to ``max_delay`` seconds later or
    earlier.

    None when one of them is silent or shorter than a piece.
    """
    ours, theirs = _Wave.of(played), _Wave.of(recorded)
    rough_ours, rough_theirs = ours.coarse(), theirs.coarse()
    reach = round(max_delay * RATE)
    found: list[tuple[int, float]] = []
    for start in _loud_pieces(ours):
        piece = rough_ours.piece(start // COARSE, _LENGTH // COARSE)
        places = range((start - reach) // COARSE, (start + reach) // COARSE + 1)
        rough = sorted(_fits(piece, rough_theirs, places), reverse=True)[:CANDIDATES]
        around = {
            place for _, middle in rough for place in range((middle - 1) * COARSE, (middle + 1) * COARSE + 1)
        }
        exact = max(_fits(ours.piece(start, _LENGTH), theirs, sorted(around)), default=None)
        if exact is not None:
            found.append((exact[1] - start, exact[0]))
    if not found:
        return None
    delays = sorted(delay / RATE * 1000 for delay, _ in found)
    correlations = [correlation for _, correlation in found]
    return Likeness(
        delay_ms=delays[len(delays) // 2],
        delay_min_ms=delays[0],
        delay_max_ms=delays[-1],
        correlation=sum(correlations) / len(correlations),
        correlation_min=min(correlations),
        pieces=len(found),
    )


@attrs.frozen
class _Wave:
    """Samples around zero, and the energy of all before each of them."""

    samples: Sequence[float]
    energies: Sequence[float]

    @classmethod
    def of(cls, samples: Sequence[float]) -> "_Wave":
        mean = sum(samples) / len(samples) if samples else 0.0
        centred = [sample - mean for sample in samples]
        return cls(centred, [0.0, *accumulate(map(mul, centred, centred))])

    def coarse(self) -> "_Wave":
        return _Wave.of(to_rate(self.samples, COARSE, 1))

    def piece(self, start: int, length: int) -> Sequence[float]:
        return self.samples[start : start + length]

    def energy(self, start: int, length: int) -> float:
        return self.energies[start + length] - self.energies[start]


def _loud_pieces(played: _Wave) -> list[int]:
    """Where pieces begin, evenly spread, those of silence left out."""
    last = len(played.samples) - _LENGTH
    if last < 0:
        return []
    count = min(MAX_PIECES, last // _LENGTH + 1)
    starts = [last * number // max(count - 1, 1) for number in range(count)]
    levels = {start: max(played.energy(start, _LENGTH), 0.0) ** 0.5 for start in starts}
    loudest = max(levels.values())
    return [start for start in starts if loudest > 0 and levels[start] >= LOUD * loudest]


def _fits(piece: Sequence[float], among: _Wave, places: Iterable[int]) -> Iterator[tuple[float, int]]:
    """How well the piece fits (the correlation) at each of these places; silent ones are left out."""
    own, length = sum(map(mul, piece, piece)), len(piece)
    for place in places:
        if place < 0 or place + length > len(among.samples):
            continue
        there = among.energy(place, length)
        # Differences of sums are not exact: a millionth of the piece is silence.
        if own > 0 and there > own * 1e-6:
            yield sum(map(mul, piece, among.piece(place, length))) / (own * there) ** 0.5, place
