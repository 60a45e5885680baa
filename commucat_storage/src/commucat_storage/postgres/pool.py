"""Units of work: each has a connection for itself, and gives it back whole or not at all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from commucat_storage.asyncio_loop import AsyncioLoop
from commucat_storage.errors import CommitFailedError, StorageError, StorageUnavailableError
from commucat_storage.metering import PoolState
from commucat_storage.postgres.connection import CONFLICTS, Connection, connect, is_lost, translate
from commucat_storage.postgres.settings import PostgresSettings

T = TypeVar("T")

Unit = Callable[[Connection], Awaitable[T]]

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0
_ROLLBACK_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 2.0
MOST_CONFLICTS = 10
"""How often a transaction that met another one is tried again."""


class OutcomeUnknownError(CommitFailedError):
    """The connection was lost in the commit: it may have happened or not. Never tried again here."""


class Pool:
    """Up to ``connections`` connections, opened when they are needed."""

    def __init__(self, loop: AsyncioLoop, dsn: str, settings: PostgresSettings) -> None:
        self._loop = loop
        self._dsn = dsn
        self._settings = settings
        self._limiter = trio.CapacityLimiter(settings.connections)
        self._idle: list[Connection] = []
        self._closed = False

    @property
    def idle(self) -> tuple[Connection, ...]:
        """Connections that nobody uses, to be looked at."""
        return tuple(self._idle)

    @property
    def state(self) -> PoolState:
        """Who uses connections now."""
        seen = self._limiter.statistics()
        return PoolState(limit=int(seen.total_tokens), used=seen.borrowed_tokens, waiting=seen.tasks_waiting)

    async def read(self, unit: Unit[T]) -> T:
        """Call ``unit`` with a connection in autocommit mode; again if the connection is lost.

        Raises:
            StorageUnavailableError: the store is closed, or the database does not answer.
            SchemaError: the schema is damaged.
        """
        return await self._run(unit)

    async def write(self, unit: Unit[T]) -> T:
        """Call ``unit`` in a transaction and commit it; again if the connection is lost before the commit.

        Raises:
            CommitFailedError: nothing is stored, or, after a connection lost in the commit, perhaps.
            StorageError: raised by the unit; nothing is stored.
        """
        try:
            return await self._run(lambda connection: in_transaction(connection, unit))
        except StorageUnavailableError as exc:
            raise CommitFailedError(str(exc)) from exc

    async def repeat(self, unit: Unit[T]) -> T:
        """Call ``unit``, one statement that may as well be done twice; again if the connection is lost.

        Raises:
            CommitFailedError: perhaps it is not stored.
        """
        try:
            return await self._run(unit)
        except StorageUnavailableError as exc:
            raise CommitFailedError(str(exc)) from exc

    async def aclose(self) -> None:
        """Close what is idle now, and the rest when its unit is done."""
        self._closed = True
        idle, self._idle = self._idle, []

        async def close() -> None:
            for connection in idle:
                await close_connection(connection)

        await self._loop.run(close)

    async def _run(self, unit: Unit[T]) -> T:
        if self._closed:
            raise StorageUnavailableError("the store is closed")
        async with self._limiter:
            return await self._loop.run(lambda: self._bounded(unit))

    async def _bounded(self, unit: Unit[T]) -> T:
        try:
            return await self._until_it_succeeds(unit)
        except StorageError:
            raise
        except Exception as exc:
            raise translate(exc, self._dsn) from exc

    async def _until_it_succeeds(self, unit: Unit[T]) -> T:
        patience = Patience(self._settings.reconnect_timeout)
        conflicts = 0
        while True:
            if self._closed:
                raise StorageUnavailableError("the store is closed")
            try:
                return await self._once(unit)
            except CONFLICTS:
                conflicts += 1
                if conflicts > MOST_CONFLICTS:
                    raise
            except Exception as exc:
                if not is_lost(exc) or not await patience.wait():
                    raise

    async def _once(self, unit: Unit[T]) -> T:
        connection = self._take_idle() or await connect(self._dsn, self._settings)
        try:
            async with asyncio.timeout(self._settings.unit_timeout):
                return await unit(connection)
        except TimeoutError as exc:
            # Nobody knows what the connection is in the middle of.
            connection.terminate()
            raise translate(exc, self._dsn) from exc
        finally:
            if connection.is_closed() or connection.is_in_transaction():
                connection.terminate()
            elif self._closed:
                await close_connection(connection)
            else:
                self._idle.append(connection)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None


class Patience:
    """Waits between attempts to reach the database, until it has lasted too long."""

    def __init__(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._delay = _FIRST_DELAY

    async def wait(self) -> bool:
        """Wait before the next attempt; False if there shall be none."""
        if asyncio.get_running_loop().time() + self._delay > self._deadline:
            return False
        await asyncio.sleep(self._delay)
        self._delay = min(2 * self._delay, _LONGEST_DELAY)
        return True


async def in_transaction(connection: Connection, unit: Unit[T]) -> T:
    """Call ``unit`` between BEGIN and COMMIT; roll back if it raises."""
    await connection.execute("BEGIN")
    try:
        result = await unit(connection)
    except BaseException:
        await roll_back(connection)
        raise
    await commit(connection)
    return result


async def commit(connection: Connection) -> None:
    """Commit the open transaction.

    Raises:
        OutcomeUnknownError: the connection was lost; perhaps it is stored.
        Exception: as asyncpg has it; nothing is stored.
    """
    try:
        ended = await connection.execute("COMMIT")
    except BaseException as exc:
        if isinstance(exc, Exception) and not is_lost(exc):
            await roll_back(connection)
            raise
        connection.terminate()
        raise OutcomeUnknownError("the connection to PostgreSQL was lost in the commit") from exc
    if ended != "COMMIT":
        raise CommitFailedError("PostgreSQL rolled the transaction back")


async def roll_back(connection: Connection) -> None:
    """Roll back; a connection that cannot is given up, which has the same effect."""
    if connection.is_closed():
        return
    try:
        async with asyncio.timeout(_ROLLBACK_TIMEOUT):
            await connection.execute("ROLLBACK")
    except Exception:  # noqa: BLE001 - the first error is the one to tell
        connection.terminate()


async def close_connection(connection: Connection) -> None:
    """Say goodbye, in bounded time."""
    try:
        await connection.close(_CLOSE_TIMEOUT)
    except Exception:  # noqa: BLE001 - it ends in either case
        connection.terminate()
