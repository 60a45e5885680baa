"""How much a recording is like what was played, and how much later it comes. No input or output.

Both are brought to 8 kHz. Pieces of what was played, where it is loud, are looked for in the recording by
normalised cross-correlation: first at 1 kHz over all delays that may be, then at 8 kHz around the best one.
That needs no Fourier transform, and a delay that changes during a call shows as pieces that differ.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from operator import mul
from typing import Final

import attrs

RATE: Final = 8000
"""Samples a second of what is compared; voice has little above half of it."""
COARSE: Final = 8
"""So many of them make a sample of the first search."""
PIECE: Final = 1.5
"""Seconds of each piece."""
MAX_PIECES: Final = 8
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
    played, recorded = _centred(played), _centred(recorded)
    length = round(PIECE * RATE)
    starts = _loud_pieces(played, length)
    coarse_played, coarse_recorded = to_rate(played, COARSE), to_rate(recorded, COARSE)
    found = [
        place
        for start in starts
        if (place := _find(played, recorded, coarse_played, coarse_recorded, start, length, max_delay))
        is not None
    ]
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


def _centred(samples: Sequence[float]) -> list[float]:
    mean = sum(samples) / len(samples) if samples else 0.0
    return [sample - mean for sample in samples]


def _loud_pieces(played: Sequence[float], length: int) -> list[int]:
    """Where pieces begin, evenly spread, those of silence left out."""
    last = len(played) - length
    if last < 0:
        return []
    count = min(MAX_PIECES, last // length + 1)
    starts = [last * number // max(count - 1, 1) for number in range(count)]
    levels = {start: _energy(played[start : start + length]) ** 0.5 for start in starts}
    loudest = max(levels.values())
    return [start for start in starts if loudest > 0 and levels[start] >= LOUD * loudest]


def _find(
    played: Sequence[float],
    recorded: Sequence[float],
    coarse_played: Sequence[float],
    coarse_recorded: Sequence[float],
    start: int,
    length: int,
    max_delay: float,
) -> tuple[int, float] | None:
    """The delay in samples, and the correlation there."""
    reach = round(max_delay * RATE)
    piece = coarse_played[start // COARSE : (start + length) // COARSE]
    places = range((start - reach) // COARSE, (start + reach) // COARSE + 1)
    rough = _best(piece, coarse_recorded, places)
    if rough is None:
        return None
    middle = rough[0] * COARSE
    exact = _best(
        played[start : start + length], recorded, range(middle - 2 * COARSE, middle + 2 * COARSE + 1)
    )
    return None if exact is None else (exact[0] - start, exact[1])


def _best(piece: Sequence[float], among: Sequence[float], places: Iterable[int]) -> tuple[int, float] | None:
    """Where in ``among`` the piece fits best, and how well; None when there is nothing but silence."""
    own = _energy(piece)
    energies = [0.0, *accumulate(value * value for value in among)]
    best: tuple[int, float] | None = None
    for place in places:
        if place < 0 or place + len(piece) > len(among):
            continue
        there = energies[place + len(piece)] - energies[place]
        # What is left of differences of sums is not exact; a millionth of the piece is silence.
        if own <= 0 or there <= own * 1e-6:
            continue
        correlation = sum(map(mul, piece, among[place : place + len(piece)])) / (own * there) ** 0.5
        if best is None or correlation > best[1]:
            best = place, correlation
    return best


def _energy(samples: Sequence[float]) -> float:
    return sum(map(mul, samples, samples))
