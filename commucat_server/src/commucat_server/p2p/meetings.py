"""Who waits for whom, and what passes between two that have met."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from commucat_server.listener import StreamLostError
from commucat_server.ops.counters import Counters
from commucat_server.p2p.peer import READY, Ending, Peer

WAIT_FOR_OTHER: Final = 30.0
"""Seconds that the first one waits."""


@attrs.frozen(kw_only=True)
class RelayLimits:
    """See section ``[p2p]`` of the configuration."""

    pairs: int
    per_owner: int
    bytes: int
    """Of one meeting, both directions together."""
    seconds: float
    idle: float


@attrs.define(eq=False)
class _Meeting:
    first: Peer
    second: Peer | None = None
    met: trio.Event = attrs.Factory(trio.Event)
    over: trio.Event = attrs.Factory(trio.Event)
    waiting: trio.CancelScope = attrs.Factory(trio.CancelScope)
    """Of the first one, while it is alone."""
    talking: trio.CancelScope = attrs.Factory(trio.CancelScope)
    """Of what passes between the two."""
    ending: Ending = Ending.LOST
    bytes: int = 0
    spoken: float = attrs.Factory(trio.current_time)

    def end(self, ending: Ending) -> None:
        """The first reason counts."""
        if not self.over.is_set():
            self.ending = ending
            self.over.set()
            self.waiting.cancel()
            self.talking.cancel()


class Meetings:
    """The meetings of this process. One owner, no lock: nothing here waits between looking and changing."""

    def __init__(self, limits: RelayLimits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._meetings: dict[str, _Meeting] = {}
        self._owners: Counter[str] = Counter()
        self._closing = False

    def __len__(self) -> int:
        return len(self._meetings)

    def end_all(self) -> None:
        """Tell everybody that the server stops; nobody meets here any more."""
        self._closing = True
        for meeting in list(self._meetings.values()):
            meeting.end(Ending.SHUTDOWN)

    async def attend(self, session_id: str, peer: Peer, owner: str) -> Ending:
        """Let a peer wait, or meet the one that waits; returns why it is over. The peer stays open.

        Args:
            session_id: the word under which two peers meet.
            peer: what it says meanwhile is kept as far as its mailbox holds it.
            owner: whom to count the connection for.
        """
        if self._closing:
            return Ending.SHUTDOWN
        if self._owners[owner] >= self._limits.per_owner:
            return Ending.TOO_MANY
        meeting = self._meetings.get(session_id)
        if meeting is None:
            if len(self._meetings) >= self._limits.pairs:
                return Ending.FULL
            meeting = self._meetings[session_id] = _Meeting(peer)
            with self._counted(owner):
                return await self._wait(session_id, meeting)
        if meeting.second is not None or meeting.over.is_set():
            return Ending.TAKEN
        meeting.second = peer
        meeting.met.set()
        with self._counted(owner):
            return await self._meet(meeting, peer)

    @contextmanager
    def _counted(self, owner: str) -> Iterator[None]:
        self._owners[owner] += 1
        try:
            yield
        finally:
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]

    async def _wait(self, session_id: str, meeting: _Meeting) -> Ending:
        """The part of the first one: it is there until the meeting is over."""
        self._counters.p2p_waiting += 1
        try:
            try:
                await meeting.first.send(READY)
                with meeting.waiting:
                    await self._wait_alone(meeting)
            except StreamLostError:
                meeting.end(Ending.LOST)
            finally:
                self._counters.p2p_waiting -= 1
            await meeting.over.wait()
        finally:
            # Also when it is cancelled: the other must not speak to nobody.
            meeting.end(Ending.LOST)
            del self._meetings[session_id]
        return meeting.ending

    async def _wait_alone(self, meeting: _Meeting) -> None:
        async with trio.open_nursery() as nursery:

            async def notice_loss() -> None:
                await meeting.first.wait_gone()
                meeting.end(Ending.LOST)

            nursery.start_soon(notice_loss)
            with trio.move_on_after(WAIT_FOR_OTHER):
                await meeting.met.wait()
            if meeting.second is None:
                meeting.end(Ending.NOBODY)
            nursery.cancel_scope.cancel()

    async def _meet(self, meeting: _Meeting, peer: Peer) -> Ending:
        """The part of the second one: its task passes the messages of both."""
        self._counters.p2p_open += 1
        self._counters.p2p_meetings += 1
        try:
            with meeting.talking:
                await peer.send(READY)
                meeting.spoken = trio.current_time()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, meeting, meeting.first, peer)
                    nursery.start_soon(self._pass_on, meeting, peer, meeting.first)
                    nursery.start_soon(self._watch, meeting)
        except* StreamLostError:
            meeting.end(Ending.LOST)
        finally:
            meeting.end(Ending.LOST)
            self._counters.p2p_open -= 1
        return meeting.ending

    async def _pass_on(self, meeting: _Meeting, source: Peer, target: Peer) -> None:
        while (message := await source.take()) is not None:
            meeting.bytes += len(message.data)
            if meeting.bytes > self._limits.bytes:
                meeting.end(Ending.TOO_MUCH)
                return
            meeting.spoken = trio.current_time()
            await target.send(message)
            self._counters.p2p_messages += 1
            self._counters.p2p_bytes += len(message.data)
        meeting.end(Ending.CLOSED)

    async def _watch(self, meeting: _Meeting) -> None:
        """End a meeting in which nothing is said, or that lasts too long."""
        last = trio.current_time() + self._limits.seconds
        while True:
            silent = meeting.spoken + self._limits.idle
            await trio.sleep_until(min(silent, last))
            now = trio.current_time()
            if now >= last:
                meeting.end(Ending.TOO_LONG)
            elif now >= meeting.spoken + self._limits.idle:
                meeting.end(Ending.IDLE)
