"""Lets newcomers in a few at a time, so that those who are in are served between them.

A pass of the event loop runs everybody who can run. A step of a handshake computes for up to a millisecond,
a message for some microseconds: when hundreds connect at the same moment, as after a restart, one pass would
last for hundreds of steps, and every message would wait for it. So the costly steps ask here first. They go
on at once while the pass is young. Otherwise they wait, and each later pass lets one through, first those
that have come furthest, for they are done soonest. Nothing is kept over a wait for a peer: who is silent
stops nobody.
"""

import enum
import math
import time
from collections import deque

import trio

from commucat_server.listener.wakeup import Wakeup

PASS_SECONDS = 0.0005
"""A pass of the event loop that has lasted for so long begins no second step."""


_AMPLE = 1.0
"""Seconds until a deadline that is in no danger while one pass lasts."""


class Step(enum.IntEnum):
    """Costly steps of a connection, in their order."""

    ACCEPT = 0
    """Taking it from the kernel. As long as others wait it stays there, where it costs nothing."""
    TLS = 1
    """Keys and a signature for a ClientHello."""
    HTTP = 2
    """The objects of a connection, and its tasks."""
    HELLO = 3
    """The handshake proof, Noise messages 1 and 2."""
    PROOF = 4
    """Noise message 3, and the admission."""
    END = 5
    """Taking a session down that its peer has ended."""


class Turnstile(trio.abc.Instrument):
    """One for each event loop; it begins to watch the loop's passes when it is first used."""

    def __init__(self) -> None:
        self._queues: tuple[deque[Wakeup], ...] = tuple(deque() for _ in Step)
        self._watching = False
        self._used = False
        self._began = 0.0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(map(len, self._queues))

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._used = False
        self._began = time.perf_counter()

    async def turn(self, step: Step, deadline: trio.CancelScope | None = None) -> None:
        """Return when the step may be taken; at once, without a checkpoint, if nobody waits.

        A ``deadline`` stands still meanwhile: waiting here is no fault of the peer.
        """
        if not self._watching:
            self._watching = True
            self._began = time.perf_counter()
            trio.lowlevel.add_instrument(self)
        if self._next() is None and self._open():
            return
        queue, ticket = self._queues[step], Wakeup()
        queue.append(ticket)
        try:
            if self._next() is ticket and (
                deadline is None or deadline.deadline - trio.current_time() > _AMPLE
            ):
                # Mostly the next pass is its turn: for so long no deadline has to stand still.
                await trio.lowlevel.checkpoint()
                if self._next() is ticket and self._open():
                    return
            if deadline is None:
                await self._wait(ticket)
                return
            left = deadline.deadline - trio.current_time()
            deadline.deadline = math.inf
            try:
                await self._wait(ticket)
            finally:
                deadline.deadline = trio.current_time() + left
        finally:
            queue.remove(ticket)
            following = self._next()
            if following is not None:
                following.set()

    async def _wait(self, ticket: Wakeup) -> None:
        while True:
            if self._next() is not ticket:
                await ticket.wait()
            elif self._open():
                return
            else:
                await trio.lowlevel.checkpoint()

    def _next(self) -> Wakeup | None:
        for queue in reversed(self._queues):
            if queue:
                return queue[0]
        return None

    def _open(self) -> bool:
        """Whether this pass takes one more step."""
        if self._used and time.perf_counter() - self._began >= PASS_SECONDS:
            return False
        self._used = True
        return True
