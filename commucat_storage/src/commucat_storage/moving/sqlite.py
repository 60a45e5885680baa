"""The embedded store as something to read from and to fill. Everything that blocks runs in a thread."""

import json
import secrets
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from commucat_storage import store_mark as marks
from commucat_storage.moving.errors import MoveError, other_origin
from commucat_storage.moving.ports import MovableSource, Source, StoreFacts, Target
from commucat_storage.moving.rows import Row
from commucat_storage.moving.tables import LATEST, TABLES, Kind, Table
from commucat_storage.sqlite.connection import connect_reader, connect_writer, read_mark, translate
from commucat_storage.sqlite.migrate import apply_migrations, bundled_migrations, schema_of
from commucat_storage.sqlite.settings import SqliteSettings
from commucat_storage.store_mark import Mark, MoveState

T = TypeVar("T")

SQLITE_TABLES: Final = tuple(table for table in TABLES if table.sqlite)
_BATCH_ROWS: Final = 2_000
_BATCH_BYTES: Final = 4 * 2**20
_INBOX: Final = "inbox_offset"


@asynccontextmanager
async def sqlite_snapshot(path: Path) -> AsyncIterator[Source]:
    """The rows of the store as they are now, beside a server that uses it.

    The write-ahead log grows as long as the snapshot is held.

    Raises:
        StorageError: it cannot be read, is marked, or its schema is not that of this program.
    """
    connection = await trio.to_thread.run_sync(_open_snapshot, path)
    try:
        yield _SqliteSource(connection, path)
    finally:
        connection.close()


@asynccontextmanager
async def sqlite_movable(path: Path) -> AsyncIterator[MovableSource]:
    """The rows of the store, which nobody can change meanwhile; the caller holds the data directory's lock.

    Raises:
        StorageError: as :func:`sqlite_snapshot`; the store is being filled.
    """
    connection = await trio.to_thread.run_sync(_open_movable, path)
    try:
        yield _SqliteSource(connection, path)
    finally:
        # Without a commit, nothing was changed.
        connection.close()


@asynccontextmanager
async def sqlite_target(path: Path) -> AsyncIterator[Target]:
    """A store to be filled; made if there is none. The caller holds the data directory's lock.

    Raises:
        StorageError: it cannot be written, or is another program's.
    """
    connection = await trio.to_thread.run_sync(_open_target, path)
    try:
        yield _SqliteTarget(connection, path)
    finally:
        connection.close()


def unmark_sqlite(path: Path) -> str | None:
    """Let servers use a store again that was moved away; where it had gone, None if nowhere. Blocks.

    Raises:
        MoveError: it is being filled.
    """
    if not path.is_file():
        return None
    connection = connect_writer(path, SqliteSettings(), marked=True)
    try:
        connection.execute("BEGIN IMMEDIATE")
        mark = read_mark(connection)
        if mark is None:
            return None
        if mark.state is MoveState.FILLING:
            raise MoveError(f"{path} is only half filled; finish that, or delete the file")
        _run_all(connection, marks.DROP)
        connection.execute("COMMIT")
        return mark.other
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    finally:
        connection.close()


