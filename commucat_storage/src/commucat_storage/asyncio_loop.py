"""The asyncio loop that asyncpg and redis need, beside the Trio loop and in the same thread."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
import trio_asyncio

T = TypeVar("T")


class AsyncioLoop:
    """Runs coroutines of asyncio; each as a whole, so that no cancellation meets one half-way.

    A cancelled query leaves a connection in an unknown state. What is begun here is finished, like a
    function in a thread; every unit has a deadline of its own.
    """

    def __init__(self, loop: trio_asyncio.TrioEventLoop) -> None:
        self._loop = loop

    async def run(self, unit: Callable[[], Awaitable[T]], *, give_up: bool = False) -> T:
        """Call ``unit`` in the asyncio loop and wait for it; cancelled before it began, or not at all.

        With ``give_up`` a cancellation reaches into it, and what it uses must not be used for anything else.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=not give_up):
            result: T = await self._loop.run_aio_coroutine(unit())
        return result


@asynccontextmanager
async def open_loop() -> AsyncIterator[AsyncioLoop]:
    """Run an asyncio loop while the block lasts, whatever is cancelled around it.

    The loop lives in a task that no scope of the caller reaches: the journal must still be able to
    commit what it took when the caller is cancelled. It ends with the block.
    """
    started, closing, ended = trio.Event(), trio.Event(), trio.Event()
    loop: trio_asyncio.TrioEventLoop | None = None
    failure: BaseException | None = None

    async def host() -> None:
        nonlocal loop
        async with trio_asyncio.open_loop() as loop:
            started.set()
            await closing.wait()

    async def captured() -> None:
        nonlocal failure
        try:
            await host()
        except BaseException as exc:  # noqa: BLE001 - raised in the block, not in Trio's own task
            failure = exc
        started.set()
        ended.set()

    trio.lowlevel.spawn_system_task(captured, name="commucat-asyncio")
    with trio.CancelScope(shield=True):
        await started.wait()
    try:
        if loop is not None:
            yield AsyncioLoop(loop)
    finally:
        closing.set()
        with trio.CancelScope(shield=True):
            await ended.wait()
        if failure is not None:
            raise failure
