"""Numbered migrations: found in the package, applied in order, remembered with their checksum."""

import sqlite3
import time
from pathlib import Path

import attrs

from commucat_storage.errors import SchemaError
from commucat_storage.migrations import Migration, migrations_of, pending_migrations
from commucat_storage.sqlite.connection import APPLICATION_ID, connect_reader, connect_writer, translate
from commucat_storage.sqlite.settings import SqliteSettings

_TABLE = """CREATE TABLE IF NOT EXISTS schema_migration (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   BLOB NOT NULL CHECK (length(checksum) = 32),
    applied_at INTEGER NOT NULL
) STRICT"""


@attrs.frozen(kw_only=True)
class SqliteStatus:
    """What an operator wants to know before a migration.

    ``schema_version`` is 0 for a file that does not exist or is empty.
    """

    schema_version: int
    latest_version: int
    pending: tuple[str, ...]
    size_bytes: int


def bundled_migrations() -> tuple[Migration, ...]:
    """The migrations of this program, lowest version first."""
    return migrations_of("commucat_storage.sqlite")


def migrate_sqlite(path: Path, *, settings: SqliteSettings | None = None) -> list[str]:
    """Bring the database at ``path`` to the newest schema; return the names of what was applied.

    Blocks. Safe while a server uses the database, and when several processes do it at once.

    Raises:
        StorageUnavailableError: the file or its directory cannot be read or written.
        SchemaError: the database is damaged, newer than this program, or was migrated
            with files that have been edited since.
    """
    connection = connect_writer(path, settings or SqliteSettings())
    try:
        return apply_migrations(connection, path, bundled_migrations())
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    finally:
        connection.close()


def sqlite_status(path: Path) -> SqliteStatus:
    """Read, without changing anything, where the schema at ``path`` stands. Blocks.

    Raises as :func:`migrate_sqlite` does.
    """
    migrations = bundled_migrations()
    applied: dict[int, tuple[str, bytes]] = {}
    size = 0
    if path.exists():
        connection = connect_reader(path, SqliteSettings())
        try:
            size = path.stat().st_size
            applied = _read_applied(connection)
        except sqlite3.Error as exc:
            raise translate(exc, path) from exc
        finally:
            connection.close()
    pending = pending_migrations(f"the database {path}", applied, migrations)
    return SqliteStatus(
        schema_version=max(applied, default=0),
        latest_version=migrations[-1].version,
        pending=tuple(migration.name for migration in pending),
        size_bytes=size,
    )


def apply_migrations(
    connection: sqlite3.Connection, path: Path, migrations: tuple[Migration, ...]
) -> list[str]:
    """Apply what is pending, each migration in a transaction of its own; ``path`` is for the errors."""
    done = []
    pending = pending_migrations(f"the database {path}", _read_applied(connection), migrations)
    while pending:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Once more under the lock: another process may have been quicker.
            pending = pending_migrations(f"the database {path}", _read_applied(connection), migrations)
            if pending:
                _apply(connection, pending[0])
                done.append(pending[0].name)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        pending = pending[1:]
    return done


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(_TABLE)
    for statement in _statements(migration.sql):
        connection.execute(statement)
    connection.execute(
        "INSERT INTO schema_migration VALUES (?, ?, ?, ?)",
        (migration.version, migration.name, migration.checksum, int(time.time())),
    )


def _statements(script: str) -> list[str]:
    """Split a script; ``executescript`` would commit what came before it."""
    statements = []
    current = ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    if current.strip():
        raise SchemaError("a migration ends in the middle of a statement")
    return statements


def schema_of(connection: sqlite3.Connection, path: Path) -> tuple[int, tuple[str, ...]]:
    """The version of the schema, and the names of migrations that are pending. Raises as the others."""
    applied = _read_applied(connection)
    pending = pending_migrations(f"the database {path}", applied, bundled_migrations())
    return max(applied, default=0), tuple(migration.name for migration in pending)


def _read_applied(connection: sqlite3.Connection) -> dict[int, tuple[str, bytes]]:
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migration'").fetchone()
    if known is None:
        return {}
    rows = connection.execute("SELECT version, name, checksum FROM schema_migration").fetchall()
    return {version: (name, checksum) for version, name, checksum in rows}
