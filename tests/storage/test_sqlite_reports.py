"""What reports and copies cost in the SQLite tables: counters, statements, bounds, the migration."""

import sqlite3
from pathlib import Path
from typing import Any

import attrs
import pytest

from commucat_storage import (
    CommitFailedError,
    Confirm,
    ConfirmOutcome,
    SqliteSettings,
    Storage,
    migrate_sqlite,
    open_sqlite,
)
from commucat_storage.sqlite import expiry
from commucat_storage.sqlite.connection import connect_writer
from commucat_storage.sqlite.migrate import apply_migrations, bundled_migrations
from commucat_storage.sqlite.turns import Turns
from commucat_storage.sqlite.writer import Entry, Writer
from storage.storage_builders import (
    NOW,
    add_devices,
    add_siblings,
    asking,
    confirm,
    known,
    message,
    send,
)

ASKED = "SELECT rows, reports FROM inbox_offset JOIN user_device USING (inbox) ORDER BY device_id"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def rows_of(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def named(storage: Storage, name: str, number: int) -> list[bytes]:
    outcome = await confirm(storage, name, number)
    assert isinstance(outcome, ConfirmOutcome)
    return [each.reference for each in outcome.reports]


async def test_rows_that_ask_are_counted_in_each_inbox(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b", "s")
        await send(
            storage,
            asking(b"1", "a", "b", expires_at=NOW),
            asking(b"2", "a"),
            message("a"),
            asking(b"3", "a"),
        )
        assert rows_of(path, ASKED) == [(4, 3), (1, 1), (0, 0)]
        await storage.purge_expired(NOW)
        assert rows_of(path, ASKED) == [(3, 2), (0, 0), (0, 0)]
        await confirm(storage, "a", 2)
        assert rows_of(path, ASKED) == [(2, 1), (0, 0), (0, 0)]
        await confirm(storage, "a", 4)
        assert rows_of(path, ASKED) == [(0, 0), (0, 0), (0, 0)]


async def test_only_inboxes_with_rows_that_ask_are_searched_for_them(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "plain", "asked", "s")
    settings = SqliteSettings()
    connection = connect_writer(path, settings)
    writer = Writer(connection, path, settings, Turns())
    epochs = dict(rows_of(path, "SELECT device_id, epoch FROM inbox_offset JOIN user_device USING (inbox)"))
    searches: list[str] = []
    connection.set_trace_callback(
        lambda text: searches.append(text) if "q.reporter IS NOT NULL" in text else None
    )

    def commit(*operations: object) -> None:
        writer.commit([Entry(done=lambda result: None, batch=operations)])  # type: ignore[arg-type]

    commit(*[message("plain", sender="s")] * 9, *[asking(b"x", "asked")] * 9)
    commit(*[Confirm("plain", str(epochs["plain"]), number) for number in range(1, 10)])
    assert len(searches) == 0
    commit(*[Confirm("asked", str(epochs["asked"]), number) for number in range(1, 9)])
    assert len(searches) == 1
    commit(Confirm("asked", str(epochs["asked"]), 9), message("asked", sender="s"))
    assert len(searches) == 2
    commit(Confirm("asked", str(epochs["asked"]), 10))
    assert len(searches) == 2
    writer.close()


async def test_other_devices_are_looked_up_once_in_a_transaction(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "s", "a")
        await add_siblings(storage, "s", "s2")
    settings = SqliteSettings()
    connection = connect_writer(path, settings)
    writer = Writer(connection, path, settings, Turns())
    queries: list[str] = []
    connection.set_trace_callback(lambda text: queries.append(text) if "WHERE user_id" in text else None)
    batch = [attrs.evolve(message("a", sender="s"), copies=True)] * 50

    for count in (1, 2):
        writer.commit([Entry(done=lambda result: None, batch=batch)] * 3)
        assert len(queries) == count
    writer.close()
    assert rows_of(path, "SELECT count(*) FROM relay_queue") == [(600,)]


async def test_renumbered_rows_are_still_reported(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "s")
        await send(storage, asking(b"one", "a"), message("a"), asking(b"two", "a"))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"UPDATE inbox_offset SET next_number = {2**31 + 5} WHERE rows > 0")
    connection.close()

    async with open_sqlite(path) as storage:
        assert (await storage.admit(known("a"))).inbox.next_number == 4
        assert rows_of(path, ASKED)[0] == (3, 2)
        assert await named(storage, "a", 3) == [b"one", b"two"]


async def test_rows_that_asked_before_the_migration_are_counted_by_it(path: Path) -> None:
    connection = connect_writer(path, SqliteSettings())
    apply_migrations(connection, path, bundled_migrations()[:2])
    connection.execute("INSERT INTO app_user VALUES ('user-a', 'a', 'cats.example', NULL, NULL, 0)")
    connection.execute(
        "INSERT INTO inbox_offset (inbox, epoch, next_number, confirmed, rows, bytes, shared, earliest) "
        "VALUES (1, ?, 3, 0, 2, 2, 0, 0)",
        ("e" * 32,),
    )
    connection.execute("INSERT INTO user_device VALUES ('a', 'user-a', ?, 'active', 0, 1)", (bytes(32),))
    for number, reporter in ((1, "s"), (2, None)):
        connection.execute(
            "INSERT INTO relay_queue (position, frame_type, channel, expires_at, size, payload, reporter) "
            "VALUES (?, 5, 7, 0, 1, x'00', ?)",
            (2**32 + number, reporter),
        )
    connection.close()

    assert migrate_sqlite(path)[0] == "reports"

    assert rows_of(path, ASKED) == [(2, 1)]
    async with open_sqlite(path) as storage:
        assert await named(storage, "a", 2) == [b""]


async def test_a_purge_that_fails_half_way_names_what_it_has_deleted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "s")
        await send(storage, *(asking(b"%d" % number, "a", expires_at=NOW) for number in range(3)))
        monkeypatch.setattr(expiry, "STEP_ROWS", 1)
        purge, steps = expiry.purge_messages, iter(range(9))

        def failing(*args: Any) -> object:
            if next(steps) == 2:
                raise sqlite3.OperationalError("disk I/O error")
            return purge(*args)

        monkeypatch.setattr(expiry, "purge_messages", failing)
        purged = await storage.purge_expired(NOW)
        assert ([each.reference for each in purged.expired], purged.messages) == ([b"0", b"1"], 2)
        assert not purged.more

        again = await storage.purge_expired(NOW)
        assert [each.reference for each in again.expired] == [b"2"]


async def test_a_purge_that_deletes_nothing_tells_why(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> object:
        raise sqlite3.OperationalError("disk I/O error")

    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "s")
        await send(storage, asking(b"1", "a", expires_at=NOW))
        monkeypatch.setattr(expiry, "purge_messages", failing)
        with pytest.raises(CommitFailedError):
            await storage.purge_expired(NOW)
