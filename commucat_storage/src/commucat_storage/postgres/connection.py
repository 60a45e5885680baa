"""One connection: how it is opened and set up, and what its errors mean to an operator."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from commucat_storage.errors import StorageError
from commucat_storage.postgres.entry import enter_alone, enter_shared
from commucat_storage.postgres.problems import Problems, problem_of
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

    async def listen(self, channel: str, told: Callable[[str], None]) -> None:
        """Have ``told`` called with each notification on the channel, a text below 8,000 characters."""
        await self._raw.add_listener(channel, lambda _raw, _pid, _channel, text: told(text))

    def on_end(self, told: Callable[[], None]) -> None:
        """Have ``told`` called when the connection has ended, whoever ended it."""
        self._raw.add_termination_listener(lambda _raw: told())

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
    dsn: str,
    settings: PostgresSettings,
    *,
    for_journal: bool = False,
    patient: bool = False,
    alone: bool = False,
) -> Connection:
    """Open a connection in autocommit mode; ``patient`` ones wait for answers however long it takes.

    ``alone``: refused while anybody else uses the database, and keeps everybody else out.

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
        # Then there is nothing to plan anew for other values, which would take longer than the statement.
        options["plan_cache_mode"] = "force_generic_plan"
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
        if isinstance(exc, OSError):
            raise  # A certificate that is not trusted is a ValueError too.
        # Python names the text that is no number, which may be a part of the password.
        unsafe = type(exc) is ValueError and "invalid literal" in str(exc)
        detail = "its port is not a number" if unsafe else one_line(exc)
        raise Problems.ADDRESS.at(place_of(dsn), detail) from (None if unsafe else exc)
    try:
        # "off" acknowledges commits that a crash of the database loses. Whatever is safer stays.
        await raw.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
        await (enter_alone if alone else enter_shared)(raw, place_of(dsn))
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
        if "@" in dsn and "@" not in parts.netloc:
            # A character of the password that should have been escaped ended what looks like the host.
            return "PostgreSQL"
        options = parse_qs(parts.query)
        host = parts.netloc.rpartition("@")[2] or "".join(options.get("host", ["the default host"])[:1])
        name = unquote(parts.path.lstrip("/")) or "".join(options.get("dbname", ["?"])[:1])
    except ValueError:
        return "PostgreSQL"
    return f"PostgreSQL at {unquote(host)}, database {name}"


def translate(error: BaseException, dsn: str) -> StorageError:
    """The storage error that tells an operator, in one line, what ``error`` means."""
    if isinstance(error, StorageError):
        return error
    place = place_of(dsn)
    text = one_line(error)
    problem = problem_of(error)
    if problem is None and is_lost(error):
        problem = Problems.AWAY
    return StorageError(f"{place}: {text}") if problem is None else problem.at(place, text)
