"""``commucat-cli key-history``: what happened to a device's keys, and whether all witnesses agree."""

import json
import re
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from typing import Annotated, Any

import trio
import typer

from commucat_cli.audit.history import Entry, KeyRecord, read_records, reconcile, waiting_records
from commucat_cli.commands.operator.on_store import refuse_older_schema
from commucat_cli.commands.operator.settings import (
    ConfigFile,
    DataDirectory,
    OperatorError,
    explained,
    load,
)
from commucat_cli.commands.options import device_id
from commucat_cli.commands.outcome import FAILURE, finish
from commucat_cli.terminal import print_now, printable, report_error
from commucat_ledger import files_of
from commucat_ledger.key_chain import KeyChainEvent
from commucat_server.config import LedgerMode, ServerConfig
from commucat_server.provision import open_store
from commucat_storage import KeyEvent
from commucat_storage.key_archive import ARCHIVE_NAME, ArchiveError, read_archive

_MOST_WAITING = 100_000


def _link(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise typer.BadParameter("must be 64 hexadecimal digits, as an earlier run printed them")
    return None if text is None else text.lower()


def key_history(
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", callback=device_id, help="Device id.")],
    known: Annotated[
        str | None,
        typer.Option(
            "--known",
            metavar="LINK",
            callback=_link,
            help="A link printed earlier: fail if the history no longer leads through it.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Export the key events of a device, and hold database and archive against the ledger.

    One line for each event. Exits with 1 if an event is missing on one side, or the sides name different
    keys.
    """

    def command() -> int:
        with explained(), redirect_stdout(sys.stderr):
            settings = load(config, data_dir)
            entries = _entries(settings, device)
        problems = [entry.problem for entry in entries if entry.problem is not None]
        if known is not None and known not in {
            entry.link.hex() for entry in entries if entry.link is not None
        }:
            problems.append(f"the history does not lead through the link {known}")
        _print(device, entries, problems, as_json=as_json)
        if problems:
            report_error(
                problems[0] if len(problems) == 1 else f"{len(problems)} problems: {'; '.join(problems)}"
            )
        return FAILURE if problems else 0

    finish(command)


def _entries(settings: ServerConfig, device: str) -> list[Entry]:
    if settings.storage.postgres_dsn is None and not settings.storage.path.exists():
        raise OperatorError(f"there is no database at {settings.storage.path}; start the server once")
    refuse_older_schema(settings)
    now = time.time()
    database, exists, waiting = trio.run(_stored, settings, device)
    try:
        archived = [
            event
            for event in read_archive(settings.data_dir / "archive" / ARCHIVE_NAME)
            if event.device_id == device
        ]
        # The store first: what comes in between has its record later, and is taken for under way.
        target = settings.ledger.target
        files = files_of(target) if settings.ledger.mode is LedgerMode.FILE and target is not None else []
        records, begun = read_records(files, device)
        known = {record.event_id for record in records}
        records += [record for record in waiting if record.event_id not in known]
    except ArchiveError as exc:
        raise OperatorError(str(exc)) from exc
    except OSError as exc:
        raise OperatorError(f"cannot read {exc.filename}: {exc.strerror}") from exc
    if not exists and not archived and not records:
        raise OperatorError(f"nothing is known of a device {device}")
    return reconcile(
        database=map(_chained, database),
        archived=map(_chained, archived),
        records=records,
        begun=begun,
        now=now,
    )


async def _stored(
    settings: ServerConfig, device: str
) -> tuple[Sequence[KeyEvent], bool, Sequence[KeyRecord]]:
    async with open_store(settings) as storage:
        events = await storage.key_events(device)
        exists = await storage.load_device(device) is not None
        return events, exists, waiting_records(await storage.operator_records(_MOST_WAITING), device)


def _chained(event: KeyEvent) -> KeyChainEvent:
    return KeyChainEvent(
        event_id=event.event_id,
        device_id=event.device_id,
        public_key=event.public_key,
        recorded_at=event.recorded_at,
    )


def _document(entry: Entry) -> dict[str, Any]:
    record = entry.record
    return {
        "recorded_at": datetime.fromtimestamp(entry.event.recorded_at, UTC).isoformat(),
        "event_id": entry.event.event_id,
        "public_key": entry.event.public_key.hex(),
        "action": None if record is None else record.action,
        "source": None if record is None else record.source,
        "stored": entry.stored,
        "ledger": None if record is None else record.place,
        "link": None if entry.link is None else entry.link.hex(),
        "problem": entry.problem,
    }


def _print(device: str, entries: Sequence[Entry], problems: Sequence[str], *, as_json: bool) -> None:
    documents = [_document(entry) for entry in entries]
    if as_json:
        print_now(json.dumps({"ok": not problems, "device": device, "events": documents}, indent=2))
        return
    print_now(f"device={printable(device)}")
    for document in documents:
        values = {name: value for name, value in document.items() if value is not None}
        values["ledger"] = "yes" if document["ledger"] is not None else "no"
        print_now(
            printable(
                " ".join(
                    f"{name}={json.dumps(value) if name == 'problem' else value}"
                    for name, value in values.items()
                )
            )
        )
