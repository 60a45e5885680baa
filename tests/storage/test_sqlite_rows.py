"""What stands in the SQLite tables: counters, shared payloads, and what the writer remembers of them."""

import sqlite3
from pathlib import Path

import attrs
import pytest

from commucat_storage import (
    DropRoute,
    Operation,
    RefusalReason,
    Resolve,
    RouteOutcome,
    SqliteSettings,
    open_sqlite,
)
from commucat_storage.device_inbox import NEVER
from commucat_storage.sqlite import expiry
from commucat_storage.sqlite.connection import connect_writer
from commucat_storage.sqlite.inboxes import InboxCache
from commucat_storage.sqlite.turns import Turns
from commucat_storage.sqlite.writer import Entry, Transaction, Work, Writer
from storage.storage_builders import (
    LATER,
    NOW,
    accepted,
    add_devices,
    by_route,
    confirm,
    create,
    group_route,
    join_room,
    known,
    message,
    notified,
    route,
    send,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def rows_of(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def counters(path: Path) -> list[tuple[object, ...]]:
    return rows_of(path, "SELECT rows, bytes, shared FROM inbox_offset ORDER BY inbox")


async def test_payloads_are_deleted_with_their_last_row(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, *[message("a", "b", "c")] * 3, message("a", "b", expires_at=NOW + 5))
        await confirm(storage, "a", 2)
        await confirm(storage, "b", 4)
        assert counters(path) == [(2, 8, 2), (0, 0, 0), (3, 12, 3)]
        await storage.purge_expired(NOW + 5)
        refs = rows_of(path, "SELECT refs FROM relay_payload ORDER BY payload_id")
        assert refs == [(1,), (1,), (2,)]
        assert counters(path) == [(1, 4, 1), (0, 0, 0), (3, 12, 3)]
        await confirm(storage, "a", 4)
        await confirm(storage, "c", 3)
        assert rows_of(path, "SELECT * FROM relay_payload") == []
        assert counters(path) == [(0, 0, 0)] * 3


async def test_a_message_to_one_is_stored_inline_and_to_many_once(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, message("a"), message("a", "a"), message("a", "nobody"), message("a", "b", "c"))

    inline = "SELECT count(*) FROM relay_queue WHERE payload IS NOT NULL"
    assert rows_of(path, inline) == [(3,)]
    assert rows_of(path, "SELECT refs, payload FROM relay_payload") == [(3, b"meow")]
    in_words = rows_of(path, "SELECT device_id, number FROM relay_message ORDER BY device_id, number")
    assert in_words == [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1), ("c", 1)]


async def test_a_search_for_expired_messages_that_was_interrupted_is_begun_again(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        for _ in range(2):
            await send(storage, *[message("a")] * expiry.STEP_ROWS)
        await send(storage, message("a", expires_at=NOW))
    settings = SqliteSettings()
    writer = Writer(connect_writer(path, settings), path, settings, Turns())

    def one_step(transaction: Transaction) -> object:
        return expiry.purge_messages([expiry.Step(1)], NOW, transaction)

    assert writer.commit([Entry(done=lambda result: None, work=one_step)]) == [
        (expiry.Found(), [expiry.Step(1, expiry.STEP_ROWS, LATER)])
    ]
    writer.close()

    async with open_sqlite(path) as storage:
        assert (await storage.purge_expired(NOW)).messages == 1
    assert rows_of(path, "SELECT earliest FROM inbox_offset") == [(LATER,)]


async def test_an_inbox_that_becomes_empty_has_nothing_to_expire(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await confirm(storage, "a", 1)

    assert rows_of(path, "SELECT earliest FROM inbox_offset") == [(NEVER,)]


async def test_the_writer_remembers_a_bounded_number_of_inboxes(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b", "c", "d")
        await send(storage, route("d", 7, "x", "y", "z"))
    connection = connect_writer(path, SqliteSettings())
    cache = InboxCache(connection, capacity=2)
    loads: list[str] = []
    connection.set_trace_callback(lambda text: loads.append(text) if "JOIN inbox_offset" in text else None)

    def loaded(*names: str) -> int:
        before = len(loads)
        for name in names:
            cache.get(name)
        cache.make_room()
        return len(loads) - before

    assert loaded("a", "b") == 2
    assert loaded("a", "b") == 0  # from the old generation, which makes them young again
    assert loaded("c", "nobody") == 2
    assert loaded("a") == 1  # two generations later it is gone
    assert loaded("d") == 1  # alone heavier than the capacity: a route is remembered too
    assert loaded("d") == 0
    cache.forget("d")
    assert loaded("d") == 1
    connection.close()


async def test_a_question_writes_nothing_to_the_log(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b")
        await send(storage, create("a", "b"), route("b", 7, "a"))
        log = path.with_name("store.db-wal")
        before = log.read_bytes()

        for _ in range(10):
            await send(storage, Resolve("a", 7), Resolve("b", 7), Resolve("b", 8))

        assert log.read_bytes() == before


async def test_what_strangers_hold_is_counted_in_each_inbox(path: Path) -> None:
    held = "SELECT rows, bytes, stranger_rows, stranger_bytes FROM inbox_offset ORDER BY inbox"
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b", "s")
        await send(storage, route("b", 1, "s"), *[message("a", "b", sender="s")] * 3, message("a"))
        assert rows_of(path, held) == [(4, 16, 3, 12), (3, 12, 0, 0), (0, 0, 0, 0)]
        await confirm(storage, "a", 1)
        assert rows_of(path, held)[0] == (3, 12, 2, 8)
        # Near the end of its numbers: the rows are renumbered.
        await storage.revoke_device("s", NOW)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"UPDATE inbox_offset SET next_number = {2**31 + 5} WHERE inbox = 1")
    connection.close()
    async with open_sqlite(path) as storage:
        assert (await storage.admit(known("a"))).inbox.next_number == 4
    renumbered = (
        "SELECT position & 4294967295, stranger FROM relay_queue AS q "
        "JOIN user_device AS d ON d.inbox = q.position >> 32 WHERE device_id = 'a'"
    )
    assert rows_of(path, renumbered) == [(1, 1), (2, 1), (3, 0)]
    counted = "SELECT stranger_rows, stranger_bytes FROM inbox_offset JOIN user_device USING (inbox)"
    assert rows_of(path, f"{counted} WHERE device_id = 'a'") == [(2, 8)]


async def test_a_long_report_ends_the_run_early(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "LONG_REPORT", 100)
    asked = attrs.evolve(message("a", sender="s", expires_at=NOW), report=True)
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "s")
        await send(storage, route("a", 1, "s"))
        for _ in range(3):
            await send(storage, *[asked] * 1000)

        runs = [await storage.purge_expired(NOW) for _ in range(4)]

    assert [(each.messages, len(each.expired), each.more) for each in runs] == [
        (1000, 1000, True),
        (1000, 1000, True),
        (1000, 1000, True),
        (0, 0, False),
    ]


async def test_groups_changed_by_another_process_are_noticed(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, create("a", "b", "c"), by_route("a"))
        other = sqlite3.connect(path)
        with other:
            other.execute("DELETE FROM group_member WHERE device_id = 'b'")
        other.close()

        assert set(accepted((await send(storage, by_route("a")))[0])) == {"c"}


async def test_a_group_that_could_not_be_committed_is_forgotten(path: Path) -> None:
    settings = SqliteSettings()
    connection = connect_writer(path, settings)
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b")
    writer = Writer(connection, path, settings, Turns())

    def entry(*operations: Operation, work: Work | None = None) -> Entry:
        return Entry(done=lambda result: None, batch=operations, work=work)

    def fails(transaction: Transaction) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError):
        writer.commit([entry(create("a", "b"), by_route("a")), entry(work=fails)])
    [outcomes] = writer.commit([entry(group_route("b", 7), create("a", "b"), by_route("a"))])
    writer.close()
    assert isinstance(outcomes, tuple)
    joined, again, sent = outcomes

    assert joined == RouteOutcome(RefusalReason.GROUP_UNKNOWN)
    assert notified(again) == {"b": 1}
    assert accepted(sent) == {"b": 2}


async def test_a_room_that_has_ended_leaves_no_rows(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b", "c")
        await send(storage, join_room("a", 7, "b", "c"), join_room("b", 7), DropRoute("a", 7))
        assert len(rows_of(path, "SELECT * FROM group_member")) == 2

        await send(storage, route("b", 7, "a"))

    assert [rows_of(path, f"SELECT * FROM {table}") for table in ("chat_group", "group_member")] == [[], []]
    assert rows_of(path, "SELECT device_id, group_id FROM route") == [("b", None)]
