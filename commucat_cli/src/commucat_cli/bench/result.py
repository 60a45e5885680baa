"""The figures of a benchmark, as one JSON object or as a table."""

import os
import platform
import sqlite3
from typing import Any, Self

import attrs

from commucat_cli.bench.jobs import ReceiverReport, SenderReport
from commucat_cli.bench.plan import Plan, Scenario


@attrs.frozen(kw_only=True)
class Measured:
    """What the processes reported, and the server's CPU seconds around it (None: not known)."""

    sender: SenderReport
    receiver: ReceiverReport
    cpu_before: float | None
    cpu_after: float | None
    cpu_between: float | None = None
    """When everything was sent and nothing received."""


@attrs.frozen(kw_only=True)
class Result:
    """One run, judged: ``whole`` is whether every message came exactly once, intact and in order."""

    whole: bool
    figures: dict[str, Any]
    """Ready for JSON; the names are the interface."""
    problems: tuple[str, ...]
    """Why clients gave up."""

    @classmethod
    def of(
        cls, plan: Plan, measured: Measured, *, limits: dict[str, int] | None, rss_kib: int | None
    ) -> Self:
        """Put the figures of a run together."""
        sender, receiver = measured.sender, measured.receiver
        lost = plan.deliveries - receiver.received
        figures: dict[str, Any] = {
            "scenario": plan.scenario.value,
            "messages": plan.messages,
            "receivers": plan.receivers,
            "size": plan.size,
            "window": plan.window,
        }
        figures |= _times(plan, measured)
        figures |= {
            "server_cpu_us_per_msg": _per_message(plan, measured.cpu_before, measured.cpu_after),
            "lost": lost,
            "duplicates": receiver.duplicates,
            "out_of_order": receiver.out_of_order,
            "damaged": receiver.damaged,
            "refused": sender.refused,
            "acknowledged": sender.acknowledged,
            "server_rss_kib": rss_kib,
            "sender_cpu_seconds": round(sender.cpu_seconds, 3),
            "receiver_cpu_seconds": round(receiver.cpu_seconds, 3),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            # The embedded store of an own server runs on the same library as this program.
            "sqlite": sqlite3.sqlite_version if limits is not None else None,
            "server_limits": limits,
        }
        faults = (lost, receiver.duplicates, receiver.out_of_order, receiver.damaged)
        problems = tuple(text for text in (sender.problem, receiver.problem) if text is not None)
        return cls(whole=not any(faults), figures=figures, problems=problems)

    def table(self) -> str:
        """Lines for a person."""
        width = max(len(name) for name in self.figures)
        return "\n".join(f"{name:{width}}  {_shown(value)}" for name, value in self.figures.items())


def _times(plan: Plan, measured: Measured) -> dict[str, Any]:
    sender, receiver = measured.sender, measured.receiver
    if plan.scenario is Scenario.RELAY:
        seconds = max(sender.ended, receiver.ended) - sender.started
        return {
            "seconds": round(seconds, 4),
            "msg_per_s": _rate(plan.messages, seconds),
            "deliveries_per_s": _rate(plan.deliveries, seconds),
        }
    # The receiver's time begins with its connecting.
    enqueue, drain = sender.ended - sender.started, receiver.ended - receiver.started
    return {
        "seconds": round(enqueue + drain, 4),
        "msg_per_s": _rate(plan.messages, enqueue + drain),
        "enqueue_per_s": _rate(plan.messages, enqueue),
        "drain_per_s": _rate(plan.deliveries, drain),
        "enqueue_cpu_us_per_msg": _per_message(plan, measured.cpu_before, measured.cpu_between),
        "drain_cpu_us_per_msg": _per_message(plan, measured.cpu_between, measured.cpu_after),
    }


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds > 0 else 0.0


def _per_message(plan: Plan, before: float | None, after: float | None) -> float | None:
    if before is None or after is None:
        return None
    return round((after - before) / plan.messages * 1e6, 2)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return "unknown" if value is None else str(value)
