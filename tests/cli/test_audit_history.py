"""Database, archive and ledger held against each other."""

from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from commucat_cli.audit.history import Entry, KeyRecord, read_records, reconcile
from commucat_ledger import GENESIS, LedgerRecord, head_of, line_of
from commucat_ledger.key_chain import KeyChainEvent, link_of, links_of

NOW = 1_760_000_000


def event(number: int, key: bytes = b"k" * 32) -> KeyChainEvent:
    return KeyChainEvent(
        event_id=f"e{number}", device_id="d", public_key=key, recorded_at=NOW + 1000 * number
    )


def record(number: int, key: bytes = b"k" * 32, *, named: bool = True, late: float = 0.5) -> KeyRecord:
    return KeyRecord(
        event_id=f"e{number}" if named else None,
        public_key=key,
        recorded_at=NOW + 1000 * number + late,
        action="certificate",
        source="certificate",
        place=f"ledger.jsonl line {number}",
    )


def held(
    database: list[KeyChainEvent],
    records: list[KeyRecord],
    *,
    archived: tuple[KeyChainEvent, ...] = (),
    begun: float | None = NOW,
    now: float = NOW + 1_000_000,
) -> list[Entry]:
    return reconcile(database=database, archived=archived, records=records, begun=begun, now=now)


def problems(entries: list[Entry]) -> list[str | None]:
    return [entry.problem for entry in entries]


def test_what_agrees_is_no_problem() -> None:
    entries = held([event(2), event(3)], [record(1), record(2), record(3)], archived=(event(1), event(2)))
    assert problems(entries) == [None] * 3
    assert [entry.stored for entry in entries] == ["archive", "database", "database"]
    assert [entry.link for entry in entries] == links_of([event(1), event(2), event(3)])


def test_an_event_that_the_ledger_lacks_is_named() -> None:
    assert problems(held([event(1), event(2)], [record(1)])) == [None, "missing in the ledger"]


def test_a_record_that_the_database_lacks_is_named() -> None:
    entries = held([event(2)], [record(1), record(2)])
    assert problems(entries) == ["missing in the database and its archive (ledger.jsonl line 1)", None]


def test_another_key_is_named() -> None:
    [entry] = held([event(1)], [record(1, b"x" * 32)])
    assert entry.problem == f"the ledger names another key: {(b'x' * 32).hex()} (ledger.jsonl line 1)"


def test_what_the_ledger_cannot_know_is_no_problem() -> None:
    assert problems(held([event(1)], [], begun=NOW + 5000)) == [None]
    assert problems(held([event(1)], [], begun=None)) == [None]
    assert problems(held([event(1)], [], now=NOW + 1000 + 5)) == [None]
    assert problems(held([event(1)], [], now=NOW + 1000 + 50)) == ["missing in the ledger"]


def test_records_without_an_id_are_matched_by_key_and_time() -> None:
    assert (
        problems(held([event(1), event(2)], [record(2, named=False), record(1, named=False)])) == [None] * 2
    )
    assert len(held([event(1)], [record(1, named=False, late=90)])) == 2
    assert len(held([event(1)], [record(1, b"x" * 32, named=False)])) == 2


@pytest.mark.parametrize(
    "change",
    [{"event_id": "other"}, {"device_id": "e"}, {"public_key": b"x" * 32}, {"recorded_at": NOW}],
)
def test_a_link_commits_to_every_member_and_to_all_before(change: dict[str, object]) -> None:
    events = [event(1), event(2), event(3)]
    changed = [attrs.evolve(events[0], **change), *events[1:]]  # type: ignore[arg-type]
    assert not set(links_of(events)) & set(links_of(changed))
    assert links_of(events)[:2] == links_of(events[:2])


def test_ids_do_not_run_into_each_other() -> None:
    one = attrs.evolve(event(1), device_id="ab", event_id="c")
    two = attrs.evolve(event(1), device_id="a", event_id="bc")
    assert link_of(GENESIS, one) != link_of(GENESIS, two)


def test_records_of_the_device_are_found_in_all_files(tmp_path: Path) -> None:
    moment = datetime(2025, 10, 9, tzinfo=UTC)
    heads, lines = [GENESIS], []
    for number, metadata in enumerate(
        [
            {"scope": "server"},
            {"device": "d", "user": "u", "action": "register", "source": "certificate", "event_id": "e1"},
            {"device": "other", "action": "register"},
            {"device": "d", "scope": "handshake"},
            {"device": "d", "action": "certificate", "source": "renewal"},
        ],
        start=1,
    ):
        made = LedgerRecord(digest=bytes([number]) * 32, metadata=metadata, recorded_at=moment)
        lines.append(line_of(made, heads[-1], number))
        heads.append(head_of(lines[-1]))
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_bytes(b"".join(lines[:3]) + b'{"device":"d" torn\n')
    second.write_bytes(b"".join(lines[3:]))

    records, begun = read_records([first, second], "d")

    assert begun == moment.timestamp()
    assert [(each.event_id, each.action, each.source, each.place) for each in records] == [
        ("e1", "register", "certificate", f"{first} line 2"),
        (None, "certificate", "renewal", f"{second} line 2"),
    ]
    assert records[0].public_key == bytes([2]) * 32
    assert read_records([], "d") == ([], None)
