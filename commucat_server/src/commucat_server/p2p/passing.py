"""Peers that meet at another worker of this server: passed on over its local socket.

The session id says at which worker two peers meet. A worker that gets one of another passes it on:
a line of JSON with id and owner, then in both directions messages, each a byte for its kind, 4 bytes for
its length (big-endian), and its bytes.
"""

from contextlib import suppress
from typing import Final

import trio
from blake3 import blake3

from commucat_proto import json_text
from commucat_server.listener import StreamLostError
from commucat_server.p2p.meetings import Meetings
from commucat_server.p2p.peer import MAX_MESSAGE, Ending, Message, Peer

_BINARY, _TEXT, _ENDING = 0, 1, 2
_HEAD_LEN: Final = 5
ANSWER_TIMEOUT: Final = 10.0
"""Seconds for the other worker's first word."""
FAREWELL: Final = 5.0
"""Seconds for the last one, behind what is still on its way."""


def worker_of(session_id: str, workers: int) -> int:
    """At which of so many workers (from 1) two peers meet."""
    return int.from_bytes(blake3(session_id.encode()).digest(4), "big") % workers + 1


async def pass_on(stream: trio.SocketStream, session_id: str, owner: str, peer: Peer) -> Ending:
    """Let ``peer`` attend at the worker behind ``stream``; returns why it is over. Closes the stream."""
    ending = Ending.LOST
    async with stream, trio.open_nursery() as nursery:

        async def to_worker() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_all(json_text.dumps({"meet": session_id, "owner": owner}) + b"\n")
                while (message := await peer.take()) is not None:
                    await stream.send_all(_packed(_TEXT if message.text else _BINARY, message.data))
                await stream.send_eof()

        nursery.start_soon(to_worker)
        patience = ANSWER_TIMEOUT
        try:
            while True:
                with trio.move_on_after(patience) as late:
                    kind, data = await _read(stream)
                if late.cancelled_caught:
                    ending = Ending.AWAY
                    break
                if kind == _ENDING:
                    ending = Ending[data.decode()]
                    break
                await peer.send(Message(data, text=kind == _TEXT))
                patience = float("inf")  # from here on the other worker watches the time
        except StreamLostError:
            ending = Ending.LOST
        except (trio.BrokenResourceError, ValueError, KeyError):
            ending = Ending.AWAY  # the worker has died
        nursery.cancel_scope.cancel()
    return ending


async def attend_passed(stream: trio.SocketStream, session_id: str, owner: str, meetings: Meetings) -> None:
    """Let a peer of another worker attend here."""
    peer = _PassedPeer(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.read)
        ending = await meetings.attend(session_id, peer, owner)
        nursery.cancel_scope.cancel()
    # A client that reads nothing holds up the worker that it is connected to.
    with trio.move_on_after(FAREWELL), suppress(StreamLostError):
        await peer.end(ending)


class _PassedPeer:
    """A peer as another worker passes it on."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        # Of a message whose sending was cancelled: what follows must not begin in its middle.
        self._unsent = bytearray()
        # One message at a time: the mailbox is that of the worker whom the peer is connected to.
        self._put, self._mailbox = trio.open_memory_channel[Message](1)
        self._gone = trio.Event()

    async def read(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, StreamLostError, ValueError):
            while True:
                kind, data = await _read(self._stream)
                await self._put.send(Message(data, text=kind == _TEXT))
        self._put.close()
        self._gone.set()

    async def take(self) -> Message | None:
        try:
            return await self._mailbox.receive()
        except trio.EndOfChannel:
            return None

    async def wait_gone(self) -> None:
        await self._gone.wait()

    async def send(self, message: Message) -> None:
        await self._send(_packed(_TEXT if message.text else _BINARY, message.data))

    async def end(self, ending: Ending) -> None:
        """Say why it is over. Raises as ``send``."""
        await self._send(_packed(_ENDING, ending.name.encode()))

    async def _send(self, packed: bytes) -> None:
        # Both tasks of a meeting may speak to it at its beginning.
        async with self._sending:
            self._unsent += packed
            try:
                while self._unsent:
                    sent = await self._stream.socket.send(self._unsent)
                    del self._unsent[:sent]
            except OSError as exc:
                raise StreamLostError("the other worker has gone") from exc


def _packed(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(4, "big") + data


async def _read(stream: trio.SocketStream) -> tuple[int, bytes]:
    """Raises StreamLostError at the end, ValueError for what no worker sends."""
    head = await _exactly(stream, _HEAD_LEN)
    length = int.from_bytes(head[1:], "big")
    if length > MAX_MESSAGE:
        raise ValueError("too long for a message")
    return head[0], await _exactly(stream, length)


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise StreamLostError("the other worker has closed")
        data += piece
    return bytes(data)
