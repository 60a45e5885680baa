"""The one writer of a process: a task that commits whatever has been queued as one transaction.

There is no artificial delay for whatever somebody waits for. While one group is being committed the
next one gathers, so the groups are small when little is going on and large under load.
"""

import functools
import logging
from collections import deque
from collections.abc import Callable
from typing import NoReturn

import trio

from commucat_storage.backlog import Backlog
from commucat_storage.errors import CommitFailedError, StorageError
from commucat_storage.hold import Hold
from commucat_storage.postgres.connection import MISTAKES, place_of, translate
from commucat_storage.postgres.loop import AsyncioLoop
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.postgres.writer import Entry, Writer

_log = logging.getLogger(__name__)


class Journal:
    """Queues entries and commits them in order. Its task runs until it is closed."""

    def __init__(self, loop: AsyncioLoop, dsn: str, settings: PostgresSettings) -> None:
        self._loop = loop
        self._dsn = dsn
        self._settings = settings
        self._writer = Writer(dsn, settings)
        self._queue: deque[Entry] = deque()
        self._more = trio.Event()
        self._closing = False
        self._backlog: Backlog[Entry] = Backlog(
            max_rows=settings.journal_rows, max_bytes=settings.journal_bytes, put=self._put
        )
        self._hold: Hold[Entry] = Hold(settings.confirm_delay, settings.held_rows, self._queue_up)
        # What was put and not yet told, in order: if the task dies nobody waits for ever.
        self._untold: dict[Entry, None] = {}
        self._ended = trio.Event()
        self._abandoned = False
        self._failing = False
        self._callback_error: Exception | None = None
        self._begin_round: Callable[[], None] = _nothing
        self._end_round: Callable[[], None] = _nothing
        self._crash: BaseException | None = None
        # Trio's own task, which no scope of a caller reaches: what was taken is committed even when
        # everybody around is cancelled. It ends in aclose.
        trio.lowlevel.spawn_system_task(self._run, name="commucat-journal")

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
        """Commit what was taken, tell everybody, end the task and close the connection.

        Cancellation does not shorten it; ``close_timeout`` does.

        Raises:
            StorageError: the task died, the database did not answer in time, or a ``done``
                raised, at some time since the journal was made.
        """
        self._backlog.close("the store is closed")
        self._hold.close()
        self._closing = True
        self._more.set()
        with trio.move_on_after(self._settings.close_timeout, shield=True):
            await self._ended.wait()
        if not self._ended.is_set():
            # Its outcome is not known; the senders will send again, which is right in both cases.
            self._abandoned = True
            self._fail_untold("the database did not answer while the store was closing")
            raise StorageError(
                f"{place_of(self._dsn)} did not answer within {self._settings.close_timeout} s"
            )
        self._raise_crash()
        if self._callback_error is not None:
            raise StorageError("a callback of the journal raised") from self._callback_error

    async def wait_failed(self) -> NoReturn:
        """Wait until the task has died; a database that is away is no such case.

        Raises:
            StorageError: it has.
        """
        await self._ended.wait()
        self._raise_crash()
        await trio.sleep_forever()  # closed in order: nothing will fail any more

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise StorageError("the journal's task died") from self._crash

    def _put(self, entry: Entry) -> None:
        self._untold[entry] = None
        # Nothing is kept back whose room somebody waits for.
        if entry.can_wait and not self._backlog.crowded:
            self._hold.add(entry)
        else:
            self._queue_up([*self._hold.take(), entry])

    def _queue_up(self, entries: list[Entry]) -> None:
        self._queue += entries
        self._more.set()

    async def _run(self) -> None:
        try:
            while await self._wait_for_more():
                await self._commit(self._next_group())
            await self._loop.run(self._writer.close)
        except BaseException as exc:  # noqa: BLE001 - raised by wait_failed and aclose
            self._crash = exc
            _log.critical("the journal's task died", exc_info=exc)
        self._hold.close()
        self._backlog.close("the store is closed" if self._crash is None else "the journal's task has died")
        self._fail_untold("the journal's task has died")
        self._ended.set()

    async def _wait_for_more(self) -> bool:
        """Wait for the first entry of a group; False when there will be none."""
        while not self._queue:
            if self._closing:
                return False
            self._more = trio.Event()
            await self._more.wait()
        return True

    def _next_group(self) -> list[Entry]:
        """Everything queued, up to the caps."""
        group: list[Entry] = []
        rows = size = 0
        while self._queue and rows < self._settings.group_rows and size < self._settings.group_bytes:
            entry = self._queue.popleft()
            group.append(entry)
            rows += entry.rows
            size += entry.size
        return group

    async def _commit(self, group: list[Entry]) -> None:
        while group:
            try:
                results = await self._loop.run(functools.partial(self._writer.commit, group))
            except Exception as exc:  # noqa: BLE001 - every kind of failure is told to those concerned
                if len(group) > 1 and isinstance(exc, MISTAKES):
                    # One entry is at fault: alone it harms nobody else.
                    for entry in group:
                        await self._commit([entry])
                    return
                results = self._failures(group, exc)
            else:
                if self._failing:
                    self._failing = False
                    _log.warning("%s takes commits again", place_of(self._dsn))
            self._tell(group[: len(results)], results)
            group = group[len(results) :]

    def _failures(self, group: list[Entry], error: Exception) -> list[object]:
        text = str(translate(error, self._dsn))
        if not self._failing:
            # Once, not for every group, for as long as the database is away.
            self._failing = True
            _log.error("a commit failed: %s", text, exc_info=error)
        failures: list[object] = []
        for _ in group:
            failure = CommitFailedError(text)
            failure.__cause__ = error
            failures.append(failure)
        return failures

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

    def _fail_untold(self, reason: str) -> None:
        left = list(self._untold)
        self._untold.clear()
        for entry in left:
            self._call(entry, CommitFailedError(reason))


def _nothing() -> None:
    """When nobody wants to know of rounds."""
