"""What a run has shown, as one JSON object or as a table."""

from typing import Any

import attrs

from commucat_cli.chaos.plan import Strike
from commucat_cli.chaos.verdict import Verdict, counts

SHOWN_FAULTS = 20


@attrs.frozen(kw_only=True)
class Run:
    """What was done."""

    seed: int
    devices: int
    messages: int
    strikes: dict[Strike, int]
    """Those that took place."""
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
            "messages": run.messages,
            "acknowledged": verdict.acknowledged,
            "delivered": verdict.delivered,
            "redelivered": verdict.redelivered,
            "resent": verdict.resent,
            "refused": verdict.refused,
            **counts(verdict),
            "kills": run.strikes[Strike.KILL],
            "stops": run.strikes[Strike.STOP],
            "full_disks": run.strikes[Strike.FULL_DISK],
            "reconnects": run.reconnects,
            "seconds": round(run.seconds, 2),
            "server_limits": run.limits,
            "holds": self.holds,
            "problem": run.problem,
            "faults": [f"{fault.kind.value}: {fault.text}" for fault in verdict.faults[:SHOWN_FAULTS]],
        }

    def table(self) -> str:
        """Lines for a person."""
        figures = self.figures
        faults: list[str] = figures.pop("faults")
        width = max(len(name) for name in figures)
        return "\n".join([*(f"{name:{width}}  {_shown(value)}" for name, value in figures.items()), *faults])


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
