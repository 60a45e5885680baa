"""Sessions that have ended are found at once, and nothing is looked at when nothing was written since."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from commucat_storage import SqliteSettings, open_sqlite
from commucat_storage.sqlite.connection import connect_reader, connect_writer
from commucat_storage.sqlite.session_watch import SessionWatch
from storage.storage_builders import add_devices, known, session

ALL = ["t-a", "t-b", "t-c"]


@attrs.frozen
class Store:
    path: Path
    writer: sqlite3.Connection

    def reader(self) -> sqlite3.Connection:
        return connect_reader(self.path, SqliteSettings())


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    path = tmp_path / "store.db"
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b", "c")
        for name in ("a", "b", "c"):
            await storage.admit(attrs.evolve(known(name), session=session(f"t-{name}", name)))
        with closing(connect_writer(path, SqliteSettings())) as writer:
            yield Store(path, writer)


class Looks:
    """Counts the statements of a connection that read sessions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.count = 0
        connection.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        self.count += "session" in statement


async def test_without_a_write_there_is_one_look(store: Store) -> None:
    with closing(store.reader()) as reader:
        watch, looks = SessionWatch(), Looks(reader)
        for asked in (ALL, ALL, ["t-b"], []):
            assert watch.ended(reader, asked) == frozenset()
        assert looks.count == 1


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM session WHERE token_hash = 't-b'",
        "UPDATE user_device SET status = 'revoked' WHERE device_id = 'b'",
        "DELETE FROM user_device WHERE device_id = 'b'",
    ],
)
async def test_every_kind_of_end_is_found_by_the_next_look(store: Store, change: str) -> None:
    with closing(store.reader()) as reader:
        watch = SessionWatch()
        assert watch.ended(reader, ALL) == frozenset()
        store.writer.execute(change)
        assert watch.ended(reader, ALL) == {"t-b"}


async def test_what_has_ended_stays_so_without_a_write(store: Store) -> None:
    with closing(store.reader()) as reader:
        watch = SessionWatch()
        assert watch.ended(reader, [*ALL, "none"]) == {"none"}
        assert watch.ended(reader, [*ALL, "none"]) == {"none"}


async def test_a_session_that_was_not_asked_for_before_is_looked_up(store: Store) -> None:
    with closing(store.reader()) as reader:
        watch = SessionWatch()
        assert watch.ended(reader, ["t-a"]) == frozenset()
        assert watch.ended(reader, ["t-a", "none"]) == {"none"}


async def test_connections_are_kept_apart(store: Store) -> None:
    """What one has seen says nothing about what another one would see."""
    with closing(store.reader()) as first, closing(store.reader()) as second:
        watch = SessionWatch()
        assert watch.ended(first, ALL) == frozenset()
        assert watch.ended(second, ALL) == frozenset()
        store.writer.execute("DELETE FROM session WHERE token_hash = 't-c'")
        assert watch.ended(second, ALL) == {"t-c"}
        assert watch.ended(first, ALL) == {"t-c"}


async def test_what_is_written_during_a_look_is_found_by_the_next(store: Store) -> None:
    with closing(store.reader()) as reader:
        watch = SessionWatch()

        def write_before(statement: str) -> None:
            if "session" in statement:
                reader.set_trace_callback(None)
                store.writer.execute("DELETE FROM session WHERE token_hash = 't-a'")

        reader.set_trace_callback(write_before)
        first = watch.ended(reader, ALL)
        assert first | watch.ended(reader, ALL) == {"t-a"}
        assert watch.ended(reader, ALL) == {"t-a"}
