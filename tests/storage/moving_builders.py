"""Stores of both backends as what rows are moved from and to."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import attrs

from commucat_storage import SqliteSettings, Storage, open_sqlite
from commucat_storage.moving import (
    Copied,
    MovableSource,
    Source,
    Step,
    StoreFacts,
    Table,
    Target,
    copy_store,
    sqlite_movable,
    sqlite_snapshot,
    sqlite_target,
)
from commucat_storage.moving.rows import Row
from commucat_storage.postgres import PostgresSettings, open_postgres
from commucat_storage.postgres.moving import postgres_movable, postgres_snapshot, postgres_target
from commucat_storage.store_mark import Mark
from databases.postgres_cluster import run_sql
from databases.postgres_databases import clear

DOMAIN = "cats.example"


class Home(Protocol):
    """A place where a store can live."""

    def open(self, **limits: int) -> AbstractAsyncContextManager[Storage]: ...

    def snapshot(self) -> AbstractAsyncContextManager[Source]: ...

    def movable(self) -> AbstractAsyncContextManager[MovableSource]: ...

    def target(self) -> AbstractAsyncContextManager[Target]: ...


@attrs.frozen
class SqliteHome:
    path: Path

    def open(self, **limits: int) -> AbstractAsyncContextManager[Storage]:
        return open_sqlite(self.path, settings=SqliteSettings(**limits))

    def snapshot(self) -> AbstractAsyncContextManager[Source]:
        return sqlite_snapshot(self.path)

    def movable(self) -> AbstractAsyncContextManager[MovableSource]:
        return sqlite_movable(self.path)

    def target(self) -> AbstractAsyncContextManager[Target]:
        return sqlite_target(self.path)


@attrs.frozen
class PostgresHome:
    dsn: str

    def open(self, **limits: int) -> AbstractAsyncContextManager[Storage]:
        return open_postgres(self.dsn, settings=PostgresSettings(domain=DOMAIN, **limits))

    def snapshot(self) -> AbstractAsyncContextManager[Source]:
        return postgres_snapshot(self.dsn)

    def movable(self) -> AbstractAsyncContextManager[MovableSource]:
        return postgres_movable(self.dsn, DOMAIN)

    def target(self) -> AbstractAsyncContextManager[Target]:
        return postgres_target(self.dsn, DOMAIN)


def emptied(dsn: str) -> PostgresHome:
    """The database without what was moved there, or away."""
    run_sql(dsn, "SET client_min_messages = error; DROP TABLE IF EXISTS store_move, store_move_table")
    clear(dsn)
    return PostgresHome(dsn)


def silent(step: Step, name: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


async def transfer(source: Home, target: Home, *, start_over: bool = False) -> Copied:
    """Move everything, as the command does."""
    async with source.movable() as rows, target.target() as store:
        return await copy_store(rows, store, origin=rows.place, progress=silent, start_over=start_over)


async def contents(home: Home) -> dict[str, list[Row]]:
    """All rows by table, in the order of the store's key or issue."""
    async with home.snapshot() as source:
        return {table.name: await rows_of(source, table) for table in source.tables}


async def rows_of(source: Source, table: Table) -> list[Row]:
    return [row async for rows in source.batches(table) for row in rows]


class InterruptionError(Exception):
    """Stands for whatever ends a transfer in the middle."""


@attrs.define
class InterruptedTarget(Target):
    """Fails at the n-th call that changes the store; ``after``: when it has had its effect."""

    inner: Target
    calls: int
    after: bool = False

    @property
    def place(self) -> str:  # type: ignore[override]
        return self.inner.place

    @property
    def tables(self) -> tuple[Table, ...]:  # type: ignore[override]
        return self.inner.tables

    async def begin(self, origin: str, move_id: str, *, start_over: bool) -> tuple[str, dict[str, int]]:
        self._count(after=False)
        begun = await self.inner.begin(origin, move_id, start_over=start_over)
        self._count(after=True)
        return begun

    async def write(self, table: Table, rows: Sequence[Row], done: int) -> None:
        self._count(after=False)
        await self.inner.write(table, rows, done)
        self._count(after=True)

    async def settle(self, cluster_id: str | None) -> None:
        self._count(after=False)
        await self.inner.settle(cluster_id)
        self._count(after=True)

    def written(self) -> Source:
        return self.inner.written()

    async def release(self) -> None:
        self._count(after=False)
        await self.inner.release()

    def _count(self, *, after: bool) -> None:
        if after is self.after:
            self.calls -= 1
            if self.calls < 0:
                raise InterruptionError


@attrs.define
class OneByOne(Source):
    """Gives rows one by one, so that an interruption falls between any two."""

    inner: Source

    @property
    def place(self) -> str:  # type: ignore[override]
        return self.inner.place

    @property
    def facts(self) -> StoreFacts:  # type: ignore[override]
        return self.inner.facts

    @property
    def tables(self) -> tuple[Table, ...]:  # type: ignore[override]
        return self.inner.tables

    async def count(self, table: Table) -> int:
        return await self.inner.count(table)

    async def batches(self, table: Table) -> AsyncGenerator[list[Row], None]:
        for row in await rows_of(self.inner, table):
            yield [row]


@attrs.define
class SmallBatches(OneByOne, MovableSource):
    """The same for a store that is given up."""

    inner: MovableSource

    @property
    def mark(self) -> Mark | None:  # type: ignore[override]
        return self.inner.mark

    async def retire(self, mark: Mark) -> None:
        await self.inner.retire(mark)
