"""Turns at Python's interpreter lock, shared by a busy event loop and the threads of the store.

An event loop that always has something to do lets go of the interpreter lock only for the
microseconds of a system call, and has it back before another thread wakes up. Measured: with
a loop that is 80 % busy a commit lasts a millisecond, with one that is 100 % busy 150. So
the loop gives way by itself, but only when it has no idle time anyway, and only while
somebody waits for the store.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

WRITER_SECONDS = 0.0005
"""The longest turn of the writer while it computes; it ends as soon as the writer waits for the disk."""
OTHER_SECONDS = 0.00005
"""The turn of readers, and of a writer that comes back from the disk. Nobody ends it early, and it
is in vain while they wait for the disk, so it is short"""
OTHER_INTERVAL = 0.0005
"""and rare: seconds between two such turns. Together they take at most a tenth of the loop's time."""


class Turns(trio.abc.Instrument):
    """Lets the loop wait for the store's threads at the end of a pass that leaves no idle time."""

    def __init__(self) -> None:
        # Held by the loop; released by the writer to end its turn.
        self._turn = threading.Lock()
        self._turn.acquire()
        self._readers = 0
        self._writer_wanted = False
        self._writer_computes = False
        self._last = 0.0

    # -- for the event loop's thread -------------------------------------------------------------

    def before_io_wait(self, timeout: float) -> None:
        """Give way, if the loop would not wait on its own."""
        if timeout > 0:
            return
        if self._writer_wanted and self._writer_computes:
            self.give_way(WRITER_SECONDS)
        elif (self._writer_wanted or self._readers) and time.perf_counter() - self._last > OTHER_INTERVAL:
            self.give_way(OTHER_SECONDS)
            self._last = time.perf_counter()

    def give_way(self, seconds: float) -> None:
        """Let go of the interpreter until the writer ends its turn, at most for ``seconds``."""
        self._turn.acquire(timeout=seconds)

    def wanted(self) -> None:
        """There is something for the writer to do."""
        self._writer_wanted = True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around the wait for a reader's thread."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    # -- for the writer's thread -----------------------------------------------------------------

    def computes(self) -> None:
        """The writer needs the interpreter from now on."""
        self._writer_wanted = True
        self._writer_computes = True

    def waits(self) -> None:
        """The writer waits for the disk or a lock, and will need the interpreter again after it."""
        self._writer_computes = False
        self._end_turn()

    def idle(self) -> None:
        """The writer has nothing left to do, or has ended. The loop may just have said that there is
        something (``wanted``), which this undoes; then the writer finds it at once and computes."""
        self._writer_wanted = False
        self._end_turn()

    def _end_turn(self) -> None:
        # Only this thread releases it, so it stays locked between the two lines.
        if self._turn.locked():
            self._turn.release()
