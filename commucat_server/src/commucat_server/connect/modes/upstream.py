"""Bytes of the client by short POSTs, for networks that let no streaming request body through.

The response carries one direction as ever. The other comes in requests of their own, each with the offset of
its first byte in the stream: one that is repeated or overtaken changes nothing, and none can leave a gap. So
the bytes reach Noise in order and once.
"""

import secrets
from typing import Protocol

import attrs
import trio

from commucat_server.connect.modes.refusal import Refusal

MAX_POST = 1024 * 1024
"""Bytes of one POST."""
MAX_WAITING = 256 * 1024
"""Bytes that wait for their session; above it POSTs wait, as a streaming body would."""
MAX_POSTS = 8
"""POSTs of one stream at once: a client needs one, and a repeated one."""
NEW = "new"
_MAX_OFFSET_DIGITS = 19  # below 2^64, and no cost in reading it


def upstream_of(query: str) -> dict[str, str]:
    """The parameters ``upstream`` and ``offset`` of a query, as far as they are there."""
    found: dict[str, str] = {}
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key in ("upstream", "offset"):
            found.setdefault(key, value)
    return found


class Post(Protocol):
    """What is used of a request."""

    @property
    def method(self) -> str: ...

    async def receive(self) -> bytes:
        """More of its body; empty at its end. Raises :class:`StreamLostError`."""
        ...


class Upstream:
    """The client's side of one stream: what POSTs bring, in order, until its session takes it."""

    __slots__ = ("_buffer", "_changed", "_closed", "expected", "id", "posts")

    def __init__(self, prefix: str = "") -> None:
        self.id = prefix + secrets.token_hex(32)
        self.expected = 0
        """Offset of the next byte."""
        self.posts = 0
        self._buffer = bytearray()
        self._changed = trio.lowlevel.ParkingLot()
        self._closed = False

    async def take(self) -> bytes:
        """Everything that has arrived since; waits for at least one byte."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._buffer:
            await self._changed.park()
        data = bytes(self._buffer)
        self._buffer = bytearray()
        self._changed.unpark_all()
        return data

    def close(self) -> None:
        """The stream is over: POSTs that wait find it gone."""
        self._closed = True
        self._changed.unpark_all()

    async def feed(self, offset: int, post: Post, patience: float) -> Refusal | None:
        """Take one POST's body, whose first byte has this offset; ``None`` if all of it is known now.

        What arrives before the POST breaks off is kept.

        Args:
            offset: bytes of the stream before this body.
            post: the request; its body is read, nothing is answered.
            patience: seconds to wait for more of the body, and for room.

        Raises:
            StreamLostError: the POST broke off.
        """
        start = offset
        while True:
            if offset > self.expected:
                return Refusal(409, "Conflict", "bytes before this offset are missing", self.expected)
            with trio.move_on_after(patience) as waiting:
                data = await post.receive()
                while data and len(self._buffer) >= MAX_WAITING and not self._closed:
                    await self._changed.park()
            if waiting.cancelled_caught:
                return Refusal(408, "RequestTimeout", "the body or its session stalls", self.expected)
            if self._closed:
                return GONE
            if not data:
                return None
            if offset + len(data) - start > MAX_POST:
                return Refusal(413, "ContentTooLarge", f"at most {MAX_POST} bytes", self.expected)
            new = data[self.expected - offset :]
            self._buffer += new
            self.expected += len(new)
            offset += len(data)
            self._changed.unpark_all()


GONE = Refusal(404, "Not Found", "no such stream, or it is over")


@attrs.define
class Upstreams:
    """The streams that are fed by POSTs, by their ids. Who knows an id may feed its stream."""

    prefix: str = ""
    """What ids begin with."""
    _streams: dict[str, Upstream] = attrs.Factory(dict)

    def open(self) -> Upstream:
        """A new one, under an id nobody can guess."""
        upstream = Upstream(self.prefix)
        self._streams[upstream.id] = upstream
        return upstream

    def close(self, upstream: Upstream) -> None:
        """Forget it; its id is of no more use."""
        del self._streams[upstream.id]
        upstream.close()

    def find(self, name: str) -> Upstream | None:
        """The stream with this id."""
        return self._streams.get(name)


async def feed_upstream(upstream: Upstream, offset: str, post: Post, patience: float) -> Refusal | None:
    """Serve one POST to a stream; ``None`` if it is to be answered by 204.

    Raises:
        StreamLostError: the POST broke off.
    """
    if post.method != "POST":
        return Refusal(405, "MethodNotAllowed", "bytes for a stream come by POST", allow="POST")
    if not (offset.isascii() and offset.isdigit() and len(offset) <= _MAX_OFFSET_DIGITS):
        return Refusal(400, "BadRequest", "offset must be a number")
    if upstream.posts >= MAX_POSTS:
        return Refusal(429, "Too Many Requests", "too many POSTs for this stream at once")
    upstream.posts += 1
    try:
        return await upstream.feed(int(offset), post, patience)
    finally:
        upstream.posts -= 1
