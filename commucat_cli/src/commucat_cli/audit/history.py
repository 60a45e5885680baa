"""The history of a device's keys, from the store, its archive and the ledger, held against each other."""

import datetime
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import orjson

from commucat_ledger import BadLine, parse_line
from commucat_ledger.key_chain import KeyChainEvent, links_of
from commucat_storage import OperatorRecord

ACTIONS: Final = ("register", "rotate", "certificate", "revoke")
SAME_MOMENT: Final = 60.0
"""Seconds between an event and a record without the event's id that may be of it."""
UNDER_WAY: Final = 10.0
"""Seconds in which the ledger may still be about to learn of an event."""


@attrs.frozen(kw_only=True)
class KeyRecord:
    """What the ledger says about a key of the device."""

    event_id: str | None
    """None in records of versions that did not name it."""
    public_key: bytes
    recorded_at: float
    action: str
    source: str
    place: str
    """File and line."""


@attrs.frozen(kw_only=True)
class Entry:
    """One event, with everything that is known of it."""

    event: KeyChainEvent
    stored: str | None
    """``database``, ``archive``, or None if only the ledger knows of it."""
    record: KeyRecord | None
    link: bytes | None
    """None for what only the ledger knows."""
    problem: str | None

    @property
    def wrong(self) -> bool:
        return self.problem is not None


def read_records(paths: Sequence[Path], device_id: str) -> tuple[list[KeyRecord], float | None]:
    """Records about keys of the device, and when the ledger's first record was made. Blocks.

    Lines that are no ledger lines are passed over: finding them is the verifier's business.

    Raises:
        OSError: a file cannot be read.
    """
    records: list[KeyRecord] = []
    begun: float | None = None
    named = orjson.dumps(device_id)
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if begun is not None and named not in line:
                    continue
                try:
                    parsed = parse_line(line)
                except BadLine:
                    continue
                moment = datetime.datetime.fromisoformat(parsed.recorded_at).timestamp()
                begun = moment if begun is None else begun
                metadata = parsed.metadata
                if metadata.get("device") != device_id or metadata.get("action") not in ACTIONS:
                    continue
                event_id = metadata.get("event_id")
                records.append(
                    KeyRecord(
                        event_id=event_id if isinstance(event_id, str) else None,
                        public_key=bytes.fromhex(parsed.digest),
                        recorded_at=moment,
                        action=str(metadata["action"]),
                        source=str(metadata.get("source", "")),
                        place=f"{path} line {number}",
                    )
                )
    return records, begun


def waiting_records(stored: Iterable[OperatorRecord], device_id: str) -> list[KeyRecord]:
    """Of the records that a server is still to write to its ledger, those about keys of the device."""
    found = []
    for record in stored:
        metadata = orjson.loads(record.metadata)
        if metadata.get("device") != device_id or metadata.get("action") not in ACTIONS:
            continue
        found.append(
            KeyRecord(
                event_id=metadata.get("event_id"),
                public_key=record.digest,
                recorded_at=record.recorded_at,
                action=metadata["action"],
                source=str(metadata.get("source", "")),
                place="the store, to be written to the ledger",
            )
        )
    return found


def reconcile(
    *,
    database: Iterable[KeyChainEvent],
    archived: Iterable[KeyChainEvent],
    records: Sequence[KeyRecord],
    begun: float | None,
    now: float,
) -> list[Entry]:
    """Hold both sides against each other; the oldest first.

    ``begun`` is when the ledger begins: it knows nothing of events before. An event of the last seconds
    may not have reached the ledger yet. None of these is a problem.
    """
    stored = {event.event_id: (event, "archive") for event in archived}
    stored |= {event.event_id: (event, "database") for event in database}
    events = sorted(stored.values(), key=lambda each: (each[0].recorded_at, each[0].event_id))
    links = links_of(event for event, _ in events)
    left = list(records)
    entries = []
    for (event, place), link in zip(events, links, strict=True):
        record = _record_of(event, left)
        if record is not None:
            left.remove(record)
        entries.append(
            Entry(
                event=event,
                stored=place,
                record=record,
                link=link,
                problem=_problem(event, record, begun, now),
            )
        )
    entries += _unknown(left)
    return sorted(entries, key=lambda entry: entry.event.recorded_at)


def _record_of(event: KeyChainEvent, records: Sequence[KeyRecord]) -> KeyRecord | None:
    for record in records:
        if record.event_id == event.event_id:
            return record
    unnamed = [
        record
        for record in records
        if record.event_id is None
        and record.public_key == event.public_key
        and abs(record.recorded_at - event.recorded_at) <= SAME_MOMENT
    ]
    return min(unnamed, key=lambda record: abs(record.recorded_at - event.recorded_at), default=None)


def _problem(event: KeyChainEvent, record: KeyRecord | None, begun: float | None, now: float) -> str | None:
    if record is not None:
        if record.public_key != event.public_key:
            return f"the ledger names another key: {record.public_key.hex()} ({record.place})"
        return None
    # Events have whole seconds.
    if begun is None or event.recorded_at + 1 < begun or event.recorded_at > now - UNDER_WAY:
        return None
    return "missing in the ledger"


def _unknown(records: Iterable[KeyRecord]) -> Iterator[Entry]:
    for record in records:
        event = KeyChainEvent(
            event_id=record.event_id or "",
            device_id="",
            public_key=record.public_key,
            recorded_at=int(record.recorded_at),
        )
        yield Entry(
            event=event,
            stored=None,
            record=record,
            link=None,
            problem=f"missing in the database and its archive ({record.place})",
        )
