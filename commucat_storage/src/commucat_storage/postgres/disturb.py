"""What trials do to the connections of servers that run."""

from commucat_storage.asyncio_loop import open_loop
from commucat_storage.postgres.connection import connect, translate
from commucat_storage.postgres.pool import close_connection
from commucat_storage.postgres.settings import PostgresSettings

# Those of the same role: to end another one's connections takes a superuser.
_CUT = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
    "AND usename = current_user AND pid <> pg_backend_pid() AND application_name LIKE 'commucat%'"
)


async def cut_connections(dsn: str) -> int:
    """End all connections that servers have to the database of ``dsn`` by its role; how many there were.

    Raises:
        StorageError: the database cannot be reached, or refuses; the text says why.
    """

    async def unit() -> int:
        try:
            connection = await connect(dsn, PostgresSettings(), patient=True)
            try:
                return int(await connection.fetchval(_CUT))
            finally:
                await close_connection(connection)
        except Exception as exc:
            raise translate(exc, dsn) from exc

    async with open_loop() as loop:
        return await loop.run(unit)
