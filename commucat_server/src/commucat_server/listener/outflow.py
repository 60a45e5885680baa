"""The order in which connections send what one commit has brought, and read what comes of it.

A message to a thousand members gives a thousand connections something to send, and each is a system call
that wakes a peer, whose confirmation is back a moment later and costs more than the delivery did. So:

- what is *urgent* goes first, the Ack of the message's sender: it has waited for the disk only;
- the others send in slices, and between two of them everybody else has a turn of the event loop;
- but what peers answer that have been served is not read before all of them are. The last member would
  wait for the confirmations of those before it, and nobody waits for these.

Where writes follow each other, and before each read, there is a *gap*: messages that are on disk by then
are told there, and need not wait until everybody has sent what is less urgent, such as media.

Each large commit is a *wave* of its own, and only its own members wait for its end: who sends to many
without a pause keeps nobody from being read.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator

import structlog
import trio

_log = structlog.get_logger("commucat.listener")

Flush = Callable[[], None]
"""Sends what one connection has queued; raises nothing."""

MANY = 32
"""Connections that send at once, whatever else is going on; more make a wave."""
SLICE_SECONDS = 0.004


class Outflow:
    """Collects who has something to send while a commit is told, and lets them send at its end.

    One for each event loop; every method must be called in its thread.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._urgent: dict[Flush, None] = {}
        self._due: dict[Flush, None] = {}
        # Where `add` puts: one of the two, or nothing while no commit is told.
        self._open: dict[Flush, None] | None = None
        self._waves: deque[Iterator[Flush]] = deque()
        self._held = trio.lowlevel.ParkingLot()
        self.wave = 1
        """The number of the wave that is going out, or of the next one."""
        self.gap: Callable[[], None] = _nothing
        """Called between two pieces of work of a pass; it may have others add what they send, and send it."""
        self.sending = False
        """A slice is being sent right now: who sends belongs to the wave."""

    def begin(self) -> None:
        """A commit is being told from now on."""
        self._open = self._due

    def hasten(self, urgent: bool) -> None:
        """Whether what is added from now on goes before the rest."""
        if self._open is not None:
            self._open = self._urgent if urgent else self._due

    def add(self, flush: Flush) -> bool:
        """``flush`` is called once after the end; ``False`` if no commit is being told."""
        if self._open is None:
            return False
        self._open[flush] = None
        return True

    def end(self) -> None:
        """Everything has been told: send, all of it or the first slice of a wave."""
        self._open = None
        urgent, self._urgent = self._urgent, {}
        due, self._due = self._due, {}
        for flush in urgent:
            self.gap()
            _send(flush)
        if len(due) > MANY:
            self._waves.append(iter(due))
            if len(self._waves) == 1:
                self._send_slice()
        else:
            for flush in due:
                self.gap()
                _send(flush)

    async def over(self, wave: int) -> None:
        """Return when the wave has gone out."""
        while wave == self.wave and self._waves:
            await self._held.park()

    def _send_slice(self) -> None:
        self.sending = True
        self._send_until(self._clock() + SLICE_SECONDS)
        self.sending = False
        if self._waves:
            # At the end of the event loop nobody is left to send.
            with contextlib.suppress(trio.RunFinishedError):
                trio.lowlevel.current_trio_token().run_sync_soon(self._send_slice)

    def _send_until(self, end: float) -> None:
        for flush in self._waves[0]:
            _send(flush)
            if self._clock() >= end:
                return
        self._waves.popleft()
        self.wave += 1
        self._held.unpark_all()


def _nothing() -> None:
    """Where nobody has anything to do in a gap."""


def _send(flush: Flush) -> None:
    try:
        flush()
    except Exception as exc:  # noqa: BLE001 - what the others have to send would stay where it is
        _log.error("a connection failed to send its part", exc_info=exc)
