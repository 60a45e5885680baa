"""The store that the configuration names: the embedded one, or a PostgreSQL database.

The PostgreSQL backend is imported only when it is configured: its libraries need not be installed
otherwise, and change how asyncio works once they are imported.
"""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import attrs
import trio

from commucat_server.config import ServerConfig
from commucat_storage import (
    SqliteSettings,
    Storage,
    StorageUnavailableError,
    migrate_sqlite,
    open_sqlite,
    sqlite_status,
)


@attrs.frozen(kw_only=True)
class StoreStatus:
    """Where the schema of the store stands, whichever backend it is."""

    schema_version: int
    pending: tuple[str, ...]
    size_bytes: int
    server: str | None = None
    """What answers, for a database server."""


def open_store(
    config: ServerConfig, *, quick_check_bytes: int | None = None
) -> AbstractAsyncContextManager[Storage]:
    """Open the store with the limits of the configuration; migrates it as needed.

    ``quick_check_bytes``: the size up to which the embedded store is read for damage; None for its default.

    Raises:
        StorageError: it cannot be opened; the text says why.
    """
    limits = config.limits
    shared = {
        "max_rows": limits.inbox_rows,
        "max_bytes": limits.inbox_bytes,
        "max_routes": limits.routes_per_device,
        "stranger_rows": limits.stranger_rows,
        "stranger_bytes": limits.stranger_bytes,
    }
    dsn = config.storage.postgres_dsn
    if dsn is None:
        if quick_check_bytes is not None:
            shared["quick_check_bytes"] = quick_check_bytes
        return open_sqlite(config.storage.path, settings=SqliteSettings(**shared))
    with explained():
        from commucat_storage.postgres import PostgresSettings, open_postgres
    settings = PostgresSettings(
        domain=config.server.domain, max_database_bytes=limits.max_database_bytes, **shared
    )
    return open_postgres(dsn, settings=settings)


def migrate_store(config: ServerConfig) -> list[str]:
    """Bring the store to the newest schema; the names of what was applied. Blocks.

    Raises:
        StorageError: it cannot; the text says why.
    """
    dsn = config.storage.postgres_dsn
    if dsn is None:
        return migrate_sqlite(config.storage.path)
    with explained():
        from commucat_storage.postgres import PostgresSettings, migrate_postgres
    settings = PostgresSettings(domain=config.server.domain)
    return trio.run(lambda: migrate_postgres(dsn, settings=settings))


def store_status(config: ServerConfig) -> StoreStatus:
    """Read where the schema stands, without changing anything. Blocks. Raises as :func:`migrate_store`."""
    dsn = config.storage.postgres_dsn
    if dsn is None:
        embedded = sqlite_status(config.storage.path)
        return StoreStatus(
            schema_version=embedded.schema_version, pending=embedded.pending, size_bytes=embedded.size_bytes
        )
    with explained():
        from commucat_storage.postgres import postgres_status
    found = trio.run(postgres_status, dsn)
    encryption = "TLS" if found.tls else "no TLS"
    return StoreStatus(
        schema_version=found.schema_version,
        pending=found.pending,
        size_bytes=found.size_bytes,
        server=f"PostgreSQL {found.server_version}, {encryption}",
    )


def place_of_store(config: ServerConfig) -> str:
    """What messages call the store; shows no password."""
    dsn = config.storage.postgres_dsn
    if dsn is None:
        return str(config.storage.path)
    with explained():
        from commucat_storage.postgres import place_of
    return place_of(dsn)


@contextmanager
def explained() -> Iterator[None]:
    """Say what to install where the PostgreSQL backend is imported and its libraries are missing."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise StorageUnavailableError(
            f"storage.postgres_dsn needs {exc.name}, which is not installed; "
            "run: pip install 'commucat-storage[postgres]'"
        ) from exc
