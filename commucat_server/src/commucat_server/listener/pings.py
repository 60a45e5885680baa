"""Which PINGs of ours are on their way, wanted or answered."""

import trio


class Pings:
    """Counts the PINGs of one connection. They are numbered from 1, and at most one is in flight."""

    __slots__ = ("_waiting", "answered", "sent", "wanted")

    def __init__(self) -> None:
        self.sent = 0
        self.answered = 0
        self.wanted = False
        self._waiting: trio.lowlevel.ParkingLot | None = None

    def next_payload(self) -> bytes | None:
        """The eight bytes of a PING that is due now; ``None`` if none is wanted or one is in flight."""
        if not self.wanted or self.sent != self.answered:
            return None
        self.wanted = False
        self.sent += 1
        return self.sent.to_bytes(8, "big")

    def accept_answer(self, payload: bytes) -> bool:
        """Take the payload of an acknowledgement; ``False`` if no such PING is in flight."""
        if self.answered == self.sent or payload != self.sent.to_bytes(8, "big"):
            return False
        self.answered = self.sent
        self.wake()
        return True

    def wake(self) -> None:
        """Let all waiting tasks look again."""
        if self._waiting is not None:
            self._waiting.unpark_all()

    async def wait(self) -> None:
        """Return at the next answer, or when the connection is lost."""
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()
