"""One connection: how it is opened and set up, and what its errors mean to an operator."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from commucat_storage.errors import SchemaError, StorageError, StorageUnavailableError
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.postgres.texts import from_database, to_database

Row: TypeAlias = tuple[Any, ...]


class Connection:
    """What is used of asyncpg's connection. Texts may hold anything: see ``texts.py``."""

    def __init__(self, raw: asyncpg.Connection) -> None:
        self._raw = raw

    async def execute(self, query: str, *args: object) -> str:
        """Run one statement, or a script without arguments; the tag of the last, such as ``UPDATE 1``."""
        tag: str = await self._raw.execute(query, *map(_encoded, args))
        return tag

    async def executemany(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row of arguments, in one round trip or few."""
        await self._raw.executemany(query, [tuple(map(_encoded, row)) for row in rows])

    async def fetch(self, query: str, *args: object) -> list[Row]:
        """All rows of the result."""
        rows = await self._raw.fetch(query, *map(_encoded, args))
        return [tuple(map(_decoded, row)) for row in rows]

    async def fetchrow(self, query: str, *args: object) -> Row | None:
        """The first row of the result."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: object) -> Any:
        """The first value of the first row; None without one."""
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]

    async def close(self, seconds: float) -> None:
        """Say goodbye, and wait at most so long for the other side."""
        await self._raw.close(timeout=seconds)

    def terminate(self) -> None:
        """Drop the connection without a word; the server rolls back what was open."""
        self._raw.terminate()

    def is_closed(self) -> bool:
        closed: bool = self._raw.is_closed()
        return closed

    def is_in_transaction(self) -> bool:
        inside: bool = self._raw.is_in_transaction()
        return inside


def _encoded(value: object) -> object:
    if type(value) is str:
        return to_database(value)
    # Lists hold texts or none at all; a tuple is taken as it is.
    if type(value) is list and value and type(value[0]) is str:
        return [to_database(text) for text in value]
    return value


def _decoded(value: object) -> object:
    if type(value) is str:
        return from_database(value)
    if type(value) is list:
        return [from_database(text) for text in value]
    return value


# The connection is gone, or there was none: the same work may succeed on a new one.
_LOST = (
    OSError,  # includes TimeoutError and every kind of refused or broken connection
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
# Two transactions met; one of them did nothing and may be tried again.
CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
# The caller's mistakes; anything else is the server's trouble and would hit every other batch too.
MISTAKES = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.InterfaceError,
    ValueError,
    TypeError,
    asyncpg.PostgresSyntaxError,
    asyncpg.UndefinedFunctionError,
    asyncpg.ProgramLimitExceededError,
)


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that the outcome of the last statement is not known."""
    if isinstance(error, asyncpg.InterfaceError):
        # A value that does not fit a parameter is one too.
        return not isinstance(error, ValueError)
    return isinstance(error, _LOST)


async def connect(
    dsn: str, settings: PostgresSettings, *, for_journal: bool = False, patient: bool = False
) -> Connection:
    """Open a connection in autocommit mode; ``patient`` ones wait for answers however long it takes.

    Raises:
        Exception: whatever asyncpg raises; see :func:`translate`.
    """
    options = {
        "application_name": "commucat-journal" if for_journal else "commucat",
        "statement_timeout": str(int(settings.statement_timeout * 1000)),
        "idle_in_transaction_session_timeout": str(int(settings.unit_timeout * 1000)),
        # Rows are locked before they are decided upon; each statement must see what was committed
        # before it got its locks.
        "default_transaction_isolation": "read committed",
        "timezone": "UTC",
        # Compiling a statement takes a hundred times as long as running it; estimates invite to it.
        "jit": "off",
    }
    if for_journal:
        # All its statements look rows up by key. With statistics older than a million new rows the
        # planner would read the whole table for some of them.
        options |= {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
    try:
        raw = await asyncpg.connect(
            dsn,
            timeout=settings.connect_timeout,
            server_settings=options,
            # Only for a server that hangs: it ends its statements earlier by itself. The journal has one
            # limit for all statements of a transaction, as each timer costs it a task.
            command_timeout=None if patient or for_journal else settings.statement_timeout + 5,
        )
    except (ValueError, asyncpg.InterfaceError) as exc:
        raise StorageUnavailableError(
            f"the address of {place_of(dsn)} cannot be used ({one_line(exc)}); "
            "it looks like postgresql://user:password@host:5432/database"
        ) from exc
    try:
        # "off" acknowledges commits that a crash of the database loses. Whatever is safer stays.
        await raw.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
    except BaseException:
        raw.terminate()
        raise
    return Connection(raw)


def one_line(error: BaseException) -> str:
    """The text of an error, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def place_of(dsn: str) -> str:
    """Host and database of a DSN, without user and password, for messages."""
    try:
        parts = urlsplit(dsn)
        options = parse_qs(parts.query)
        host = parts.netloc.rpartition("@")[2] or "".join(options.get("host", ["the default host"])[:1])
        name = unquote(parts.path.lstrip("/")) or "".join(options.get("dbname", ["?"])[:1])
    except ValueError:
        return "PostgreSQL"
    return f"PostgreSQL at {unquote(host)}, database {name}"


def translate(error: BaseException, dsn: str) -> StorageError:
    """The storage error that tells an operator, in one line, what ``error`` means."""
    place = place_of(dsn)
    text = one_line(error)
    match error:
        case StorageError():
            return error
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return StorageUnavailableError(f"{place}: refuses the user or its password ({text})")
        case asyncpg.InvalidCatalogNameError():
            return StorageUnavailableError(f"{place}: there is no such database; make it with createdb")
        case asyncpg.InsufficientPrivilegeError():
            return StorageUnavailableError(
                f"{place}: the role lacks rights ({text}); make it the owner of the database"
            )
        case asyncpg.ReadOnlySQLTransactionError():
            return StorageUnavailableError(f"{place}: takes no writes ({text}); is it a standby?")
        case asyncpg.DiskFullError():
            return StorageUnavailableError(f"{place}: its disk is full ({text})")
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return StorageUnavailableError(f"{place}: did not answer in time ({text})")
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return SchemaError(f"{place}: a part of the schema is missing ({text})")
        case TimeoutError():
            return StorageUnavailableError(f"{place}: did not answer in time")
        case _ if is_lost(error):
            return StorageUnavailableError(f"{place}: cannot be reached ({text})")
        case _:
            return StorageError(f"{place}: {text}")
