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
from commucat_storage.inbox import Confirm, Resolve, Submission
from commucat_storage.journal_entry import JournalEntry
from commucat_storage.sqlite.chat_groups import ChatGroupCache
from commucat_storage.sqlite.connection import refuse_marked
from commucat_storage.sqlite.inboxes import InboxCache
from commucat_storage.sqlite.marks import SqliteMarks
from commucat_storage.sqlite.pending import SqlitePending
from commucat_storage.sqlite.settings import SqliteSettings
from commucat_storage.sqlite.short_commit import MOST_ROWS, ShortCommit, StaleError
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
        self._pending = SqlitePending(connection, self._open_transaction)
        self._group = Group(self._inboxes, self._chat_groups, routes, self._pending, settings, self._marks)
        self._short = ShortCommit(connection)
        self._data_version: int | None = None
        self._disk_is_low = False
        self._look_at_disk = 0.0

    def commit(self, entries: Sequence[Entry]) -> list[object]:
        """Store the first entries, as many as make a transaction of bounded size, and at least one.

        Returns the results of those, in order; a piece of work that raised a
        :class:`StorageError` has that for its result. After any other exception nothing is stored.
        """
        try:
            results = self._apply_ahead(entries) if self._are_few(entries) else None
            if results is None or not self._commit_short():
                results = self._commit_long(entries, results)
        except BaseException:
            self._undo()
            raise
        # Only now are the outcomes of the batches complete, see Group.apply.
        return [
            tuple(result) if isinstance(result, list) and entry.work is None else result
            for entry, result in zip(entries, results, strict=False)
        ]

    # -- a few messages --------------------------------------------------------------------------

    def _are_few(self, entries: Sequence[Entry]) -> bool:
        """Whether the entries may be so little that one statement commits them, and change nothing in the
        database before that."""
        if self._data_version is None or len(entries) > MOST_ROWS:
            return False
        rows = 0
        for entry in entries:
            rows += entry.rows
            if entry.work is not None or rows > MOST_ROWS:
                return False
            for operation in entry.batch:
                if type(operation) is Submission:
                    if operation.once is not None:
                        return False
                elif type(operation) is not Confirm and type(operation) is not Resolve:
                    return False
        return True

    def _apply_ahead(self, entries: Sequence[Entry]) -> list[object] | None:
        """The results of entries that were applied before the transaction; None if that failed.

        It reads nothing but what is missing in memory. If another process has written meanwhile, the
        transaction notices, and all of it is done again.
        """
        self._prepare()
        try:
            return self._apply(entries)
        except (StaleError, LookupError):
            # What was read one after the other is of two states of the database.
            self._undo()
            return None

    def _commit_short(self) -> bool:
        """Commit what was applied by one statement; ``False`` if it takes more."""
        if self._connection.in_transaction:
            return False  # An inbox was full, and what was confirmed had to be counted.
        if self._pending.is_empty:
            return not self._is_stale()  # Only questions, which are answered in memory.
        try:
            return self._short.write(self._pending, self._data_version, self._turns.syncs)
        except StaleError:
            return False
        finally:
            self._turns.computes()

    # -- everything ------------------------------------------------------------------------------

    def _commit_long(self, entries: Sequence[Entry], results: list[object] | None) -> list[object]:
        """Commit the entries; ``results`` if they are applied already."""
        connection = self._connection
        if not connection.in_transaction:
            self._begin()
            if self._is_stale():
                self._renew()
                results = None
        if results is None:
            self._prepare()
            results = self._apply(entries)
        self._group.flush()
        self._marks.write()
        self._turns.syncs()
        connection.execute("COMMIT")
        self._turns.computes()
        return results

    def _apply(self, entries: Sequence[Entry]) -> list[object]:
        results: list[object] = []
        for entry in entries:
            results.append(self._group.apply(entry.batch) if entry.work is None else self._do(entry.work))
            # How many rows a message along its sender's route makes is known only now.
            if self._group.stored >= self._settings.group_rows:
                break
        return results

    def close(self) -> None:
        """Close the connection; without readers this also empties the write-ahead log."""
        self._connection.close()

    def _begin(self) -> None:
        self._turns.waits()
        self._connection.execute("BEGIN IMMEDIATE")
        self._turns.computes()

    def _open_transaction(self) -> None:
        """For what has to be written before all is applied."""
        self._begin()
        if self._is_stale():
            raise StaleError

    def _is_stale(self) -> bool:
        """Whether another process has written since our last transaction, such as an operator's command."""
        [version] = self._connection.execute("PRAGMA data_version").fetchone()
        return bool(version != self._data_version)

    def _renew(self) -> None:
        """In the open transaction, after another process has written."""
        # It may have moved the store away while this one waited for the lock.
        refuse_marked(self._connection, self._path)
        self._forget()
        [self._data_version] = self._connection.execute("PRAGMA data_version").fetchone()

    def _prepare(self) -> None:
        """Before entries are applied."""
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

    def _undo(self) -> None:
        self._forget()
        # SQLite has rolled back by itself after some errors.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

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
