"""From what processes reported to the figures of a run."""

from collections.abc import Sequence

from commucat_cli.bench.crew import Exchange
from commucat_cli.bench.jobs import Effort, ReceiverReport, SenderReport
from commucat_cli.bench.result import ClientUse, Faults

MIN_SIZE = 16
MAX_SIZE = 1_000_000
"""Bytes of a payload; with header and encryption it still fits the default frame limit."""


def rate(count: float, seconds: float) -> float:
    """Per second."""
    return round(count / seconds, 1) if seconds > 0 else 0.0


def share(total: float | None, count: float, unit: float = 1e6) -> float | None:
    """Of CPU seconds, each one's part in ``unit`` parts of a second."""
    return None if total is None or not count else round(total / count * unit, 2)


def faults_of(
    messages: int, devices: int, sender: SenderReport, receivers: Sequence[ReceiverReport]
) -> Faults:
    """What went wrong with so many messages, each for so many devices."""
    return Faults(
        lost=messages * devices - sum(report.received for report in receivers),
        unanswered=messages - sender.acknowledged - sender.refused,
        duplicates=sum(report.duplicates for report in receivers),
        out_of_order=sum(report.out_of_order for report in receivers),
        damaged=sum(report.damaged for report in receivers),
    )


def exchange_faults(exchange: Exchange, devices: int) -> Faults:
    """The same for a load that each of ``devices`` should have."""
    return faults_of(exchange.load.messages, devices, exchange.sender, exchange.receivers)


def clients_of(
    sender: SenderReport, receivers: Sequence[ReceiverReport], suffix: str = ""
) -> tuple[ClientUse, ...]:
    """How busy they were."""
    uses = [ClientUse.of(f"sender{suffix}", sender.effort)]
    for index, report in enumerate(receivers):
        label = f"receiver{suffix}" if len(receivers) == 1 else f"receiver-{index + 1}{suffix}"
        uses.append(ClientUse.of(label, report.effort))
    return tuple(uses)


def problems_of(*efforts: Effort) -> tuple[str, ...]:
    """Why clients gave up."""
    return tuple(effort.problem for effort in efforts if effort.problem is not None)


def exchange_problems(*exchanges: Exchange) -> tuple[str, ...]:
    """The same for whole exchanges."""
    return problems_of(
        *(one.sender.effort for one in exchanges),
        *(report.effort for one in exchanges for report in one.receivers),
    )
