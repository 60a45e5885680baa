"""The PostgreSQL backend; needs asyncpg and trio-asyncio (the extra ``postgres``).

Nothing else of the package imports it: importing it changes how asyncio finds its loop.
"""

from commucat_storage.postgres.connection import place_of
from commucat_storage.postgres.disturb import cut_connections
from commucat_storage.postgres.migrate import PostgresStatus
from commucat_storage.postgres.scratch import scratch_database
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.postgres.storage import (
    PostgresStorage,
    migrate_postgres,
    open_postgres,
    postgres_status,
)

__all__ = [
    "PostgresSettings",
    "PostgresStatus",
    "PostgresStorage",
    "cut_connections",
    "migrate_postgres",
    "open_postgres",
    "place_of",
    "postgres_status",
    "scratch_database",
]
