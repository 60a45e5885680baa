"""``commucat-cli stats``: how much traffic there is, and whose."""

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from commucat_cli.audit.traffic import TrafficReport, read_traffic
from commucat_cli.commands.operator.on_store import on_store
from commucat_cli.commands.operator.operator_options import DeviceOption, LimitOption
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, OperatorError, load
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import Row, print_rows, print_values
from commucat_cli.terminal import warn
from commucat_ledger import files_of
from commucat_server.config import LedgerMode, ServerConfig
from commucat_storage import QueueStanding, Storage


def stats(
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, metavar="N", help="How many days back, today included.")
    ] = 7,
    device: DeviceOption = None,
    limit: LimitOption = 1000,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Show what devices received and sent.

    Received, confirmed and waiting come from the inboxes. Connects, sent messages and deliveries of each day
    come from the ledger of this server; the latter two only if it records deliveries
    (ledger.deliveries = true). Days are those of UTC.
    """

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> tuple[QueueStanding, ...]:
            return await storage.queues(now=int(time.time()), limit=limit, device_id=device)

        queues = on_store(config, data_dir, work)
        if device is not None and not queues:
            raise OperatorError(f"there is no device {device}")
        report = _read(load(config, data_dir), days)
        devices: list[Row] = [
            {
                "device": queue.device_id,
                "handle": queue.handle,
                "received": queue.next_number - 1,
                "confirmed": queue.confirmed,
                "waiting": queue.waiting,
            }
            for queue in queues
        ]
        by_day = _days(report, device)[-limit:]
        if as_json:
            failed = dict(sorted(report.failed_handshakes.items()))
            print_values({"devices": devices, "days": by_day, "failed_handshakes": failed}, as_json=True)
        else:
            print_rows("devices", devices, as_json=False)
            print_rows("days", by_day, as_json=False)
            failures: list[Row] = [
                {"day": day, "failed_handshakes": count}
                for day, count in sorted(report.failed_handshakes.items())
            ]
            print_rows("failed_handshakes", failures, as_json=False)
        return 0

    finish(command)


def _read(settings: ServerConfig, days: int) -> TrafficReport:
    target = settings.ledger.target
    if settings.ledger.mode is not LedgerMode.FILE or target is None:
        warn(f"the server keeps no ledger file (ledger.mode {settings.ledger.mode.value}): no days are known")
        return TrafficReport()
    since = (datetime.now(UTC) - timedelta(days=days - 1)).date().isoformat()
    try:
        report = read_traffic(files_of(target), since)
    except OSError as exc:
        raise OperatorError(f"cannot read {exc.filename}: {exc.strerror}") from exc
    if not report.has_deliveries and not settings.ledger.deliveries:
        warn(
            "the ledger records no deliveries: what was sent on which day is not known; "
            "the configuration can switch that on: [ledger] deliveries = true"
        )
    return report


def _days(report: TrafficReport, device: str | None) -> list[Row]:
    return [
        {
            "day": day,
            "device": sender,
            "connects": traffic.connects,
            "sent": traffic.sent if report.has_deliveries else None,
            "deliveries": traffic.deliveries if report.has_deliveries else None,
        }
        for (day, sender), traffic in sorted(report.by_day.items())
        if device in (None, sender)
    ]
