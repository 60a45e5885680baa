"""The backends that every test of the interface runs against."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from commucat_storage import SqliteSettings, SqliteStorage, Storage, open_sqlite
from commucat_storage.postgres import PostgresSettings, PostgresStorage, open_postgres
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from storage.moving_builders import PostgresHome, emptied


class Backend(Protocol):
    """One database of its own; opening it again finds what was stored."""

    def open(self, **limits: int) -> AbstractAsyncContextManager[Storage]: ...

    def numbers(self, query: str) -> list[tuple[int, ...]]:
        """The result of a query for whole numbers."""
        ...

    def change(self, statement: str) -> None:
        """Change what is stored, while no store is open."""
        ...


class SqliteBackend:
    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, **limits: int) -> AbstractAsyncContextManager[SqliteStorage]:
        settings = SqliteSettings(**limits)
        return open_sqlite(self.path, settings=settings)

    def numbers(self, query: str) -> list[tuple[int, ...]]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def change(self, statement: str) -> None:
        connection = sqlite3.connect(self.path)
        with contextlib.closing(connection), connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(statement)


class PostgresBackend:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def open(self, **limits: int) -> AbstractAsyncContextManager[PostgresStorage]:
        # A full disk is seen by the room that is left here, and there by the size that is allowed.
        if limits.pop("min_free_bytes", 0):
            limits["max_database_bytes"] = 0
        return open_postgres(self.dsn, settings=PostgresSettings(**limits))

    def numbers(self, query: str) -> list[tuple[int, ...]]:
        return [tuple(map(int, line.split("|"))) for line in run_sql(self.dsn, query).splitlines()]

    def change(self, statement: str) -> None:
        run_sql(self.dsn, statement)


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, postgres_databases: PostgresDatabases) -> Backend:
    if request.param == "sqlite":
        return SqliteBackend(tmp_path / "store.db")
    return PostgresBackend(postgres_databases.migrated())


@pytest.fixture
def database(postgres_databases: PostgresDatabases) -> Iterator[PostgresHome]:
    """An empty PostgreSQL store to be moved from or to."""
    dsn = postgres_databases.migrated()
    yield emptied(dsn)
    emptied(dsn)


@pytest.fixture
async def storage(backend: Backend) -> AsyncIterator[Storage]:
    async with backend.open() as opened:
        yield opened
