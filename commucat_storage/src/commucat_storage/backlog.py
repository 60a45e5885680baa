"""Room in the journal, handed out first come, first served.

The journal holds a bounded number of rows and bytes that are not yet on disk. Whoever
comes when it is full waits here, in the order of coming; a large batch at the head is not
overtaken by small ones behind it, or it would wait for ever under load.
"""

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from commucat_storage.errors import CommitFailedError


class Sized(Protocol):
    """What an entry of the journal must tell: the room it takes until it is on disk."""

    @property
    def rows(self) -> int: ...

    @property
    def size(self) -> int: ...


EntryT = TypeVar("EntryT", bound=Sized)


@attrs.define(eq=False)
class _Waiter(Generic[EntryT]):
    entry: EntryT
    task: trio.lowlevel.Task
    taken: bool = False


class Backlog(Generic[EntryT]):
    """Admits entries to the journal while there is room. For the event-loop thread only.

    ``put`` is called for each entry that is admitted, in order, and must not wait.
    """

    def __init__(self, *, max_rows: int, max_bytes: int, put: Callable[[EntryT], None]) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._put = put
        self._rows = 0
        self._bytes = 0
        self._entries = 0
        self._waiting: dict[_Waiter[EntryT], None] = {}
        self._closed_because: str | None = None

    @property
    def entries(self) -> int:
        """Entries admitted and not yet released."""
        return self._entries

    @property
    def rows(self) -> int:
        """Rows admitted and not yet released."""
        return self._rows

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._waiting)

    def has_room_for(self, entry: EntryT) -> bool:
        """Whether ``entry`` would be admitted at once."""
        return not self._waiting and self._has_room(entry)

    def enter_now(self, entry: EntryT) -> bool:
        """Admit ``entry`` if there is room; ``False``, and nothing is done, if it would have to wait.

        Raises:
            CommitFailedError: the journal is closed.
        """
        if self._closed_because is not None:
            raise CommitFailedError(self._closed_because)
        if not self.has_room_for(entry):
            return False
        self._take(entry)
        return True

    async def enter(self, entry: EntryT) -> None:
        """Admit ``entry``, waiting only while there is no room.

        With room it returns without a checkpoint. Cancelled while it waits, the entry was not put.

        Raises:
            CommitFailedError: the journal is closed, or was closed while this waited.
        """
        if self.enter_now(entry):
            return
        waiter = _Waiter(entry, trio.lowlevel.current_task())
        self._waiting[waiter] = None

        def give_up(_: object) -> trio.lowlevel.Abort:
            # At once: room may be given back before the cancelled task has its turn.
            del self._waiting[waiter]
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(give_up)
        except BaseException:
            # It may have been a large one that kept smaller ones behind it out.
            self._let_in()
            raise
        if not waiter.taken:
            raise CommitFailedError(self._closed_because or "the store is closed")

    def release(self, entries: Iterable[EntryT]) -> None:
        """Give back the room of entries that are on disk or have failed; let waiters in."""
        for entry in entries:
            self._rows -= entry.rows
            self._bytes -= entry.size
            self._entries -= 1
        if self._waiting:
            self._let_in()

    def close(self, because: str) -> None:
        """Admit nothing more; everybody who waits gets :class:`CommitFailedError` with this text."""
        if self._closed_because is None:
            self._closed_because = because
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            trio.lowlevel.reschedule(waiter.task)

    def _has_room(self, entry: EntryT) -> bool:
        # An entry larger than the whole journal goes in alone; otherwise it would never go.
        return self._entries == 0 or (
            self._rows + entry.rows <= self._max_rows and self._bytes + entry.size <= self._max_bytes
        )

    def _take(self, entry: EntryT) -> None:
        self._rows += entry.rows
        self._bytes += entry.size
        self._entries += 1
        self._put(entry)

    def _let_in(self) -> None:
        while self._waiting:
            waiter = next(iter(self._waiting))
            if not self._has_room(waiter.entry):
                return
            del self._waiting[waiter]
            # Put here and not in the task that waits: it runs later, and others could overtake it.
            self._take(waiter.entry)
            waiter.taken = True
            trio.lowlevel.reschedule(waiter.task)
