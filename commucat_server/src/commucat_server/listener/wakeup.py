"""The cheapest way for one task to wait for another: the hot path crosses it per read and per write."""

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

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
