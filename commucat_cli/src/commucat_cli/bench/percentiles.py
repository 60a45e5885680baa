"""Figures out of many: percentiles of one run, median and range of several runs."""

import math
from collections.abc import Mapping, Sequence

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
"""What is reported of a latency, beside its maximum."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all values do not exceed (nearest rank).

    Always one that was measured: interpolation would make up values between a fast path and a slow one.

    Args:
        ordered: ascending, not empty.
        percent: from 0 to 100.
    """
    # 99.9 / 100 * 1000 is 999.0000000000001: a rank beyond the right one without the rounding.
    rank = math.ceil(round(percent / 100 * len(ordered), 6))
    return ordered[max(rank, 1) - 1]


def latency_figures(name: str, seconds: Sequence[float], *, unit: float = 1e6) -> dict[str, float | None]:
    """``{name}_p50`` to ``{name}_max`` in ``unit`` parts of a second; null when nothing was measured."""
    ordered = sorted(seconds)
    figures: dict[str, float | None] = {
        f"{name}_{label}": round(percentile(ordered, percent) * unit, 1) if ordered else None
        for label, percent in PERCENTILES.items()
    }
    figures[f"{name}_max"] = round(ordered[-1] * unit, 1) if ordered else None
    return figures


STEP = 1e-4
"""Seconds; of latencies that are too many to be kept each, it is only counted how many there are in each
step."""


def step_of(seconds: float) -> int:
    """The step that a latency is counted in."""
    return max(round(seconds / STEP), 0)


def counted_latency_figures(
    name: str, steps: Mapping[int, int], *, unit: float = 1e3
) -> dict[str, float | None]:
    """As :func:`latency_figures`, of how many there were in each step."""
    total = sum(steps.values())
    ranks = {
        label: max(math.ceil(round(percent / 100 * total, 6)), 1) for label, percent in PERCENTILES.items()
    }
    figures: dict[str, float | None] = {f"{name}_{label}": None for label in (*PERCENTILES, "max")}
    seen = 0
    for step in sorted(steps):
        seen += steps[step]
        for label, rank in ranks.items():
            if figures[f"{name}_{label}"] is None and seen >= rank:
                figures[f"{name}_{label}"] = round(step * STEP * unit, 2)
        figures[f"{name}_max"] = round(step * STEP * unit, 2)
    return figures


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the mean of the middle two."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
