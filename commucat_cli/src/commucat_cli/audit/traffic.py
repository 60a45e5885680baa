"""What the ledger tells of traffic: connects and sent messages, by day and device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from commucat_ledger import BadLine, parse_line


@attrs.define
class Traffic:
    """Of one device on one day (UTC)."""

    connects: int = 0
    sent: int = 0
    """Messages, each once, however many receive it."""
    deliveries: int = 0
    """Messages times receivers that took them."""


@attrs.define
class TrafficReport:
    """By day (``2026-01-31``) and device."""

    by_day: dict[tuple[str, str], Traffic] = attrs.field(factory=dict)
    failed_handshakes: dict[str, int] = attrs.field(factory=dict)
    """By day: whoever failed has proved nothing, its device id neither."""
    has_deliveries: bool = False
    """Whether there was any record of single deliveries."""

    def of(self, day: str, device: str) -> Traffic:
        return self.by_day.setdefault((day, device), Traffic())


def read_traffic(files: Sequence[Path], since: str) -> TrafficReport:
    """Read the files of a ledger from the day ``since`` on. Blocks.

    Lines that are no ledger lines are passed over: finding them is the verifier's business.

    Raises:
        OSError: a file cannot be read.
    """
    report = TrafficReport()
    for path in files:
        with path.open("rb") as file:
            for raw in file:
                try:
                    line = parse_line(raw)
                except BadLine:
                    continue
                day = line.recorded_at[:10]
                if day >= since:
                    _count(report, day, line.metadata)
    return report


def _count(report: TrafficReport, day: str, metadata: Mapping[str, Any]) -> None:
    match metadata:
        case {"scope": "handshake", "result": "success", "device": str(device)}:
            report.of(day, device).connects += 1
        case {"scope": "handshake", "result": "failure"}:
            report.failed_handshakes[day] = report.failed_handshakes.get(day, 0) + 1
        case {"scope": "delivery", "entries": list(entries)}:
            report.has_deliveries = True
            counted: set[tuple[str, object, object]] = set()
            for entry in entries:
                match entry:
                    case {"result": "online" | "queued", "sender": str(sender)} if sender:
                        traffic = report.of(day, sender)
                        traffic.deliveries += 1
                        message = (sender, entry.get("channel_id"), entry.get("digest"))
                        if message not in counted:
                            counted.add(message)
                            traffic.sent += 1