def _open_snapshot(path: Path) -> sqlite3.Connection:
    connection = connect_reader(path, SqliteSettings())
    try:
        connection.execute("BEGIN")
        # The first read takes the snapshot.
        _require_current(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_movable(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise MoveError(f"there is no database at {path}")
    connection = connect_writer(path, SqliteSettings(), marked=True)
    try:
        # Commands work beside servers and take no lock of the directory; they wait for this one.
        connection.execute("BEGIN IMMEDIATE")
        mark = read_mark(connection)
        if mark is not None and mark.state is MoveState.FILLING:
            marks.refuse_marked(mark, f"the database {path}")
        _require_current(connection, path)
    except sqlite3.Error as exc:
        connection.close()
        raise translate(exc, path) from exc
    except BaseException:
        connection.close()
        raise
    return connection


def _open_target(path: Path) -> sqlite3.Connection:
    connection = connect_writer(path, SqliteSettings(), marked=True)
    try:
        apply_migrations(connection, path, bundled_migrations())
    except sqlite3.Error as exc:
        connection.close()
        raise translate(exc, path) from exc
    except BaseException:
        connection.close()
        raise
    return connection


def _require_current(connection: sqlite3.Connection, path: Path) -> None:
    _, pending = schema_of(connection, path)
    if pending:
        raise MoveError(f"the database {path} has an older schema; run first: commucat-cli migrate")


def _run_all(connection: sqlite3.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(statement)


class _SqliteSource(MovableSource):
    """Reads through one connection with an open transaction."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self.place = str(path)
        self.tables = SQLITE_TABLES
        version, _ = schema_of(connection, path)
        self.facts = StoreFacts(backend="sqlite", schema_version=version)
        self.mark = read_mark(connection)

    async def count(self, table: Table) -> int:
        query = f"SELECT count(*) FROM {table.database_name}"  # noqa: S608 - names of ours
        rows = await self._run(lambda: self._connection.execute(query).fetchall())
        if table.owner_columns:
            await self._run(partial(self._refuse_homeless, table))
        return int(rows[0][0])

    async def batches(self, table: Table) -> AsyncGenerator[list[Row], None]:
        columns = ", ".join(column.name for column in table.columns)
        query = f"SELECT {columns} FROM {_source_of(table)} ORDER BY {table.order}"  # noqa: S608 - names of ours
        cursor = await self._run(lambda: self._connection.execute(query))
        try:
            while rows := await self._run(partial(_next_batch, cursor, table)):
                yield rows
        finally:
            cursor.close()

    async def retire(self, mark: Mark) -> None:
        def work() -> None:
            _run_all(self._connection, marks.CREATE)
            _write_mark(self._connection, mark)
            self._connection.execute("COMMIT")

        await self._run(work)
        self.mark = mark

    def _refuse_homeless(self, table: Table) -> None:
        """An owner without an inbox would get lost in the join."""
        [[joined, all_]] = self._connection.execute(
            f"SELECT (SELECT count(*) FROM {_source_of(table)}), "  # noqa: S608 - names of ours
            f"(SELECT count(*) FROM {table.database_name})"
        ).fetchall()
        if joined != all_:
            raise MoveError(
                f"the database {self._path} is damaged: {all_ - joined} {table.homeless} have no inbox"
            )

    async def _run(self, work: Callable[[], T]) -> T:
        return await _in_thread(work, self._path)


class _SqliteTarget(Target):
    """Writes through one connection, a transaction for each portion."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self.place = str(path)
        self.tables = SQLITE_TABLES

    async def begin(self, origin: str, move_id: str, *, start_over: bool) -> tuple[str, dict[str, int]]:
        return await self._run(partial(self._begin, origin, move_id, start_over))

    async def write(self, table: Table, rows: Sequence[Row], done: int) -> None:
        await self._in_transaction(partial(self._write, table, rows, done))

    async def settle(self, cluster_id: str | None) -> None:
        """Nothing: SQLite derives the next ids from the rows."""

    def written(self) -> Source:
        return _SqliteSource(self._connection, self._path)

    async def release(self) -> None:
        await self._in_transaction(lambda: _run_all(self._connection, marks.DROP))

    def _begin(self, origin: str, move_id: str, start_over: bool) -> tuple[str, dict[str, int]]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            mark = read_mark(connection)
            if mark is not None and mark.state is MoveState.MOVED:
                marks.refuse_marked(mark, f"the database {self._path}")
            if mark is not None and start_over:
                # In the other direction: rows before what they refer to.
                for table in reversed(SQLITE_TABLES):
                    connection.execute(f"DELETE FROM {table.database_name}")  # noqa: S608 - names of ours
                connection.execute(f"DELETE FROM {_INBOX}")  # noqa: S608
                _run_all(connection, marks.DROP)
                mark = None
            if mark is None:
                self._refuse_filled()
                _run_all(connection, marks.CREATE)
                _write_mark(connection, Mark(MoveState.FILLING, move_id, origin))
                mark = Mark(MoveState.FILLING, move_id, origin)
            elif mark.other != origin:
                raise other_origin(self.place, mark)
            done = dict(connection.execute(f"SELECT name, rows FROM {marks.PROGRESS_TABLE}").fetchall())  # noqa: S608
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        return mark.move_id, done

    def _refuse_filled(self) -> None:
        for table in SQLITE_TABLES:
            query = f"SELECT EXISTS (SELECT 1 FROM {table.database_name})"  # noqa: S608 - names of ours
            if self._connection.execute(query).fetchone()[0]:
                raise MoveError(
                    f"the database {self._path} is not empty ({table.database_name}); "
                    "move the file away, or name another"
                )

    def _write(self, table: Table, rows: Sequence[Row], done: int) -> None:
        try:
            if owned := table.owner_columns:
                names = [column.name for column in table.columns]
                # A new epoch: what clients remember of the old store's numbers must confirm nothing here.
                inboxes = [(*row[owned:], secrets.token_hex(16)) for row in rows]
                self._insert(_INBOX, [*names[owned:], "epoch"], inboxes)
                owners = [(*row[:owned], row[owned]) for row in rows]
                self._insert(table.database_name, [*names[:owned], "inbox"], owners)
            else:
                self._insert(
                    table.name,
                    [each.name for each in table.columns],
                    [_to_sqlite(table, row) for row in rows],
                )
        except (UnicodeError, OverflowError) as exc:
            raise MoveError(f"{self._path}: a row of {table.name} cannot be stored here ({exc})") from exc
        except sqlite3.IntegrityError as exc:
            raise MoveError(f"{self._path}: a row of {table.name} does not fit: {exc}") from exc
        self._connection.execute(
            f"INSERT OR REPLACE INTO {marks.PROGRESS_TABLE} VALUES (?, ?)",  # noqa: S608 - a name of ours
            (table.name, done),
        )

    def _insert(self, table: str, columns: Sequence[str], rows: list[Row]) -> None:
        places = ", ".join("?" * len(columns))
        self._connection.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})",  # noqa: S608 - names of ours
            rows,
        )

    async def _in_transaction(self, work: Callable[[], None]) -> None:
        def whole() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                work()
                self._connection.execute("COMMIT")
            except BaseException:
                _roll_back(self._connection)
                raise

        await self._run(whole)

    async def _run(self, work: Callable[[], T]) -> T:
        return await _in_thread(work, self._path)


