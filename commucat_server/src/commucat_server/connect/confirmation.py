"""Confirmation by the transport, for clients that do not say themselves what they have received."""

from collections import deque

import trio

from commucat_server.listener import ConnectStream
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.live import LiveSession
from commucat_storage import CommitFailedError, Confirm, Outcome


class TransportConfirmation:
    """Confirms messages as far as the peer's transport has answered for their bytes, and no further.

    Each write leaves a mark, position and inbox number. So a connection that gets stuck half-way is confirmed
    up to the last write that it has carried as a whole.
    """

    def __init__(self, stream: ConnectStream, live: LiveSession, inbox: Inbox) -> None:
        self._stream = stream
        self._live = live
        self._inbox = inbox
        self._marks: deque[tuple[int, int]] = deque()
        self._marked = live.taken
        self._changed = trio.lowlevel.ParkingLot()

    def sent(self) -> None:
        """Everything taken from the session so far has just been given to the stream."""
        if self._live.taken > self._marked:
            self._marked = self._live.taken
            self._marks.append((self._stream.sent_bytes, self._marked))
            self._changed.unpark_all()

    async def run(self) -> None:
        """Confirm until cancelled.

        Raises:
            StreamLostError: the peer answers for nothing more.
        """
        marks, live = self._marks, self._live
        done = 0
        while True:
            while not marks:
                await self._changed.park()
            if marks[0][0] > done:
                done = await self._stream.confirm(done)
            number = 0
            while marks and marks[0][0] <= done:
                number = marks.popleft()[1]
            if number:
                confirm = Confirm(live.device_id, live.epoch, number)
                await self._inbox.submit([confirm], self._confirmed)

    def _confirmed(self, result: tuple[Outcome, ...] | CommitFailedError) -> None:
        """Nothing to answer. After a failed commit the rows stay and are delivered again."""
