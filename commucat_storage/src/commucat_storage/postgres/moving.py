"""A PostgreSQL database as something to read from and to fill. Needs the extra ``postgres``."""

import itertools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, TypeVar

import asyncpg
import trio

from commucat_storage import store_mark as marks
from commucat_storage.asyncio_loop import AsyncioLoop, open_loop
from commucat_storage.errors import StorageError
from commucat_storage.federation import outbox_of
from commucat_storage.migrations import pending_migrations
from commucat_storage.moving.errors import MoveError, other_origin
from commucat_storage.moving.ports import MovableSource, Source, StoreFacts, Target
from commucat_storage.moving.rows import Row
from commucat_storage.moving.tables import OUTBOX, TABLES, Table
from commucat_storage.postgres.connection import Connection, connect, place_of, translate
from commucat_storage.postgres.entry import LEAVE
from commucat_storage.postgres.migrate import (
    apply_migrations,
    bundled_migrations,
    claim,
    read_applied,
)
from commucat_storage.postgres.moving_sql import (
    ENTITIES,
    INBOX,
    SETTLE,
    reading,
    writing,
    writing_owners,
)
from commucat_storage.postgres.pool import close_connection, commit, in_transaction, roll_back
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.store_mark import Mark, MoveState

T = TypeVar("T")

_cursors = itertools.count(1)
# A transaction waits while the other store writes, and a table takes as long as it takes.
_NO_LIMITS: Final = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"


@asynccontextmanager
async def postgres_snapshot(dsn: str) -> AsyncIterator[Source]:
    """The rows of the database as they are now, beside servers that use it.

    Raises:
        StorageError: it cannot be read, is marked, or its schema is not that of this program.
    """
    async with _session(dsn, alone=False) as session:
        await session.run(lambda connection: _open_snapshot(connection, dsn, "READ ONLY"))
        yield await session.run(partial(_source, session))


@asynccontextmanager
async def postgres_movable(dsn: str, domain: str) -> AsyncIterator[MovableSource]:
    """The rows of the database, which nobody can use meanwhile.

    Raises:
        StorageError: as :func:`postgres_snapshot`; a server uses it; it is of another domain or being filled.
    """
    async with _session(dsn, alone=True) as session:
        await session.run(lambda connection: _open_snapshot(connection, dsn, "READ WRITE", domain))
        source = await session.run(partial(_source, session))
        if source.mark is not None and source.mark.state is MoveState.FILLING:
            marks.refuse_marked(source.mark, session.place)
        yield source


@asynccontextmanager
async def postgres_target(dsn: str, domain: str) -> AsyncIterator[Target]:
    """An empty database to be filled, which nobody can use meanwhile.

    Raises:
        StorageError: it cannot be written, a server uses it, or it is of another domain.
    """
    settings = PostgresSettings(domain=domain)

    async def prepare(connection: Connection) -> None:
        await apply_migrations(connection, dsn, settings, bundled_migrations())
        await claim(connection, dsn, domain)

    async with _session(dsn, alone=True) as session:
        await session.run(prepare)
        yield _PostgresTarget(session)


async def unmark_postgres(dsn: str) -> str | None:
    """Let servers use a database again that was moved away; where it had gone, None if nowhere.

    Raises:
        MoveError: it is being filled.
        StorageError: it cannot be reached.
    """

    async def work(connection: Connection) -> str | None:
        mark = await _read_mark(connection)
        if mark is None:
            return None
        if mark.state is MoveState.FILLING:
            raise MoveError(f"{place_of(dsn)} is only half filled; finish that, or drop the database")
        for statement in marks.DROP:
            await connection.execute(statement)
        return mark.other

    async with _session(dsn, alone=True) as session:
        return await session.run(lambda connection: in_transaction(connection, work))


class _Session:
    """One connection, and how to use it from Trio."""

    def __init__(self, loop: AsyncioLoop, connection: Connection, dsn: str) -> None:
        self._loop = loop
        self._connection = connection
        self._dsn = dsn
        self.place = place_of(dsn)

    async def run(self, unit: Callable[[Connection], Awaitable[T]]) -> T:
        """Call ``unit``; errors are those of the store."""

        async def explained() -> T:
            try:
                return await unit(self._connection)
            except StorageError:
                raise
            except asyncpg.IntegrityConstraintViolationError as exc:
                raise MoveError(f"{self.place}: a row does not fit: {exc}") from exc
            except Exception as exc:
                raise translate(exc, self._dsn) from exc

        # The connection is for this alone: whoever is interrupted need not wait for a statement.
        return await self._loop.run(explained, give_up=True)


