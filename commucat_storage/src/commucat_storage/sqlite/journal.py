"""The one writer: a thread that commits whatever has been queued as one transaction, again and again."""

import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

from commucat_storage import journal
from commucat_storage.sqlite.connection import translate
from commucat_storage.sqlite.precedence import take_precedence
from commucat_storage.sqlite.settings import SqliteSettings
from commucat_storage.sqlite.short_commit import MOST_ROWS
from commucat_storage.sqlite.turns import Turns
from commucat_storage.sqlite.writer import Entry, Work, Writer

_log = logging.getLogger(__name__)

# The caller's mistakes. Anything else that SQLite reports is the disk or the lock, and
# would fail in the same way for every entry of the group.
_MISTAKES = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)


class Journal(journal.Journal[Work]):
    """Owns the writing connection and its thread. Made, used and closed in the event-loop thread."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, settings: SqliteSettings, turns: Turns
    ) -> None:
        super().__init__(settings, runner="thread", medium="the disk", place=f"the disk of {path}")
        self._turns = turns
        self._writer = Writer(connection, path, settings, turns)
        self._path = path
        self._settings = settings
        self._queue: queue.SimpleQueue[list[Entry] | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        # What the thread wants to be called in the event loop, in order.
        self._posted: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._calling = False
        self._looking = False
        # A daemon: when the event loop itself has died, a full disk must not keep the process.
        self._thread = threading.Thread(target=self._run, name="commucat-journal", daemon=True)
        self._thread.start()

    # -- in the event-loop thread ----------------------------------------------------------------

    def attend(self) -> None:
        """Let the thread have the interpreter if it may want it, and tell what it has committed meanwhile."""
        if self._calling:
            return  # Those who are being told something wait for nobody.
        try:
            if not self._posted:
                self._looking = True
                self._turns.between()
        finally:
            # Also after an interrupt from the keyboard: for what came meanwhile no wake-up was sent.
            self._looking = False
            if self._posted:
                self._call_posted()

    def _call_posted(self) -> None:
        self._calling = True
        try:
            for _ in range(len(self._posted)):
                function, args = self._posted.popleft()
                function(*args)
        finally:
            self._calling = False
            if self._posted:
                # What came meanwhile is called behind a turn for everybody else.
                self._wake()

    def _queue_up(self, entries: list[Entry]) -> None:
        idle = self._turns.wanted()
        self._queue.put(entries)
        # Of a large group the loop has more to read meanwhile, and it would be smaller.
        if idle and not self._calling and sum(entry.rows for entry in entries) <= MOST_ROWS:
            self._turns.hand_over()

    def _end(self) -> None:
        self._turns.wanted()
        self._queue.put(None)

    def _finish(self, crash: BaseException | None) -> None:
        super()._finish(crash)
        # A thread that died in its turn has not ended it, and the loop would wait for it in every pass.
        self._turns.idle()

    # -- in the writer thread --------------------------------------------------------------------

    def _run(self) -> None:
        crash: BaseException | None = None
        try:
            try:
                take_precedence()
                going_on = True
                while going_on:
                    going_on = self._commit_next()
            finally:
                self._writer.close()
        except BaseException as exc:  # noqa: BLE001 - handed to the event loop, which raises it
            crash = exc
            _log.critical("the journal's thread died", exc_info=exc)
        self._post(self._finish, crash)

    def _commit_next(self) -> bool:
        """Commit the next group, and keep nothing of it: a thousand confirmations take 2 ms to be freed, and
        the message that comes next would wait for that. ``False`` when the journal is to end."""
        group = self._next_group()
        self._commit(group)
        return bool(group)

    def _next_group(self) -> list[Entry]:
        """Everything queued, up to the caps; waits for the first. Empty when the journal is to end."""
        if self._queue.empty():
            self._turns.idle()
        entries = self._queue.get()
        self._turns.computes()
        group: list[Entry] = []
        rows = size = 0
        while entries is not None:
            group += entries
            for entry in entries:
                rows += entry.rows
                size += entry.size
            if rows >= self._settings.group_rows or size >= self._settings.group_bytes:
                return group
            try:
                entries = self._queue.get_nowait()
            except queue.Empty:
                return group
        if group:
            self._queue.put(None)  # Nothing comes after it: find it again after this group.
        return group

    def _commit(self, group: list[Entry]) -> None:
        while group:
            began = time.perf_counter()
            try:
                results = self._writer.commit(group)
            except Exception as exc:  # noqa: BLE001 - every kind of failure is told to those concerned
                disk = isinstance(exc, sqlite3.Error) and not isinstance(exc, _MISTAKES)
                if len(group) > 1 and not disk:
                    # One entry is at fault: alone it harms nobody else.
                    for entry in group:
                        self._commit([entry])
                    return
                results = self._failures(group, exc)
            else:
                self._succeeded(time.perf_counter() - began)
            self._post(self._tell, group[: len(results)], results)
            group = group[len(results) :]

    def _explain(self, error: Exception) -> str:
        return str(translate(error, self._path)) if isinstance(error, sqlite3.Error) else repr(error)

    def _post(self, function: Callable[..., object], *args: object) -> None:
        self._posted.append((function, args))
        # A loop that is looking will find it, and a wake-up would cost it a pass for nothing.
        if not self._looking:
            self._wake()

    def _wake(self) -> None:
        """Have the event loop call what is posted; for both threads."""
        try:
            self._token.run_sync_soon(self._call_posted, idempotent=True)
        except trio.RunFinishedError:
            _log.error("the event loop ended before the journal; nobody was told of the last commits")
