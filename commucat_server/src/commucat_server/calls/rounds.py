"""When media goes out: in rounds, in which every receiver gets what has come for it since the last one.

A packet of sound is small, and sending one costs what sending ten costs: a record of TLS and a system call.
With much to send the rounds are up to 20 ms apart, more if sending them takes long; with little they follow
at once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio

from commucat_server.listener.outflow import Outflow
from commucat_server.routing.live import LiveSession

LONGEST: Final = 0.02
"""Seconds between two rounds, unless sending takes so long: the time of one packet of sound."""
STRETCHED: Final = 0.06
"""The same, however long sending takes: a jitter buffer holds a little more."""
_SHARE: Final = 1 / 3
"""Part of the time that rounds may take, at most, by being fewer: what they cost is by receivers more than by
packets. The rest is for what comes in, and for messages."""
SLICE: Final = 0.0005
SLICES: Final = 4
"""A round lets everybody else have a turn, who may have a message, after so many seconds, but hardly more
often than so many times: where many send, such a turn takes long."""
_AT_ONCE: Final = 500.0
"""Packets in a second up to which they are sent as they come."""
_PER_PACKET: Final = LONGEST / 2_000
_MEMORY: Final = 0.2
"""Seconds over which packets are counted."""


class Pace:
    """How long the next round waits, by how many packets there are. No input or output."""

    __slots__ = ("_count", "_rate", "_since", "_took")

    def __init__(self) -> None:
        self._took = 0.0
        self._rate = 0.0
        self._count = 0
        self._since = float("-inf")

    def count(self, packets: int, now: float) -> None:
        """So many packets were queued for receivers, for each of them one."""
        if now - self._since >= _MEMORY:
            # After a silence what was before is no measure.
            elapsed = max(now - self._since, _MEMORY)
            self._rate = self._count / elapsed
            self._count, self._since = 0, now
        self._count += packets

    def sent(self, seconds: float) -> None:
        """A round has been sent, and took so long."""
        self._took += (seconds - self._took) / 4

    @property
    def slice(self) -> float:
        """Seconds after which a round is interrupted."""
        return max(SLICE, self._took / SLICES)

    @property
    def pause(self) -> float:
        """Seconds."""
        if self._rate <= _AT_ONCE:
            return 0.0
        least = self._took * (1 / _SHARE - 1)
        return min(STRETCHED, max(least, min(LONGEST, self._rate * _PER_PACKET)))


class MediaRounds:
    """Sends what media the sessions have queued; one for each event loop.

    Args:
        outflow: by which sessions send together.
        late: told of each round how many seconds after it was due it had been sent.
    """

    def __init__(self, outflow: Outflow, late: Callable[[float], None]) -> None:
        self._outflow = outflow
        self._late = late
        self._due: dict[LiveSession, None] = {}
        self._begun = trio.Event()
        self._pace = Pace()

    def add(self, sessions: Sequence[LiveSession], now: float) -> None:
        """Each of these has a packet more; they are sent in the next round."""
        if sessions:
            if not self._due:
                self._begun.set()
            self._due.update(dict.fromkeys(sessions))
        self._pace.count(len(sessions), now)

    async def run(self) -> None:
        """Send round after round; never returns."""
        while True:
            await self._begun.wait()
            due = trio.current_time() + self._pace.pause
            # Also without a pause others have a turn first, who may have more for the same receivers.
            await trio.sleep_until(due)
            self._begun = trio.Event()
            sessions, self._due = list(self._due), {}
            begin = trio.current_time()
            waiting = iter(sessions)
            while self._send(waiting):
                # Messages do not wait until everybody in all calls is served.
                await trio.lowlevel.checkpoint()
            # What the round took counts, too: others wait for it as for anything else.
            end = trio.current_time()
            self._pace.sent(end - begin)
            self._late(end - due)

    def _send(self, sessions: Iterator[LiveSession]) -> bool:
        """Have some of the sessions send; ``False`` if those were all."""
        end = trio.current_time() + self._pace.slice
        for session in sessions:
            self._outflow.begin()
            session.send_media()
            self._outflow.end()
            if trio.current_time() >= end:
                return True
        return False
