"""Pictures of a report, drawn by matplotlib (extra ``bench``), which nothing else needs."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commucat_cli.bench.percentiles import PERCENTILES
from commucat_cli.bench.report.references import REFERENCES
from commucat_cli.errors import CliError

Results = Mapping[str, Mapping[str, Any]]

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)

HOW_TO_INSTALL = f"{sys.executable} -m pip install 'matplotlib>=3.9'"


class PlotsUnavailableError(CliError):
    """matplotlib is not installed."""


def draw(results: Results, folder: Path) -> list[str]:
    """Draw what the results have; returns the names of the PNG files.

    Raises:
        PlotsUnavailableError: the text says what to install.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise PlotsUnavailableError(f"no plots without matplotlib; to have them: {HOW_TO_INSTALL}") from exc
    names: list[str] = []
    for name, painter in (
        ("targets.png", _targets),
        ("latency.png", _latency),
        ("enqueue.png", _enqueue),
    ):
        # Figure alone and not pyplot: no window system, no global state.
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        if painter(figure.subplots(), results):
            figure.savefig(folder / name, dpi=120)
            names.append(name)
    return names


def _targets(axes: Any, results: Results) -> bool:
    """Each figure as a part of its target, so that longer is better."""
    shown = [
        (reference.label, value / reference.target if reference.sign == "≥" else reference.target / value)
        for reference in REFERENCES
        if (value := reference.value(results)) and reference.target
    ]
    if not shown:
        return False
    labels = [label for label, _ in reversed(shown)]
    parts = [part for _, part in reversed(shown)]
    axes.barh(labels, parts, color=["tab:green" if part >= 1 else "tab:orange" for part in parts])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    low, high = min(*parts, 0.5), max(*parts, 2.0)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("times the target (longer is better)")
    return True


def _latency(axes: Any, results: Results) -> bool:
    found = results.get("latency")
    if found is None:
        return False
    for figure, label in (("delivered_us", "delivered"), ("acked_us", "acknowledged")):
        heights = [found[f"{figure}_{name}"] for name in (*PERCENTILES, "max")]
        if None in heights:
            return False
        labels = [*(name.replace("_", ".") for name in PERCENTILES), "max"]
        axes.plot(labels, [height / 1000 for height in heights], marker="o", label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_ylabel(f"ms, at {found['rate']:g} messages a second")
    axes.legend()
    return True


def _enqueue(axes: Any, results: Results) -> bool:
    found = results.get("offline")
    if found is None or not found["enqueue_segments_per_s"]:
        return False
    rates = found["enqueue_segments_per_s"]
    each = found["messages"] / len(rates)
    axes.plot([each * (part + 1) for part in range(len(rates))], rates, marker="o")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("messages that wait")
    axes.set_ylabel("enqueued a second")
    return True