def _source_of(table: Table) -> str:
    name = table.database_name
    return f"{name} JOIN {_INBOX} USING (inbox)" if table.owner_columns else name


def _write_mark(connection: sqlite3.Connection, mark: Mark) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO {marks.MARK_TABLE} VALUES (1, ?, ?, ?)",  # noqa: S608 - a name of ours
        (mark.state.value, mark.move_id, mark.other),
    )


def _next_batch(cursor: sqlite3.Cursor, table: Table) -> list[Row]:
    rows: list[Row] = []
    size = 0
    while len(rows) < _BATCH_ROWS and size < _BATCH_BYTES:
        row = cursor.fetchone()
        if row is None:
            break
        size += sum(len(value) for value in row if isinstance(value, bytes | str))
        rows.append(_from_sqlite(table, row))
    return rows


def _from_sqlite(table: Table, row: Row) -> Row:
    values: list[Any] = list(row)
    for index, column in enumerate(table.columns):
        if column.kind is Kind.BOOL:
            values[index] = bool(values[index])
        elif column.kind is Kind.TEXTS:
            values[index] = json.loads(values[index])
        elif column.kind is Kind.EXPIRY:
            values[index] = min(values[index], LATEST)
    return tuple(values)


def _to_sqlite(table: Table, row: Row) -> Row:
    values: list[Any] = list(row)
    for index, column in enumerate(table.columns):
        if column.kind is Kind.TEXTS:
            values[index] = json.dumps(values[index])
    return tuple(values)


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite has rolled back by itself after some errors.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


async def _in_thread(work: Callable[[], T], path: Path) -> T:
    try:
        return await trio.to_thread.run_sync(work)
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
