"""Frames as text: server-sent events (HTML standard, section 9.2), and lines of JSON."""

import abc
from base64 import b64encode

import orjson
import trio

from commucat_server.connect.modes.framed import FramedStream, FrameHead
from commucat_server.connect.modes.upstream import Upstream
from commucat_server.listener import ConnectStream, StreamLostError


class TextStream(FramedStream):
    """A response of text that never ends, with a sign of life after each ``interval`` of silence.

    Args:
        inner: the stream to wrap.
        interval: seconds.
        upstream: where the client's bytes come from, if not from the request's own body.
    """

    __slots__ = ("_interval", "_upstream")

    SIGN_OF_LIFE = b""

    def __init__(self, inner: ConnectStream, interval: float, upstream: Upstream | None = None) -> None:
        super().__init__(inner)
        self._interval = interval
        self._upstream = upstream

    async def announce(self, name: str) -> None:
        """Tell the client the id of its upstream, before any frame."""
        await self._write(self.announcement(name))

    @abc.abstractmethod
    def announcement(self, name: str) -> bytes:
        """What tells the id of an upstream."""

    async def receive(self) -> bytes:
        return await (self._inner.receive() if self._upstream is None else self._upstream.take())

    async def keep_alive(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._upstream is not None:
                # Nobody reads the request's body, which would notice that the client has gone.
                nursery.start_soon(self._watch)
            await self._break_silence()

    async def _watch(self) -> None:
        await self._inner.wait_closed()
        raise StreamLostError("the response has ended")

    async def _break_silence(self) -> None:
        while True:
            due = self._last_write + self._interval
            if trio.current_time() < due:
                await trio.sleep_until(due)
            elif self.outbox_bytes:
                # Bytes wait for the client already; more of them would tell it nothing.
                self._last_write = trio.current_time()
            else:
                await self._write_sign(self.SIGN_OF_LIFE)


class EventStream(TextStream):
    """Frames as events named ``frame``; the event's id is the frame's sequence."""

    __slots__ = ()

    SIGN_OF_LIFE = b":keepalive\n\n"

    def announcement(self, name: str) -> bytes:
        return b"event: upstream\ndata: %b\n\n" % name.encode()

    def pack(self, head: FrameHead, payload: bytes) -> bytes:
        return b"event: frame\nid: %d\ndata: %b\n\n" % (head.sequence, b64encode(payload))


class LineStream(TextStream):
    """Frames as JSON objects, one per line."""

    __slots__ = ()

    SIGN_OF_LIFE = b'{"keepalive":true}\n'

    def announcement(self, name: str) -> bytes:
        return orjson.dumps({"upstream": name}, option=orjson.OPT_APPEND_NEWLINE)

    def pack(self, head: FrameHead, payload: bytes) -> bytes:
        line = {
            "channel": head.channel,
            "data": b64encode(payload).decode(),
            "sequence": head.sequence,
            "type": head.type.label,
        }
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
