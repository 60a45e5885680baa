"""The one writer: a thread that commits whatever has been queued as one transaction, again and again.

There is no artificial delay for whatever somebody waits for. While one group is being committed the
next one gathers, so the groups are small when little is going on and large under load.
"""

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import trio

from commucat_storage.backlog import Backlog
from commucat_storage.errors import CommitFailedError, StorageError
from commucat_storage.hold import Hold
from commucat_storage.sqlite.connection import translate
from commucat_storage.sqlite.settings import SqliteSettings
from commucat_storage.sqlite.turns import Turns
from commucat_storage.sqlite.writer import Entry, Writer

_log = logging.getLogger(__name__)

# The caller's mistakes. Anything else that SQLite reports is the disk or the lock, and
# would fail in the same way for every entry of the group.
_MISTAKES = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)


class Journal:
    """Owns the writing connection and its thread. Made, used and closed in the event-loop thread."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, settings: SqliteSettings, turns: Turns
    ) -> None:
        self._turns = turns
        self._writer = Writer(connection, path, settings, turns)
        self._path = path
        self._settings = settings
        self._queue: queue.SimpleQueue[list[Entry] | None] = queue.SimpleQueue()
        self._backlog: Backlog[Entry] = Backlog(
            max_rows=settings.journal_rows, max_bytes=settings.journal_bytes, put=self._put
        )
        self._hold: Hold[Entry] = Hold(settings.confirm_delay, settings.held_rows, self._queue_up)
        # What was put and not yet told, in order: if the thread dies nobody waits for ever.
        self._untold: dict[Entry, None] = {}
        self._ended = trio.Event()
        self._abandoned = False
        self._failing = False
        self._callback_error: Exception | None = None
        self._begin_round: Callable[[], None] = _nothing
        self._end_round: Callable[[], None] = _nothing
        self._crash: BaseException | None = None
        self._token = trio.lowlevel.current_trio_token()
        # A daemon: when the event loop itself has died, a full disk must not keep the process.
        self._thread = threading.Thread(target=self._run, name="commucat-journal", daemon=True)
        self._thread.start()

    @property
    def waiting_rows(self) -> int:
        """Rows that have been taken and are not known to be on disk."""
        return self._backlog.rows

    async def enter(self, entry: Entry) -> None:
        """Queue ``entry``; wait only while the journal is full. See :meth:`Backlog.enter`."""
        if not self._backlog.has_room_for(entry):
            # It must not wait for room that is taken by what waits for it.
            self._hold.let_go()
        await self._backlog.enter(entry)

    def hurry(self) -> None:
        """Let nothing wait for company."""
        self._hold.let_go()

    def on_rounds(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Call these around the ``done`` calls of each group."""
        self._begin_round, self._end_round = begin, end

    async def aclose(self) -> None:
        """Commit what was taken, tell everybody, end the thread and close the connection.

        Cancellation does not shorten it; ``close_timeout`` does.

        Raises:
            StorageError: the thread died, the disk did not answer in time, or a ``done``
                raised, at some time since the journal was made.
        """
        self._backlog.close("the store is closed")
        self._hold.close()
        self._turns.wanted()
        self._queue.put(None)
        with trio.move_on_after(self._settings.close_timeout, shield=True):
            await self._ended.wait()
        if not self._ended.is_set():
            # The thread hangs in a system call and cannot be stopped. Its outcome is not known;
            # the senders will send again, which is right in both cases.
            self._abandoned = True
            self._fail_untold("the disk did not answer while the store was closing")
            raise StorageError(
                f"the disk of {self._path} did not answer within {self._settings.close_timeout} s"
            )
        self._raise_crash()
        if self._callback_error is not None:
            raise StorageError("a callback of the journal raised") from self._callback_error

    async def wait_failed(self) -> NoReturn:
        """Wait until the thread has died.

        Raises:
            StorageError: it has.
        """
        await self._ended.wait()
        self._raise_crash()
        await trio.sleep_forever()  # closed in order: nothing will fail any more

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise StorageError("the journal's thread died") from self._crash

    # -- in the event-loop thread ----------------------------------------------------------------

    def _put(self, entry: Entry) -> None:
        self._untold[entry] = None
        # Nothing is kept back whose room somebody waits for.
        if entry.can_wait and not self._backlog.crowded:
            self._hold.add(entry)
        else:
            # In one piece: the first of several would wake the thread for itself.
            self._queue_up([*self._hold.take(), entry])

    def _queue_up(self, entries: list[Entry]) -> None:
        self._turns.wanted()
        self._queue.put(entries)

    def _tell(self, group: list[Entry], results: list[object]) -> None:
        if self._abandoned:
            return
        for entry in group:
            del self._untold[entry]
        self._shielded(self._begin_round)
        for entry, result in zip(group, results, strict=True):
            self._call(entry, result)
        self._shielded(self._end_round)
        # Room is given back last, so that whoever comes in now is behind what was just told.
        self._backlog.release(group)

    def _call(self, entry: Entry, result: object) -> None:
        self._shielded(entry.done, result)

    def _shielded(self, function: Callable[..., None], *args: object) -> None:
        try:
            function(*args)
        except Exception as exc:  # noqa: BLE001 - the others must still be told; aclose raises it
            _log.error("a callback of the journal raised", exc_info=exc)
            self._callback_error = self._callback_error or exc

    def _finish(self, crash: BaseException | None) -> None:
        self._crash = crash
        self._hold.close()
        self._backlog.close("the store is closed" if crash is None else "the journal's thread has died")
        self._fail_untold("the journal's thread has died")
        # A thread that died in its turn has not ended it, and the loop would wait for it in every pass.
        self._turns.idle()
        self._ended.set()

    def _fail_untold(self, reason: str) -> None:
        left = list(self._untold)
        self._untold.clear()
        for entry in left:
            self._call(entry, CommitFailedError(reason))

    # -- in the writer thread --------------------------------------------------------------------

    def _run(self) -> None:
        crash: BaseException | None = None
        try:
            try:
                while group := self._next_group():
                    self._commit(group)
            finally:
                self._writer.close()
        except BaseException as exc:  # noqa: BLE001 - handed to the event loop, which raises it
            crash = exc
            _log.critical("the journal's thread died", exc_info=exc)
        self._post(self._finish, crash)

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
                if self._failing:
                    self._failing = False
                    _log.warning("%s takes commits again", self._path)
            self._post(self._tell, group[: len(results)], results)
            group = group[len(results) :]

    def _failures(self, group: list[Entry], error: Exception) -> list[object]:
        text = str(translate(error, self._path)) if isinstance(error, sqlite3.Error) else repr(error)
        if not self._failing:
            # Once, not for every group, for as long as a full disk stays full.
            self._failing = True
            _log.error("a commit failed: %s", text, exc_info=error)
        failures: list[object] = []
        for _ in group:
            failure = CommitFailedError(text)
            failure.__cause__ = error
            failures.append(failure)
        return failures

    def _post(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            _log.error("the event loop ended before the journal; nobody was told of the last commits")


def _nothing() -> None:
    """When nobody wants to know of rounds."""