@asynccontextmanager
async def _session(dsn: str, *, alone: bool) -> AsyncIterator[_Session]:
    settings = PostgresSettings()

    async def opened() -> Connection:
        try:
            connection = await connect(dsn, settings, patient=True, alone=alone)
            await connection.execute(_NO_LIMITS)
        except StorageError:
            raise
        except Exception as exc:
            raise translate(exc, dsn) from exc
        return connection

    async with open_loop() as loop:
        connection = await loop.run(opened)
        try:
            yield _Session(loop, connection, dsn)
        finally:
            with trio.CancelScope(shield=True):
                await loop.run(partial(_leave, connection))


async def _leave(connection: Connection) -> None:
    if connection.is_in_transaction():
        await roll_back(connection)
    if not connection.is_closed():
        # The server takes its time to notice a closed connection; whoever comes next should not wait for it.
        with suppress(Exception):
            await connection.execute(LEAVE)
    await close_connection(connection)


async def _open_snapshot(connection: Connection, dsn: str, access: str, domain: str | None = None) -> None:
    applied = await read_applied(connection)
    if not applied or pending_migrations(place_of(dsn), applied, bundled_migrations()):
        raise MoveError(f"{place_of(dsn)} has an older schema, or none; run first: commucat-cli migrate")
    if domain is not None:
        await claim(connection, dsn, domain)
    await connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ {access}")


async def _source(session: _Session, connection: Connection) -> "_PostgresSource":
    facts = StoreFacts(
        backend="postgres",
        schema_version=max(await read_applied(connection)),
        cluster_id=await connection.fetchval("SELECT cluster_id::text FROM cluster"),
    )
    return _PostgresSource(session, facts, await _read_mark(connection))


async def _read_mark(connection: Connection) -> Mark | None:
    if await connection.fetchval(f"SELECT to_regclass('{marks.MARK_TABLE}') IS NULL"):
        return None
    row = await connection.fetchrow(marks.SELECT)
    return None if row is None else marks.mark_of((row[0], row[1], row[2]))


async def _write_mark(connection: Connection, mark: Mark) -> None:
    for statement in marks.CREATE:
        await connection.execute(statement)
    await connection.execute(
        f"INSERT INTO {marks.MARK_TABLE} VALUES (1, $1, $2, $3) ON CONFLICT (only_row) DO UPDATE SET "  # noqa: S608
        "state = excluded.state, move_id = excluded.move_id, other = excluded.other",
        mark.state.value,
        mark.move_id,
        mark.other,
    )


class _PostgresSource(MovableSource):
    """Reads with a cursor in the transaction that is open, or in one of its own."""

    def __init__(self, session: _Session, facts: StoreFacts, mark: Mark | None) -> None:
        self._session = session
        self.place = session.place
        self.facts = facts
        self.tables = TABLES
        self.mark = mark

    async def count(self, table: Table) -> int:
        async def work(connection: Connection) -> int:
            if table.owner_columns:
                await self._refuse_homeless(connection, table)
            return int(await connection.fetchval(f"SELECT count(*) FROM {table.database_name}"))  # noqa: S608

        return await self._session.run(work)

    async def batches(self, table: Table) -> AsyncGenerator[list[Row], None]:
        # A cursor needs a transaction; that of a snapshot is open already.
        begun = await self._session.run(_begin_unless_begun)
        for query, most in reading(table):
            # A name of its own: what asyncpg remembers of a FETCH is the columns it had the first time.
            cursor = f"moving_{next(_cursors)}"
            await self._session.run(partial(_declare, cursor, query))
            while rows := await self._session.run(partial(_fetch, cursor, most)):
                yield rows
            await self._session.run(partial(_close_cursor, cursor))
        if begun:
            await self._session.run(commit)

    async def retire(self, mark: Mark) -> None:
        async def work(connection: Connection) -> None:
            await _write_mark(connection, mark)
            await connection.execute("COMMIT")

        await self._session.run(work)
        self.mark = mark

    async def _refuse_homeless(self, connection: Connection, table: Table) -> None:
        homeless = await connection.fetchval(
            f"SELECT count(*) FROM {table.database_name} WHERE NOT EXISTS "  # noqa: S608 - names of ours
            f"(SELECT 1 FROM {INBOX} WHERE entity_id = {ENTITIES[table.name]})"
        )
        if homeless:
            raise MoveError(f"{self.place} is damaged: {homeless} {table.homeless} have no inbox")


