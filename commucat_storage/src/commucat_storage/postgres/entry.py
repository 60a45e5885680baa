"""Who may use the database: any number of servers and commands, or one that moves it, never both.

Each connection of a store holds a shared advisory lock as long as it lives, so there is no moment in which
a server could write to a database that is being moved; one that loses its connections gets no new ones.
"""

import asyncio

import asyncpg

from commucat_storage import store_mark as marks
from commucat_storage.errors import StorageUnavailableError

_LOCK = 0x43434154_55534552  # "CCATUSER"
LEAVE = "SELECT pg_advisory_unlock_all()"
# Two seconds together: so long may PostgreSQL take to notice that a server has closed its connections.
_ATTEMPTS = 40
_PAUSE = 0.05


async def enter_shared(raw: asyncpg.Connection, place: str) -> None:
    """Be one of those that use the database, until the connection ends.

    Raises:
        StorageUnavailableError: it is being moved or filled, or was moved away.
    """
    free, marked = await raw.fetchrow(
        f"SELECT pg_try_advisory_lock_shared({_LOCK}), to_regclass('{marks.MARK_TABLE}') IS NOT NULL"
    )
    if not free:
        raise StorageUnavailableError(
            f"{place} is being filled or moved by commucat-cli; wait until it is done"
        )
    if marked:
        marks.refuse_marked(await read_mark(raw), place)


async def enter_alone(raw: asyncpg.Connection, place: str) -> None:
    """Be the only one that uses the database, until the connection ends.

    Raises:
        StorageUnavailableError: somebody uses it.
    """
    # Asked again and again: who waits for the lock would keep servers from opening connections meanwhile.
    for _ in range(_ATTEMPTS):
        if await raw.fetchval(f"SELECT pg_try_advisory_lock({_LOCK})"):
            return
        await asyncio.sleep(_PAUSE)
    raise StorageUnavailableError(f"{place} is in use by a server or command; stop it first")


async def read_mark(connection: asyncpg.Connection) -> marks.Mark | None:
    """The mark of a database that has the table for it."""
    row = await connection.fetchrow(marks.SELECT)
    return None if row is None else marks.mark_of(tuple(row))
