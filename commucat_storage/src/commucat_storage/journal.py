"""The queue of every store: takes entries in order, and tells in the same order what became of them, but for
confirmations, which may come behind others, and questions, which may come before admissions.

There is no artificial delay for messages. While one group is being committed the
next one gathers, so the groups are small when little is going on and large under load. How a group
is committed, and by whom, is the matter of a backend.
"""

import abc
import logging
from collections.abc import Callable
from typing import Generic, NoReturn

import trio

from commucat_storage.backlog import Backlog
from commucat_storage.errors import CommitFailedError, StorageError
from commucat_storage.hold import Hold
from commucat_storage.idle import MOST_GATHERED, until_idle
from commucat_storage.journal_entry import JournalEntry, WorkT
from commucat_storage.limits import StoreLimits
from commucat_storage.timings import Timings

_log = logging.getLogger(__name__)


class Journal(abc.ABC, Generic[WorkT]):
    """Queues entries for whoever commits them. Made, used and closed in the event-loop thread."""

    def __init__(self, limits: StoreLimits, *, runner: str, medium: str, place: str) -> None:
        """The three texts are for errors.

        Args:
            runner: what commits, such as ``thread``.
            medium: what a commit waits for, such as ``the disk``.
            place: which one it is, such as ``the disk of store.db``.
        """
        self._runner = runner
        self._medium = medium
        self._place = place
        self._close_timeout = limits.close_timeout
        self.inbox_limits = limits.inbox
        self._backlog: Backlog[JournalEntry[WorkT]] = Backlog(
            max_rows=limits.journal_rows, max_bytes=limits.journal_bytes, put=self._put
        )
        self._hold: Hold[JournalEntry[WorkT]] = Hold(
            limits.confirm_delay, limits.held_rows, self._queue_with_company
        )
        self._gathering: Hold[JournalEntry[WorkT]] = Hold(
            limits.gather_delay, MOST_GATHERED, self._queue_with_company, until_idle
        )
        # What was put and not yet told, in order: if the runner dies nobody waits for ever.
        self._untold: dict[JournalEntry[WorkT], None] = {}
        self._ended = trio.Event()
        self._abandoned = False
        self._failing = False
        self._callback_error: Exception | None = None
        self._begin_round: Callable[[], None] = _nothing
        self._end_round: Callable[[], None] = _nothing
        self._crash: BaseException | None = None
        self.commit_times = Timings()
        """Of the groups that were committed; one look at the clock for each, and none for a message."""

    @property
    def waiting_rows(self) -> int:
        """Rows that have been taken and are not known to be on disk."""
        return self._backlog.rows

    def enter_now(self, entry: JournalEntry[WorkT]) -> bool:
        """Queue ``entry`` if there is room. See :meth:`Backlog.enter_now`."""
        return self._backlog.enter_now(entry)

    async def enter(self, entry: JournalEntry[WorkT]) -> None:
        """Queue ``entry``; wait only while the journal is full. See :meth:`Backlog.enter`."""
        if not self._backlog.has_room_for(entry):
            # It must not wait for room that is taken by what waits for it.
            self._let_go()
        await self._backlog.enter(entry)

    def hurry(self) -> None:
        """Let nothing wait for company."""
        self._let_go()

    def attend(self) -> None:
        """Tell what has been committed, if a runner elsewhere has just said so."""

    def on_rounds(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Call these around the ``done`` calls of each group."""
        self._begin_round, self._end_round = begin, end

    async def aclose(self) -> None:
        """Commit what was taken, tell everybody, end the runner and close its connection.

        Cancellation does not shorten it; ``close_timeout`` does.

        Raises:
            StorageError: the runner died, the medium did not answer in time, or a ``done``
                raised, at some time since the journal was made.
        """
        self._backlog.close("the store is closed")
        self._close_holds()
        self._end()
        with trio.move_on_after(self._close_timeout, shield=True):
            await self._ended.wait()
        if not self._ended.is_set():
            # The runner hangs and cannot be stopped. Its outcome is not known; the senders will
            # send again, which is right in both cases.
            self._abandoned = True
            self._fail_untold(f"{self._medium} did not answer while the store was closing")
            raise StorageError(f"{self._place} did not answer within {self._close_timeout} s")
        self._raise_crash()
        if self._callback_error is not None:
            raise StorageError("a callback of the journal raised") from self._callback_error

    async def wait_failed(self) -> NoReturn:
        """Wait until the runner has died; a full disk or a database that is away is no such case.

        Raises:
            StorageError: it has.
        """
        await self._ended.wait()
        self._raise_crash()
        await trio.sleep_forever()  # closed in order: nothing will fail any more

    @abc.abstractmethod
    def _queue_up(self, entries: list[JournalEntry[WorkT]]) -> None:
        """Hand the entries to the runner, in one piece: the first of several would wake it for itself."""

    @abc.abstractmethod
    def _end(self) -> None:
        """Let the runner end when it has committed everything."""

    @abc.abstractmethod
    def _explain(self, error: Exception) -> str:
        """What a failed commit means to an operator, in one line."""

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise StorageError(f"the journal's {self._runner} died") from self._crash

    def _put(self, entry: JournalEntry[WorkT]) -> None:
        self._untold[entry] = None
        if entry.only_asks:
            # No company: the commit would be for what is held alone, and a message that comes now wait.
            self._queue_up([entry])
        elif self._backlog.crowded:
            # Nothing is kept back whose room somebody waits for.
            self._queue_with_company([entry])
        elif entry.can_wait:
            self._hold.add(entry)
        elif entry.gathers:
            self._gathering.add(entry)
        else:
            self._queue_with_company([entry])

    def _queue_with_company(self, entries: list[JournalEntry[WorkT]]) -> None:
        """What was kept back goes first: all but confirmations and questions is applied in its order."""
        self._queue_up([*self._hold.take(), *self._gathering.take(), *entries])

    def _let_go(self) -> None:
        self._gathering.let_go()
        self._hold.let_go()

    def _close_holds(self) -> None:
        self._gathering.close()
        self._hold.close()

    # -- what became of a group ------------------------------------------------------------------

    def _succeeded(self, seconds: float) -> None:
        """The runner has committed a group, which took so long."""
        self.commit_times.note(seconds)
        if self._failing:
            self._failing = False
            _log.warning("%s takes commits again", self._place)

    def _failures(self, group: list[JournalEntry[WorkT]], error: Exception) -> list[object]:
        """The results of a group that was not committed."""
        text = self._explain(error)
        if not self._failing:
            # Once, not for every group, for as long as it goes on.
            self._failing = True
            _log.error("a commit failed: %s", text, exc_info=error)
        failures: list[object] = []
        for _ in group:
            failure = CommitFailedError(text)
            failure.__cause__ = error
            failures.append(failure)
        return failures

    def _tell(self, group: list[JournalEntry[WorkT]], results: list[object]) -> None:
        """Tell what became of a group; in the event-loop thread."""
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

    def _finish(self, crash: BaseException | None) -> None:
        """The runner has ended, by itself or by ``crash``; in the event-loop thread."""
        self._crash = crash
        dead = f"the journal's {self._runner} has died"
        self._close_holds()
        self._backlog.close("the store is closed" if crash is None else dead)
        self._fail_untold(dead)
        self._ended.set()

    def _call(self, entry: JournalEntry[WorkT], result: object) -> None:
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
