"""Numbered migrations: found in the package, applied in order, remembered with their checksum."""

import hashlib
import re
import sqlite3
import time
from importlib import resources
from pathlib import Path

import attrs

from commucat_storage.errors import SchemaError
from commucat_storage.sqlite.connection import APPLICATION_ID, connect_reader, connect_writer, translate
from commucat_storage.sqlite.settings import SqliteSettings

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = """CREATE TABLE IF NOT EXISTS schema_migration (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   BLOB NOT NULL CHECK (length(checksum) = 32),
    applied_at INTEGER NOT NULL
) STRICT"""


@attrs.frozen(kw_only=True)
class Migration:
    """One step of the schema; ``checksum`` is SHA-256 over the UTF-8 text of its file."""

    version: int
    name: str
    sql: str = attrs.field(repr=False)
    checksum: bytes = attrs.field(repr=False)


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
    found = []
    for entry in resources.files("commucat_storage.sqlite").joinpath("migrations").iterdir():
        if match := _FILE_NAME.fullmatch(entry.name):
            text = entry.read_text(encoding="utf-8")
            found.append(
                Migration(
                    version=int(match[1]),
                    name=match[2],
                    sql=text,
                    checksum=hashlib.sha256(text.encode()).digest(),
                )
            )
    return tuple(sorted(found, key=lambda migration: migration.version))


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
    pending = _pending(path, applied, migrations)
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
    pending = _pending(path, _read_applied(connection), migrations)
    while pending:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Once more under the lock: another process may have been quicker.
            pending = _pending(path, _read_applied(connection), migrations)
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


def _read_applied(connection: sqlite3.Connection) -> dict[int, tuple[str, bytes]]:
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migration'").fetchone()
    if known is None:
        return {}
    rows = connection.execute("SELECT version, name, checksum FROM schema_migration").fetchall()
    return {version: (name, checksum) for version, name, checksum in rows}


def _pending(
    path: Path, applied: dict[int, tuple[str, bytes]], migrations: tuple[Migration, ...]
) -> list[Migration]:
    bundled = {migration.version: migration for migration in migrations}
    for version in sorted(applied):
        name, checksum = applied[version]
        if version not in bundled:
            raise SchemaError(
                f"the database {path} has migration {version} ({name}), which this program does not know; "
                "run the version of the program that wrote it, or a newer one"
            )
        if checksum != bundled[version].checksum:
            raise SchemaError(
                f"migration {version} ({name}) is not the one that the database {path} had: it was edited"
            )
    last = max(applied, default=0)
    for migration in migrations:
        if migration.version < last and migration.version not in applied:
            raise SchemaError(
                f"migration {migration.version} ({migration.name}) was left out of the database {path}"
            )
    return [migration for migration in migrations if migration.version > last]
