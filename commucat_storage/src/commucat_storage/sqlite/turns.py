"""Turns at Python's interpreter lock, shared by a busy event loop and the threads of the store.

An event loop that always has something to do lets go of the interpreter lock only for the
microseconds of a system call, and has it back before another thread wakes up. Measured: with
a loop that is 80 % busy a commit lasts a millisecond, with one that is 100 % busy 150. So
the loop gives way by itself, but only when it has no idle time anyway, and only while
somebody waits for the store.

A loop that has idle time may still be in a long pass when the writer comes back from the disk. So it gives
way between the pieces of such a pass, too, but only when the writer can be expected.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

WRITER_SECONDS = 0.0005
"""The longest turn of the writer while it computes; it ends as soon as the writer waits for the disk."""
OTHER_SECONDS = 0.00005
"""The turn of readers, and of a writer that comes back from the disk. Nobody ends it early, and it
is in vain while they wait for the disk, so it is short"""
OTHER_INTERVAL = 0.0005
"""and rare: seconds between two such turns. Together they take at most a tenth of the loop's time."""
BACK_SECONDS = 0.00015
"""The longest turn of a writer that is expected within a pass: what a thread needs to wake up on some
machines. It ends as soon as the writer has said what it has to."""
WAKING_SECONDS = 0.0001
"""After what time the writer is expected when there is something to do for it,"""
VAIN_SECONDS = 0.0002
"""and when it was waited for in vain; twice that the next time, and so on up to"""
MOST_VAIN_SECONDS = 0.005
_EARLY = 0.3
_STEP = 1 / 32
"""The writer is expected when the disk has answered in three of ten cases; part by which that moves."""
_LEAST_AWAY = 0.00005


class Turns(trio.abc.Instrument):
    """Lets the loop wait for the store's threads at the end of a pass that leaves no idle time.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.giving = False
        """The loop is giving way right now."""
        # Held by the loop; released by the writer to end its turn.
        self._turn = threading.Lock()
        self._turn.acquire()
        self._readers = 0
        self._writer_wanted = False
        self._writer_computes = False
        self._expected = 0.0
        # When the writer began to wait for the disk, if it does, and how long that lasts when it is quick.
        self._left: float | None = None
        self._away = WRITER_SECONDS
        self._vain = VAIN_SECONDS
        self._last = 0.0

    # -- for the event loop's thread -------------------------------------------------------------

    def before_io_wait(self, timeout: float) -> None:
        """Give way, if the loop would not wait on its own."""
        if timeout > 0:
            return
        if self._writer_wanted and self._writer_computes:
            self.give_way(WRITER_SECONDS)
        elif (self._writer_wanted or self._readers) and self._clock() - self._last > OTHER_INTERVAL:
            self.give_way(OTHER_SECONDS)
            self._last = self._clock()

    def between(self) -> None:
        """Two pieces of work of a pass: give way, if the writer may want the interpreter by now."""
        if self._writer_wanted and self._clock() >= self._expected:
            expected = self._expected
            self.give_way(BACK_SECONDS)
            # Else the writer was there, and has said when it comes again.
            if self._expected == expected:
                self._expected = self._clock() + self._vain
                self._vain = min(2 * self._vain, MOST_VAIN_SECONDS)

    def give_way(self, seconds: float) -> None:
        """Let go of the interpreter until the writer ends its turn, at most for ``seconds``."""
        self.giving = True
        try:
            self._turn.acquire(timeout=seconds)
        finally:
            self.giving = False

    def wanted(self) -> bool:
        """There is something for the writer to do; whether it had nothing before."""
        idle = not self._writer_wanted
        if idle:
            self._expected = self._clock() + WAKING_SECONDS
            self._vain = VAIN_SECONDS
        self._writer_wanted = True
        return idle

    def hand_over(self) -> None:
        """An idle writer has been given something: let it begin. It is with the disk all the sooner, and what
        the loop has left to do is done meanwhile."""
        self.give_way(WRITER_SECONDS)

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
        if self._left is not None:
            away = self._clock() - self._left
            self._away *= 1 + _STEP * (_EARLY if away > self._away else _EARLY - 1)
            self._away = max(self._away, _LEAST_AWAY)
            self._left = None
        self._writer_wanted = True
        self._writer_computes = True

    def waits(self) -> None:
        """The writer waits for a lock, and will need the interpreter again after it."""
        self._writer_computes = False
        self._end_turn()

    def syncs(self) -> None:
        """The writer waits for the disk, and will need the interpreter again after it."""
        self._left = self._clock()
        self._expected = self._left + self._away
        self._vain = VAIN_SECONDS
        self.waits()

    def idle(self) -> None:
        """The writer has nothing left to do, or has ended. The loop may just have said that there is
        something (``wanted``), which this undoes; then the writer finds it at once and computes."""
        self._writer_wanted = False
        self._end_turn()

    def _end_turn(self) -> None:
        # Only this thread releases it, so it stays locked between the two lines. An end that nobody waited
        # for would end the next turn before it began.
        if self.giving and self._turn.locked():
            self._turn.release()
