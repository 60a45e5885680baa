"""The figures of a scenario, as one JSON object or as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import attrs

from commucat_cli.bench.environment import environment
from commucat_cli.bench.jobs import Effort
from commucat_cli.bench.percentiles import median

if TYPE_CHECKING:
    from commucat_cli.bench.plan import Plan

BUSY = 0.8
"""Part of a core above which a client process may have been what was measured."""

Figure = float | list[float] | None


@attrs.frozen(kw_only=True)
class Faults:
    """What must not happen; any of it makes a run a failure."""

    lost: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    damaged: int = 0
    unanswered: int = 0
    """Messages of which the sender never heard."""

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(
            **{name: mine + getattr(other, name) for name, mine in attrs.asdict(self).items()},
        )


@attrs.frozen
class ClientUse:
    """How much of a core a client process used while it mattered."""

    name: str
    cpu_seconds: float
    busy: float

    @classmethod
    def of(cls, name: str, effort: Effort) -> Self:
        seconds = effort.ended - effort.started
        busy = effort.cpu_seconds / seconds if seconds > 0 else 0.0
        return cls(name, round(effort.cpu_seconds, 3), round(busy, 2))


@attrs.frozen(kw_only=True)
class Run:
    """One run of a scenario."""

    figures: Mapping[str, Figure]
    """What was measured; the same names in every run of the scenario."""
    faults: Faults
    acknowledged: int = 0
    refused: int = 0
    clients: tuple[ClientUse, ...] = ()
    problems: tuple[str, ...] = ()
    """Why clients gave up."""


@attrs.frozen(kw_only=True)
class Result:
    """All runs of a scenario, judged."""

    whole: bool
    """Every message came exactly once, intact and in order."""
    figures: dict[str, Any]
    """Ready for JSON; the names are the interface (benchmarks/README.md)."""
    problems: tuple[str, ...]
    """Why clients gave up."""

    @classmethod
    def of(cls, plan: "Plan", runs: Sequence[Run], limits: Mapping[str, int] | None) -> Self:
        """Put the runs together: medians and ranges of what was measured, sums of what was counted."""
        faults = sum((run.faults for run in runs), Faults())
        names = runs[0].figures.keys()
        values = {name: [run.figures[name] for run in runs] for name in names}
        clients = _busiest(client for run in runs for client in run.clients)
        figures: dict[str, Any] = {
            "scenario": plan.name,
            **plan.asked(),
            "profile": None if limits is None else plan.store.profile,
            "workers": None if limits is None else plan.store.workers,
            "runs": len(runs),
        }
        figures |= {name: _middle(found) for name, found in values.items()}
        figures |= {
            "range": {name: span for name, found in values.items() if (span := _span(found)) is not None},
            **attrs.asdict(faults),
            "acknowledged": sum(run.acknowledged for run in runs),
            "refused": sum(run.refused for run in runs),
            "clients": [attrs.asdict(client) for client in clients],
            "warnings": [text for client in clients if (text := _warning(client)) is not None],
            "server_limits": None if limits is None else dict(limits),
            "environment": environment(own_server=limits is not None),
        }
        whole = faults == Faults()
        problems = tuple(dict.fromkeys(problem for run in runs for problem in run.problems))
        return cls(whole=whole, figures=figures, problems=problems)

    def table(self) -> str:
        """Lines for a person."""
        shown = {name: value for name, value in self.figures.items() if name != "range"}
        width = max(len(name) for name in shown)
        ranges = self.figures["range"] if self.figures["runs"] > 1 else {}
        return "\n".join(
            f"{name:{width}}  {_shown(value, ranges.get(name))}" for name, value in shown.items()
        )


def _middle(values: Sequence[Figure]) -> Figure:
    known = [value for value in values if value is not None]
    if not known:
        return None
    lists = [value for value in known if isinstance(value, list)]
    if lists:
        return [round(median(column), 4) for column in zip(*lists, strict=False)]
    return round(median([value for value in known if not isinstance(value, list)]), 4)


def _span(values: Sequence[Figure]) -> list[float] | None:
    known = [value for value in values if value is not None and not isinstance(value, list)]
    return [min(known), max(known)] if known else None


def _busiest(clients: Iterable[ClientUse]) -> list[ClientUse]:
    """Of each process its busiest run."""
    found: dict[str, ClientUse] = {}
    for client in clients:
        if client.name not in found or client.busy > found[client.name].busy:
            found[client.name] = client
    return list(found.values())


def _warning(client: ClientUse) -> str | None:
    if client.busy <= BUSY:
        return None
    return f"client-bound: {client.name} used {client.busy:.0%} of a core; the server may be faster than this"


def _shown(value: object, span: Sequence[float] | None = None) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(_shown(each) for each in value) or "none"
    text = "unknown" if value is None else str(value)
    return text if span is None else f"{text}  ({span[0]} to {span[1]})"
