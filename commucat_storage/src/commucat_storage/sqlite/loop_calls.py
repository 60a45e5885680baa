"""What a thread wants to have called in the event loop.

Trio's ``run_sync_soon`` does that, too. But the loop often finds by itself what has come, between two pieces
of its work, and the wake-up that was sent for it then costs a pass for nothing. Here it is not sent while
the loop is looking, and taken back when the loop comes first.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable

import trio

_READ_SIZE = 4096


class LoopCalls:
    """From one thread to the event loop in which it is made, in order."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._calling = False
        self._looking = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        # A nursery would wrap the errors of everybody who uses the store.
        trio.lowlevel.spawn_system_task(self._listen, name="commucat-loop-calls")

    # -- in the thread ---------------------------------------------------------------------------

    def post(self, function: Callable[..., object], *args: object) -> bool:
        """Have ``function`` called; ``False`` if the loop has ended, so that it never will be."""
        self._calls.append((function, args))
        # Whoever is looking looks at the calls after that.
        if not self._looking:
            try:
                os.write(self._writer, b"\0")
            except BlockingIOError:
                pass  # Thousands of wake-ups are on their way.
            except BrokenPipeError:
                return False
        return True

    def end(self) -> None:
        """Nothing will be posted any more."""
        os.close(self._writer)

    # -- in the event loop -----------------------------------------------------------------------

    @property
    def calling(self) -> bool:
        """One of the functions is being called right now."""
        return self._calling

    def look(self, wait: Callable[[], None]) -> None:
        """Call what has come; if nothing has, what comes while ``wait`` lasts. Nothing from within a call."""
        if self._calling:
            return
        if self._calls:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, _READ_SIZE)
        else:
            self._looking = True
            wait()
            self._looking = False
        self._call()

    async def _listen(self) -> None:
        try:
            going_on = True
            while going_on:
                await trio.lowlevel.wait_readable(self._reader)
                with contextlib.suppress(BlockingIOError):
                    going_on = bool(os.read(self._reader, _READ_SIZE))
                self._call()
        finally:
            os.close(self._reader)

    def _call(self) -> None:
        self._calling = True
        try:
            # What comes meanwhile has its own wake-up, behind a turn for everybody else.
            for _ in range(len(self._calls)):
                function, args = self._calls.popleft()
                function(*args)
        finally:
            self._calling = False
