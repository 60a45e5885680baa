"""A stream that carries each frame in a shell of its own."""

import abc
from collections.abc import Sequence

import attrs
import trio

from commucat_proto import FrameType, decode_varint
from commucat_server.listener import ConnectStream, StreamMisuseError


@attrs.frozen
class FrameHead:
    """The first fields of an encoded frame, which the shells repeat in clear."""

    type: FrameType
    channel: int
    sequence: int

    @classmethod
    def of(cls, encoded: bytes) -> "FrameHead":
        """Read the head of a frame that this server has encoded."""
        _, position = decode_varint(encoded)
        frame_type = FrameType(encoded[position])
        channel, position = decode_varint(encoded, position + 1)
        sequence, _ = decode_varint(encoded, position)
        return cls(frame_type, channel, sequence)


class FramedStream(ConnectStream):
    """Wraps a stream: what is sent is packed frame by frame, what is received passes unchanged.

    Args:
        inner: what the listener gave; its response head is this object's user's business.
    """

    __slots__ = ("_ended", "_inner", "_last_write")

    def __init__(self, inner: ConnectStream) -> None:
        self.method, self.path, self.query = inner.method, inner.path, inner.query
        self.headers = inner.headers
        self.remote_host, self.remote_port = inner.remote_host, inner.remote_port
        self._inner = inner
        self._ended = False
        self._last_write = trio.current_time()

    @abc.abstractmethod
    def pack(self, head: FrameHead, payload: bytes) -> bytes:
        """The shell around one frame's bytes."""

    @abc.abstractmethod
    async def keep_alive(self) -> None:
        """Show the client, and what is between, that the connection lives; runs until cancelled.

        Raises:
            StreamLostError: the client gives no sign of life.
        """

    async def send_frame(self, encoded: bytes, payload: bytes) -> None:
        """Send one frame, as ``send`` does.

        Args:
            encoded: the frame in clear, for its head.
            payload: what travels: the same in a handshake, Noise messages after it.
        """
        await self._write(self.pack(FrameHead.of(encoded), payload))

    async def send(self, data: bytes) -> None:
        """Send one encoded frame in clear."""
        await self.send_frame(data, data)

    async def _write(self, data: bytes) -> None:
        await self._inner.send(data)
        self._last_write = trio.current_time()

    async def _write_sign(self, data: bytes) -> None:
        """Send a sign of life, or an answer to one; nothing once the stream is ending.

        Others may end it at any time, also while this waits for room.
        """
        try:
            if not self._ended:
                await self._inner.send(data)
        except StreamMisuseError:
            if not self._ended:
                raise
        self._last_write = trio.current_time()

    @property
    def http_version(self) -> str:
        return self._inner.http_version

    @property
    def protocol(self) -> str:
        return self._inner.protocol

    async def start(
        self, status: int, headers: Sequence[tuple[str, str]], *, with_body: bool = False
    ) -> None:
        await self._inner.start(status, headers, with_body=with_body)

    async def receive(self) -> bytes:
        return await self._inner.receive()

    async def flushed(self) -> None:
        await self._inner.flushed()

    @property
    def sent_bytes(self) -> int:
        return self._inner.sent_bytes

    async def confirm(self, beyond: int | None = None) -> int:
        return await self._inner.confirm(beyond)

    async def end(self) -> None:
        self._ended = True
        await self._inner.end()

    async def wait_closed(self) -> None:
        await self._inner.wait_closed()

    def reset(self) -> None:
        self._inner.reset()

    def cut_off(self) -> None:
        self._inner.cut_off()

    @property
    def outbox_bytes(self) -> int:
        return self._inner.outbox_bytes
