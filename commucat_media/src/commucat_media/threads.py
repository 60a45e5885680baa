"""Runs codecs in worker threads beside a Trio program; the one module of this package with an event loop.

A codec call takes from a tenth of a millisecond (a frame of Opus) to some milliseconds (a picture), in which
the interpreter lock is free, but its thread is not. Calls of one codec run one after another, in the order in
which they were asked for; calls of different codecs run side by side, as many as there are threads.
"""

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import trio

from commucat_media.errors import MediaError

WAITING_CALLS: Final = 16
"""Calls of one codec that may wait: a third of a second of sound. Who is further behind never catches up."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class CodecBusyError(MediaError):
    """Too many calls wait for this codec already; the frame or picture is to be dropped."""


class CodecThreads:
    """The threads of all codecs of a program."""

    def __init__(self, threads: int) -> None:
        """At most ``threads`` calls run at once: as many as there are processors to spare."""
        self._limiter = trio.CapacityLimiter(threads)

    def lane(self) -> "CodecLane":
        """Return the way to call one codec. There is nothing to close."""
        return CodecLane(self._limiter)


class CodecLane:
    """Calls of one codec, one at a time."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        # Fair: those who wait come in the order in which they came. It is held while a codec works, never
        # while anything is awaited from a network.
        self._turn = trio.Lock()
        self._waiting = 0

    async def run(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Return what ``call`` returns, or raise what it raises. A call that runs is not broken off.

        Raises:
            CodecBusyError: :data:`WAITING_CALLS` calls of this codec wait already.
        """
        if self._waiting >= WAITING_CALLS:
            raise CodecBusyError(f"{self._waiting} calls wait for this codec")
        self._waiting += 1
        try:
            async with self._turn:
                return await trio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._limiter)
        finally:
            self._waiting -= 1
