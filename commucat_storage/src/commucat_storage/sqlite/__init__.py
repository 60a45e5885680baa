"""The embedded backend: one SQLite file, one writer thread, group commit."""

from commucat_storage.sqlite.migrate import SqliteStatus, migrate_sqlite, sqlite_status
from commucat_storage.sqlite.settings import SqliteSettings
from commucat_storage.sqlite.storage import SqliteStorage, open_sqlite

__all__ = [
    "SqliteSettings",
    "SqliteStatus",
    "SqliteStorage",
    "migrate_sqlite",
    "open_sqlite",
    "sqlite_status",
]
