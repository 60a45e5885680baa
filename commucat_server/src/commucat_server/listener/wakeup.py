"""The cheapest ways for tasks to wait for one another: the hot path crosses them per read and per write."""

from typing import Any

import trio


class Wakeup:
    """A flag one task waits for and any code sets; setting it twice wakes once.

    Unlike ``trio.Event`` it is used again and again without a new object, and unlike a memory channel
    it keeps nothing but the flag.
    """

    __slots__ = ("_flag", "_task")

    def __init__(self) -> None:
        self._flag = False
        self._task: trio.lowlevel.Task | None = None

    def set(self) -> None:
        """Wake the waiting task, or let the next ``wait`` return at once."""
        task = self._task
        if task is None:
            self._flag = True
        else:
            self._task = None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Return when ``set`` was called since the last return.

        Raises:
            trio.BusyResourceError: another task waits already.
        """
        if self._flag:
            # Others get their turn first: what they queue meanwhile goes into the same batch.
            await trio.lowlevel.checkpoint()
            self._flag = False
            return
        if self._task is not None:
            raise trio.BusyResourceError("another task is waiting here already")
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        # A method, not a function inside: thousands of tasks wait here for hours, each with its own.
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Progress:
    """Any number of tasks wait for the next time that something happens.

    Like a parking lot, but while nobody waits it is one empty slot instead of 350 bytes.
    """

    __slots__ = ("_lot",)

    def __init__(self) -> None:
        self._lot: trio.lowlevel.ParkingLot | None = None

    def made(self) -> None:
        """Wake everybody who waits."""
        if self._lot is not None:
            lot, self._lot = self._lot, None
            lot.unpark_all()

    async def wait(self) -> None:
        """Return when ``made`` is called next."""
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()
