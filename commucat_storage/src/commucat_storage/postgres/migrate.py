"""Numbered migrations: found in the package, applied in order, remembered with their checksum."""

import asyncpg
import attrs

from commucat_storage.migrations import Migration, migrations_of, pending_migrations
from commucat_storage.postgres.connection import Connection, one_line, place_of
from commucat_storage.postgres.pool import in_transaction
from commucat_storage.postgres.problems import OLDEST_VERSION, Problems
from commucat_storage.postgres.settings import PostgresSettings

_LOCK = 0x43434154_4D494752  # "CCATMIGR": one migration of a database at a time
_TABLE = """CREATE TABLE IF NOT EXISTS schema_migration (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


@attrs.frozen(kw_only=True)
class PostgresStatus:
    """What an operator wants to know before a migration. ``schema_version`` is 0 for an empty database."""

    schema_version: int
    latest_version: int
    pending: tuple[str, ...]
    size_bytes: int
    server_version: str
    tls: bool
    """Whether the connection to the server is encrypted."""


def bundled_migrations() -> tuple[Migration, ...]:
    """The migrations of this program, lowest version first."""
    return migrations_of("commucat_storage.postgres")


async def apply_migrations(
    connection: Connection, dsn: str, settings: PostgresSettings, migrations: tuple[Migration, ...]
) -> list[str]:
    """Apply what is pending, each migration in a transaction of its own; return the names.

    A database of another server of this protocol, which has no table of migrations, is taken over: the
    first nine create what is absent, and the others change what is there.

    Raises:
        SchemaError: the database is newer than this program, or was migrated with files that were edited.
        StorageUnavailableError: another process has been migrating for ``migrate_timeout``.
    """
    await _refuse_unfit(connection, dsn)
    done: list[str] = []
    while pending_migrations(place_of(dsn), await read_applied(connection), migrations):
        name = await in_transaction(connection, lambda within: _apply_next(within, dsn, settings, migrations))
        if name is not None:
            done.append(name)
    return done


async def status(connection: Connection, dsn: str) -> PostgresStatus:
    """Read, without changing anything, where the schema stands. Raises as :func:`apply_migrations`."""
    migrations = bundled_migrations()
    applied = await read_applied(connection)
    pending = pending_migrations(place_of(dsn), applied, migrations)
    row = await connection.fetchrow(
        "SELECT pg_database_size(current_database()), current_setting('server_version'), "
        "coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)"
    )
    assert row is not None, "the query gives one row"
    return PostgresStatus(
        schema_version=max(applied, default=0),
        latest_version=migrations[-1].version,
        pending=tuple(migration.name for migration in pending),
        size_bytes=row[0],
        server_version=row[1],
        tls=row[2],
    )


async def claim(connection: Connection, dsn: str, domain: str) -> None:
    """Make the database that of ``domain``, or find that it is.

    Raises:
        SchemaError: it belongs to a server of another domain.
    """
    await connection.execute("UPDATE cluster SET domain = $1 WHERE domain IS NULL", domain)
    owner = await connection.fetchval("SELECT domain FROM cluster")
    if owner != domain:
        raise Problems.FOREIGN.at(place_of(dsn), f"{owner!r}, and this one is of {domain!r}")
    await connection.execute(
        "UPDATE app_user AS u SET domain = $1 WHERE domain = 'local' AND $1 <> 'local' "
        "AND NOT EXISTS (SELECT 1 FROM app_user AS o WHERE o.handle = u.handle AND o.domain = $1)",
        domain,
    )


async def read_applied(connection: Connection) -> dict[int, tuple[str, bytes]]:
    """Name and checksum of what was applied, by version."""
    if await connection.fetchval("SELECT to_regclass('schema_migration') IS NULL"):
        return {}
    rows = await connection.fetch("SELECT version, name, checksum FROM schema_migration")
    return {version: (name, checksum) for version, name, checksum in rows}


async def _apply_next(
    connection: Connection, dsn: str, settings: PostgresSettings, migrations: tuple[Migration, ...]
) -> str | None:
    # The lock ends with the transaction, whatever happens to this process.
    await connection.execute("SET LOCAL statement_timeout = 0")
    await connection.execute(f"SET LOCAL lock_timeout = {int(settings.migrate_timeout * 1000)}")
    try:
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
    except asyncpg.LockNotAvailableError as exc:
        raise Problems.MIGRATING.at(place_of(dsn)) from exc
    await connection.execute("SET LOCAL lock_timeout = 0")
    # Made before it is looked for: what was found absent before the lock is remembered as absent.
    await connection.execute(_TABLE)
    # Once more under the lock: another process may have been quicker.
    pending = pending_migrations(place_of(dsn), await read_applied(connection), migrations)
    if not pending:
        return None
    migration = pending[0]
    try:
        await connection.execute(migration.sql)
    except (asyncpg.SyntaxOrAccessError, asyncpg.IntegrityConstraintViolationError, asyncpg.DataError) as exc:
        if isinstance(exc, asyncpg.InsufficientPrivilegeError):
            raise
        detail = f"{migration.version} ({migration.name}) failed: {one_line(exc)}"
        raise Problems.MIGRATION.at(place_of(dsn), detail) from exc
    await connection.execute(
        "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.checksum,
    )
    return migration.name


async def _refuse_unfit(connection: Connection, dsn: str) -> None:
    """Refuse what lacks what the schema uses, would change texts, or takes no writes."""
    row = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::integer, current_setting('server_version'), "
        "current_setting('server_encoding'), pg_is_in_recovery(), "
        "current_setting('default_transaction_read_only')::boolean"
    )
    assert row is not None, "the query gives one row"
    number, version, encoding, standby, read_only = row
    place = place_of(dsn)
    if number < OLDEST_VERSION:
        raise Problems.OLD.at(place, version)
    if encoding != "UTF8":
        raise Problems.ENCODING.at(place, encoding)
    if standby or read_only:
        raise Problems.READ_ONLY.at(place, "it is a standby" if standby else "default_transaction_read_only")
