"""What a run has shown, as one JSON object or as a table."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from commucat_cli.chaos.faults import Verdict, counts
from commucat_cli.chaos.plan import Strike

SHOWN_FAULTS = 20


@attrs.frozen(kw_only=True)
class Run:
    """What was done."""

    seed: int
    devices: int
    nodes: int
    domains: int
    messages: int
    strikes: dict[Strike, int]
    """Those that took place."""
    service_strikes: dict[str, int]
    """Those that hit the database or Redis, by name."""
    reconnects: int
    seconds: float
    limits: dict[str, int]
    """Of the server."""
    problem: str | None
    """Why the run did not come to its end."""


@attrs.frozen(kw_only=True)
class Result:
    """A run and its verdict."""

    run: Run
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """The promise was kept, to the very end of the plan."""
        return self.verdict.holds and self.run.problem is None

    @property
    def figures(self) -> dict[str, Any]:
        """Ready for JSON; the names are the interface."""
        run, verdict = self.run, self.verdict
        return {
            "seed": run.seed,
            "devices": run.devices,
            "nodes": run.nodes,
            "domains": run.domains,
            "messages": run.messages,
            "acknowledged": verdict.acknowledged,
            "delivered": verdict.delivered,
            "group_changes": verdict.group_changes,
            "notices": verdict.notices,
            "redelivered": verdict.redelivered,
            "resent": verdict.resent,
            "refused": verdict.refused,
            "returned": verdict.returned,
            **counts(verdict),
            "kills": run.strikes[Strike.KILL],
            "stops": run.strikes[Strike.STOP],
            "full_disks": run.strikes[Strike.FULL_DISK],
            "service_faults": run.service_strikes,
            "reconnects": run.reconnects,
            "seconds": round(run.seconds, 2),
            "server_limits": run.limits,
            "holds": self.holds,
            "problem": run.problem,
            "faults": [f"{fault.kind.value}: {fault.text}" for fault in verdict.faults[:SHOWN_FAULTS]],
        }


def totals(results: Sequence[Result]) -> dict[str, Any]:
    """The figures of several runs together: sums of what is counted, the faults with their seeds."""
    every = [result.figures for result in results]
    sums = {
        name: round(sum(figures[name] for figures in every), 2)
        for name, value in every[0].items()
        if isinstance(value, int | float) and name not in ("seed", "devices", "nodes", "domains", "holds")
    }
    return {
        "seed": every[0]["seed"],
        "runs": len(every),
        "devices": every[0]["devices"],
        "nodes": every[0]["nodes"],
        "domains": every[0]["domains"],
        **sums,
        "service_faults": dict(sum((Counter(figures["service_faults"]) for figures in every), Counter())),
        "server_limits": every[0]["server_limits"],
        "holds": all(result.holds for result in results),
        "failed_seeds": [result.run.seed for result in results if not result.holds],
        "faults": [f"seed {figures['seed']}: {fault}" for figures in every for fault in figures["faults"]],
    }


def table(figures: dict[str, Any]) -> str:
    """Lines for a person."""
    faults: list[str] = figures["faults"]
    rest = {name: value for name, value in figures.items() if name != "faults"}
    width = max(len(name) for name in rest)
    return "\n".join([*(f"{name:{width}}  {_shown(value)}" for name, value in rest.items()), *faults])


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
