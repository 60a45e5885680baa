"""Backup, restore and transfer of whole stores, between backends too.

One form of rows serves all three (``tables.py``, ``rows.py``). :func:`copy_store` fills an empty store from
another one or from a backup, can go on after an interruption, checks every row, and only then lets
servers use the store. ``postgres.moving`` holds the PostgreSQL side, which needs the extra of that name.
"""

from commucat_storage.moving.backing_up import back_up
from commucat_storage.moving.copying import Copied, Progress, Step, copy_store
from commucat_storage.moving.errors import DamagedBackupError, MoveError
from commucat_storage.moving.folder import BackupFolder, BackupWriter, open_backup
from commucat_storage.moving.manifest import Manifest
from commucat_storage.moving.ports import MovableSource, Source, StoreFacts, Target
from commucat_storage.moving.sqlite import sqlite_movable, sqlite_snapshot, sqlite_target, unmark_sqlite
from commucat_storage.moving.tables import TABLES, Table

__all__ = [
    "TABLES",
    "BackupFolder",
    "BackupWriter",
    "Copied",
    "DamagedBackupError",
    "Manifest",
    "MovableSource",
    "MoveError",
    "Progress",
    "Source",
    "Step",
    "StoreFacts",
    "Table",
    "Target",
    "back_up",
    "copy_store",
    "open_backup",
    "sqlite_movable",
    "sqlite_snapshot",
    "sqlite_target",
    "unmark_sqlite",
]
