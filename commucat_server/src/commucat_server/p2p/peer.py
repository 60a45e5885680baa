"""What a meeting knows of a peer, whatever carries it, and how meetings end."""

import enum
from typing import Final, Protocol

import attrs

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of one message. A datagram of a call has 1.5 KiB; this is what a peer can make us hold, times
:data:`MAILBOX`."""
MAILBOX: Final = 16
"""Messages of one peer that wait to be passed on. When it is full the peer is not read: TCP tells it."""


@attrs.frozen
class Message:
    """One WebSocket message: it is passed on as what it was."""

    data: bytes
    text: bool = False


READY: Final = Message(b"OK")
"""What a peer is told when its word was taken."""


class Ending(enum.Enum):
    """Why a peer's connection ends: code and reason of its Close frame (RFC 6455, section 7.4)."""

    CLOSED = (1000, "the other peer has closed")
    LOST = (1000, "the other peer is gone")
    SHUTDOWN = (1001, "the server stops")
    NO_SESSION = (1008, "no session id came in time, or it is none")
    TAKEN = (1008, "two peers have met under this session id already")
    TOO_MUCH = (1008, "this meeting has used its bytes")
    TOO_BIG = (1009, "a message is too long")
    FULL = (1013, "too many meetings; try again later")
    TOO_MANY = (1013, "too many connections of yours; try again later")
    AWAY = (1013, "the worker of this session id does not answer; try again later")
    NOBODY = (4000, "no other peer came")
    IDLE = (4001, "nothing was said for too long")
    TOO_LONG = (4002, "this meeting has used its time")

    @property
    def code(self) -> int:
        """Of the Close frame."""
        return self.value[0]

    @property
    def reason(self) -> str:
        """For people."""
        return self.value[1]


class Peer(Protocol):
    """One of the two."""

    async def take(self) -> Message | None:
        """The next message; ``None`` at the end, however it came."""
        ...

    async def wait_gone(self) -> None:
        """Return when nothing more will come and nobody is there to hear."""
        ...

    async def send(self, message: Message) -> None:
        """Pass a message on; waits while the peer is slow.

        Raises:
            StreamLostError: nobody is there any more.
        """
        ...
