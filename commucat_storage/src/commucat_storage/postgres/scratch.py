"""A database for one use, beside the one that a DSN names; for benchmarks and trials."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import trio

from commucat_storage.asyncio_loop import AsyncioLoop, open_loop
from commucat_storage.postgres.connection import Connection, connect, translate
from commucat_storage.postgres.pool import close_connection
from commucat_storage.postgres.settings import PostgresSettings


@asynccontextmanager
async def scratch_database(dsn: str) -> AsyncIterator[str]:
    """Create an empty database on the server of ``dsn`` and drop it at the end; its DSN.

    The role must be allowed to create databases. What still uses the database then is cut off.

    Raises:
        StorageError: the server cannot be reached, or refuses; the text says why.
    """
    name = f"commucat_scratch_{secrets.token_hex(6)}"
    async with open_loop() as loop:
        await _execute(loop, dsn, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
        finally:
            with trio.CancelScope(shield=True):
                await _execute(loop, dsn, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def _execute(loop: AsyncioLoop, dsn: str, statement: str) -> None:
    async def unit() -> None:
        try:
            connection: Connection = await connect(dsn, PostgresSettings(), patient=True)
            try:
                # Files are made and synced: this may take a while on a busy machine.
                await connection.execute("SET statement_timeout = 0")
                await connection.execute(statement)
            finally:
                await close_connection(connection)
        except Exception as exc:
            raise translate(exc, dsn) from exc

    await loop.run(unit)
