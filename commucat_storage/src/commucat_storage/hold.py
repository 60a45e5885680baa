"""Some entries of a journal wait a moment for company, so that they need no commit of their own.

Confirmations: a message is on its way as soon as it comes. That its receiver has it only deletes a row, and
nobody waits for that: it goes with the next commit, or alone when none comes for a while. Lost with the
process it costs a redelivery, as if it had been lost on the network.

Admissions: somebody waits for each, so they gather only while the event loop has something else to do.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from commucat_storage.backlog import Sized

T = TypeVar("T", bound=Sized)


class Hold(Generic[T]):
    """Keeps items back, in order, for at most ``delay`` seconds. For the event-loop thread only.

    ``release`` is called with what is let go. Time is kept by a system task, as a nursery would
    wrap the errors of everybody who uses the store; ``close`` ends it.

    ``wait`` returns at the given time, or before it if nothing is to be waited for.
    """

    def __init__(
        self,
        delay: float,
        most_rows: int,
        release: Callable[[list[T]], None],
        wait: Callable[[float], Awaitable[None]] = trio.sleep_until,
    ) -> None:
        self._delay = delay
        self._most_rows = most_rows
        self._release = release
        self._wait = wait
        self._held: list[T] = []
        self._rows = 0
        self._since = 0.0
        self._timer = trio.CancelScope()
        self._wanted = trio.lowlevel.ParkingLot()
        trio.lowlevel.spawn_system_task(self._watch, name="commucat-hold")

    def add(self, item: T) -> None:
        """Keep ``item`` until somebody lets go; too many of them go at once."""
        if not self._held:
            self._since = trio.current_time()
            self._wanted.unpark_all()
        self._held.append(item)
        self._rows += item.rows
        if self._rows >= self._most_rows:
            self.let_go()

    def let_go(self) -> None:
        """Release everything."""
        if self._held:
            self._release(self.take())

    def take(self) -> list[T]:
        """Remove everything, for a caller that has company for it."""
        held, self._held = self._held, []
        self._rows = 0
        return held

    def close(self) -> None:
        """Release everything; what is added later is released at once."""
        self._most_rows = 0
        self._timer.cancel()
        self.let_go()

    async def _watch(self) -> None:
        with self._timer:
            while True:
                if not self._held:
                    await self._wanted.park()
                since = self._since
                await self._wait(since + self._delay)
                # What is held now may have come after a release, and have time left.
                if self._since <= since:
                    self.let_go()
