"""Reports of client processes and results, made up for tests of the benchmark."""

from typing import Any

from commucat_cli.bench.jobs import Effort, Load, ReceiverReport, SenderReport
from commucat_cli.bench.percentiles import PERCENTILES

RUN = bytes(range(8)).hex()
FAULTS = ("lost", "duplicates", "out_of_order", "damaged", "unanswered")


def load_of(messages: int, size: int = 64, run: str = RUN) -> Load:
    return Load(run=run, messages=messages, size=size)


def effort(started: float = 100.0, ended: float = 102.0, cpu: float = 0.5) -> Effort:
    return Effort(started=started, ended=ended, cpu_seconds=cpu)


def sender_report(**changes: Any) -> SenderReport:
    values: dict[str, Any] = {
        "effort": effort(),
        "acknowledged": 10,
        "refused": 0,
        "segment_ends": [102.0],
        "answers": [],
        "lateness": [],
    }
    return SenderReport(**(values | changes))


def receiver_report(**changes: Any) -> ReceiverReport:
    values: dict[str, Any] = {
        "effort": effort(100.0, 104.0, 0.25),
        "received": 10,
        "duplicates": 0,
        "out_of_order": 0,
        "damaged": 0,
        "arrivals": [],
    }
    return ReceiverReport(**(values | changes))


def percentiles_of(name: str) -> set[str]:
    """The names under which a latency is reported."""
    return {f"{name}_{label}" for label in (*PERCENTILES, "max")}