async def _begin_unless_begun(connection: Connection) -> bool:
    if connection.is_in_transaction():
        return False
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    return True


async def _declare(cursor: str, query: str, connection: Connection) -> None:
    await connection.execute(f"DECLARE {cursor} NO SCROLL CURSOR FOR {query}")


async def _fetch(cursor: str, most: int, connection: Connection) -> list[Row]:
    return await connection.fetch(f"FETCH {most} FROM {cursor}")


async def _close_cursor(cursor: str, connection: Connection) -> None:
    await connection.execute(f"CLOSE {cursor}")


class _PostgresTarget(Target):
    """Writes through one connection, a transaction for each portion."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self.place = session.place
        self.tables = TABLES

    async def begin(self, origin: str, move_id: str, *, start_over: bool) -> tuple[str, dict[str, int]]:
        async def work(connection: Connection) -> tuple[str, dict[str, int]]:
            mark = await _read_mark(connection)
            if mark is not None and mark.state is MoveState.MOVED:
                marks.refuse_marked(mark, self.place)
            if mark is not None and start_over:
                # Cascades to nothing else: whatever refers to these tables is among them.
                await connection.execute(
                    f"TRUNCATE {', '.join([*(table.database_name for table in TABLES), INBOX])} CASCADE"
                )
                for statement in marks.DROP:
                    await connection.execute(statement)
                mark = None
            if mark is None:
                await self._refuse_filled(connection)
                mark = Mark(MoveState.FILLING, move_id, origin)
                await _write_mark(connection, mark)
            elif mark.other != origin:
                raise other_origin(self.place, mark)
            rows = await connection.fetch(f"SELECT name, rows FROM {marks.PROGRESS_TABLE}")  # noqa: S608
            return mark.move_id, dict(rows)

        return await self._in_transaction(work)

    async def write(self, table: Table, rows: Sequence[Row], done: int) -> None:
        async def work(connection: Connection) -> None:
            if owned := table.owner_columns:
                write_owner, write_inbox = writing_owners(table)
                await connection.executemany(write_owner, [row[:owned] for row in rows])
                await connection.executemany(write_inbox, [_inbox_values(table, row) for row in rows])
            else:
                await connection.executemany(writing(table.name, table.columns), rows)
            await connection.execute(
                f"INSERT INTO {marks.PROGRESS_TABLE} VALUES ($1, $2) "  # noqa: S608 - a name of ours
                "ON CONFLICT (name) DO UPDATE SET rows = excluded.rows",
                table.name,
                done,
            )

        await self._in_transaction(work)

    async def settle(self, cluster_id: str | None) -> None:
        async def work(connection: Connection) -> None:
            for statement in SETTLE:
                await connection.execute(statement)
            if cluster_id is not None:
                await connection.execute("UPDATE cluster SET cluster_id = $1::text::uuid", cluster_id)

        await self._in_transaction(work)

    def written(self) -> Source:
        facts = StoreFacts(backend="postgres", schema_version=bundled_migrations()[-1].version)
        return _PostgresSource(self._session, facts, None)

    async def release(self) -> None:
        async def work(connection: Connection) -> None:
            for statement in marks.DROP:
                await connection.execute(statement)

        await self._in_transaction(work)
        await self._session.run(lambda connection: connection.execute("ANALYZE"))

    async def _refuse_filled(self, connection: Connection) -> None:
        for table in TABLES:
            if await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table.database_name})"):  # noqa: S608
                raise MoveError(
                    f"{self.place} is not empty ({table.database_name}); "
                    "name an empty database, made with createdb"
                )

    async def _in_transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._session.run(lambda connection: in_transaction(connection, work))


def _inbox_values(table: Table, row: Row) -> Row:
    entity = outbox_of(row[0]) if table is OUTBOX else row[0]
    # A new epoch: what clients remember of the old store's numbers must not confirm anything here.
    return (*row[table.owner_columns :], entity, secrets.token_hex(16))
