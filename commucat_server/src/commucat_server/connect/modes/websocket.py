"""Frames as WebSocket messages (RFC 6455), one each."""

import base64
import binascii

import structlog
import trio
from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed

from commucat_server.connect.modes.framed import FramedStream, FrameHead
from commucat_server.listener import ConnectStream, StreamLostError
from commucat_server.ops.counters import SocketCounters

_log = structlog.get_logger("commucat.connect")

MAX_MESSAGE = 1024 * 1024
"""Bytes of one message of the client. Text is kept until its end, so this is memory a client can claim."""
PING_INTERVAL, PONG_TIMEOUT, MAX_MISSES = 30.0, 10.0, 3
_FRAMES_PER_TURN = 200
"""Frames between two turns of other tasks: a client may send any number of empty ones."""


class WebSocketStream(FramedStream):
    """The server's end of a WebSocket connection whose opening is done.

    Binary messages are bytes of the stream, text messages base64 of them; a message may hold part of a frame
    or several. A Pong answers for everything sent before its Ping: this transport's confirmation.

    Args:
        inner: carries the WebSocket's bytes and nothing else.
        counters: of all such streams together.
    """

    __slots__ = (
        "_answered",
        "_changed",
        "_close_code",
        "_counters",
        "_message_size",
        "_peer_closed",
        "_pings",
        "_protocol",
        "_text",
    )

    def __init__(self, inner: ConnectStream, counters: SocketCounters | None = None) -> None:
        super().__init__(inner)
        self._counters = counters or SocketCounters()
        self._protocol = FrameProtocol(client=False, extensions=[])
        # Bytes, not the pieces: a message may come as a million pieces of one character, or of none.
        self._text = bytearray()
        self._message_size = 0
        self._pings = self._answered = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._peer_closed = False
        self._close_code: int | None = None

    def pack(self, head: FrameHead, payload: bytes) -> bytes:
        return bytes(self._protocol.send_data(payload))

    # Receiving

    async def receive(self) -> bytes:
        data = bytearray()
        while not data and not self._peer_closed:
            chunk = await self._inner.receive()
            if not chunk:
                self._peer_closed = True
                break
            try:
                self._protocol.receive_bytes(chunk)
                for count, frame in enumerate(self._protocol.received_frames(), 1):
                    await self._take(frame, data)
                    if self._peer_closed:
                        break
                    if count % _FRAMES_PER_TURN == 0:
                        await trio.lowlevel.checkpoint()
            except ParseFailed as exc:
                _log.info("peer violated websocket", remote=self.remote_host, reason=str(exc))
                self._break(exc.code)
        return bytes(data)

    async def _take(self, frame: Frame, data: bytearray) -> None:
        match frame.opcode:
            case Opcode.PING:
                assert isinstance(frame.payload, (bytes, bytearray))
                self._counters.pings_received += 1
                await self._write_sign(bytes(self._protocol.pong(bytes(frame.payload))))
                self._counters.pongs_sent += 1
            case Opcode.PONG:
                assert isinstance(frame.payload, (bytes, bytearray))
                self._counters.pongs_received += 1
                self._take_pong(bytes(frame.payload))
            case Opcode.CLOSE:
                self._peer_closed = True
                assert isinstance(frame.payload, tuple)
                code = frame.payload[0]
                self._close_code = None if code == CloseReason.NO_STATUS_RCVD else code
            case _:
                self._take_message(frame, data)

    def _take_message(self, frame: Frame, data: bytearray) -> None:
        payload = frame.payload
        assert isinstance(payload, (bytes, bytearray, str))
        piece = payload.encode() if isinstance(payload, str) else payload
        self._message_size += len(piece)
        if self._message_size > MAX_MESSAGE:
            _log.info("websocket message too big", remote=self.remote_host)
            self._break(CloseReason.MESSAGE_TOO_BIG)
            return
        if isinstance(payload, str):
            self._text += piece
        else:
            data += piece
        if frame.message_finished:
            self._message_size = 0
            if self._text:
                whole, self._text = bytes(self._text), bytearray()
                try:
                    data += base64.b64decode(whole.strip(), validate=True)
                except (binascii.Error, ValueError):
                    _log.info("websocket text is no base64", remote=self.remote_host)

    def _break(self, code: int) -> None:
        """Read nothing more; the Close frame will say why."""
        self._counters.errors += 1
        self._peer_closed = True
        self._close_code = code

    def _take_pong(self, payload: bytes) -> None:
        # An answer to the latest Ping is one to those before it (RFC 6455, section 5.5.3).
        number = int.from_bytes(payload, "big") if len(payload) == 8 else 0
        if self._answered < number <= self._pings:
            self._answered = number
            self._changed.unpark_all()

    # Ending

    async def end(self) -> None:
        """Say Close, with the client's own code if it came first, and end the bytes below."""
        if not self._ended:
            self._ended = True
            # Cancelled here, the connection is given up anyway: the deadline is the caller's.
            await self._inner.send(bytes(self._protocol.close(self._close_code)))
        await self._inner.end()

    # Signs of life

    async def confirm(self, beyond: int | None = None) -> int:
        position = self.sent_bytes
        number = self._pings + 1
        while self._answered < number:
            if self._pings < number and self._answered == self._pings:
                await self._ping()
            else:
                await self._changed.park()
        return position

    async def keep_alive(self) -> None:
        misses = 0
        while misses < MAX_MISSES:
            await trio.sleep(PING_INTERVAL)
            waiting = self.outbox_bytes
            with trio.move_on_after(PONG_TIMEOUT) as patience:
                await self._ping()
                number = self._pings
                await self._inner.flushed()
                while self._answered < number:
                    await self._changed.park()
            if not patience.cancelled_caught:
                misses = 0
            elif self.outbox_bytes >= waiting:
                # A slow reader that still takes something is not gone.
                misses += 1
        self._counters.errors += 1
        self.reset()
        raise StreamLostError("no answer to a Ping")

    async def _ping(self) -> None:
        number = self._pings + 1
        await self._write_sign(bytes(self._protocol.ping(number.to_bytes(8, "big"))))
        self._pings = max(self._pings, number)
