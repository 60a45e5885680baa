"""The page of a report."""

from collections.abc import Iterable, Mapping
from typing import Any

from commucat_cli.bench.report.references import CONDITIONS, PEERS, REFERENCES, Reference

_SMALL = (
    "The sizes were small, to see whether everything works: these figures cannot be set beside the targets."
)

Results = Mapping[str, Mapping[str, Any]]


def page(results: Results, *, command: str, plots: Iterable[str], small: bool) -> str:
    """Markdown, with a line at the end."""
    first = next(iter(results.values()))
    where = first["environment"]
    machine = where["machine"]
    parts = [
        "# Benchmark report",
        "",
        f"    {command}",
        "",
        f"Commit {where['commit'] or 'unknown'}, Python {where['python']}, SQLite {where['sqlite']}, "
        f"{where['openssl']}; {machine['cpus']} CPUs ({machine['cpu_model'] or 'unknown'}), "
        f"Linux {machine['kernel']}, load average {machine['load_average']} after the first scenario. "
        f"Driver of sleeping processors: {machine['idle_driver'] or 'none'}; whoever ran this "
        f"{'may' if machine['may_keep_awake'] else 'may not'} keep them awake.",
        "",
        comparison(results),
        "",
        *([_SMALL, ""] if small else []),
        CONDITIONS,
        "",
        *_warnings(results),
        *(f"![{name.removesuffix('.png')}]({name})" for name in plots),
        "",
        "Every figure, with the options and limits it was measured with, is in `results.json`; "
        "benchmarks/README.md says what the names mean.",
        "",
    ]
    return "\n".join(parts)


def comparison(results: Results) -> str:
    """The table of targets, ours and others."""
    rows = [["scenario", "target", "CommuCat", "lowest to highest", "met", *PEERS]]
    rows.append(["---"] * len(rows[0]))
    for reference in REFERENCES:
        if reference.value(results) is not None:
            rows.append(_row(reference, results))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(reference: Reference, results: Results) -> list[str]:
    span = reference.span(results)
    return [
        reference.label,
        f"{reference.sign} {_number(reference.target)} {reference.unit}".rstrip(),
        _number(reference.value(results)),
        "" if span is None else f"{_number(span[0])} to {_number(span[1])}",
        "yes" if reference.met(results) else "**no**",
        *reference.peers,
    ]


def _warnings(results: Results) -> list[str]:
    found = [f"- {name}: {text}" for name, figures in results.items() for text in figures["warnings"]]
    faults = [
        f"- {name}: **{figures[fault]} {fault.replace('_', ' ')}**"
        for name, figures in results.items()
        for fault in ("lost", "duplicates", "out_of_order", "damaged", "unanswered")
        if figures[fault]
    ]
    return [*faults, *found, ""] if faults or found else []


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"
