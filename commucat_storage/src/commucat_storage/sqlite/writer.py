"""The transactions of the store: many entries, one commit. For the writer's thread."""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs

from commucat_storage.applying import Group
from commucat_storage.errors import StorageError
from commucat_storage.journal_entry import JournalEntry
from commucat_storage.sqlite.chat_groups import ChatGroupCache
from commucat_storage.sqlite.connection import refuse_marked
from commucat_storage.sqlite.inboxes import InboxCache
from commucat_storage.sqlite.marks import SqliteMarks
from commucat_storage.sqlite.pending import SqlitePending
from commucat_storage.sqlite.settings import SqliteSettings
from commucat_storage.sqlite.stored_routes import SqliteRoutes
from commucat_storage.sqlite.turns import Turns

_log = logging.getLogger(__name__)

_DISK_INTERVAL = 1.0  # seconds between two looks at the free space


@attrs.frozen
class Transaction:
    """The open transaction, for work that is not a batch of the journal."""

    connection: sqlite3.Connection
    inboxes: InboxCache
    """Forget here every device whose inbox, status or routes the work changes in the database."""
    disk_is_low: bool


Work = Callable[[Transaction], object]


Entry: TypeAlias = JournalEntry[Work]


class Writer:
    """Owns the connection that writes."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, settings: SqliteSettings, turns: Turns
    ) -> None:
        self._connection = connection
        self._path = path
        self._settings = settings
        self._turns = turns
        self._inboxes = InboxCache(connection, settings.cached_inboxes)
        self._chat_groups = ChatGroupCache(connection, self._inboxes, settings.cached_group_members)
        routes = SqliteRoutes(connection, self._inboxes, self._chat_groups, settings)
        self._marks = SqliteMarks(connection)
        pending = SqlitePending(connection)
        self._group = Group(self._inboxes, self._chat_groups, routes, pending, settings, self._marks)
        self._data_version: int | None = None
        self._disk_is_low = False
        self._look_at_disk = 0.0

    def commit(self, entries: Sequence[Entry]) -> list[object]:
        """Store the first entries, as many as make a transaction of bounded size, and at least one.

        Returns the results of those, in order; a piece of work that raised a
        :class:`StorageError` has that for its result. After any other exception nothing is stored.
        """
        connection = self._connection
        self._turns.waits()
        connection.execute("BEGIN IMMEDIATE")
        self._turns.computes()
        try:
            self._begin()
            results: list[object] = []
            for entry in entries:
                results.append(self._group.apply(entry.batch) if entry.work is None else self._do(entry.work))
                # How many rows a message along its sender's route makes is known only now.
                if self._group.stored >= self._settings.group_rows:
                    break
            self._group.flush()
            self._marks.write()
            self._turns.waits()
            connection.execute("COMMIT")
            self._turns.computes()
        except BaseException:
            self._forget()
            # SQLite has rolled back by itself after some errors.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        # Only now are the outcomes of the batches complete, see Group.apply.
        return [
            tuple(result) if isinstance(result, list) and entry.work is None else result
            for entry, result in zip(entries, results, strict=False)
        ]

    def close(self) -> None:
        """Close the connection; without readers this also empties the write-ahead log."""
        self._connection.close()

    def _begin(self) -> None:
        [version] = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            # Another process has written since our last transaction, such as an operator's command. It may
            # have moved the store away while this one waited for the lock.
            refuse_marked(self._connection, self._path)
            self._forget()
            self._data_version = version
        self._inboxes.make_room()
        self._chat_groups.make_room()
        now = time.monotonic()
        if now >= self._look_at_disk:
            self._look_at_disk = now + _DISK_INTERVAL
            disk = os.statvfs(self._path.parent)
            low = disk.f_bavail * disk.f_frsize < self._settings.min_free_bytes
            if low and not self._disk_is_low:
                _log.error("the disk of %s is almost full: messages are refused", self._path)
            self._disk_is_low = low
        self._marks.forget()
        self._group.begin(disk_is_low=self._disk_is_low)

    def _forget(self) -> None:
        self._inboxes.clear()
        self._chat_groups.clear()
        self._group.discard()
        self._marks.forget()

    def _do(self, work: Work) -> object:
        """Do ``work`` in a savepoint, so that its refusal does not hurt the rest of the transaction."""
        connection = self._connection
        self._group.flush()
        self._marks.write()
        connection.execute("SAVEPOINT work")
        try:
            result = work(Transaction(connection, self._inboxes, self._disk_is_low))
        except StorageError as exc:
            connection.execute("ROLLBACK TO work")
            result = exc
        connection.execute("RELEASE work")
        return result
