"""A peer at the other end of a WebSocket (RFC 6455) whose opening is done. Messages stay messages."""

from contextlib import suppress

import structlog
import trio
from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed

from commucat_server.listener import ConnectStream, StreamLostError
from commucat_server.ops.counters import SocketCounters
from commucat_server.p2p.peer import MAILBOX, MAX_MESSAGE, Ending, Message

_log = structlog.get_logger("commucat.p2p")

PING_INTERVAL, PONG_TIMEOUT = 30.0, 10.0
MAX_MISSES = 3
_CLOSE_TIMEOUT = 5.0
"""Seconds for the last words to a peer."""
_FRAMES_PER_TURN = 200
"""Frames between two turns of other tasks: a peer may send any number of empty ones."""


class WebSocketPeer:
    """Reads into a mailbox of bounded size, answers Pings, and asks for signs of life.

    ``read`` and ``keep_alive`` are to run as tasks while the peer is in use.
    """

    def __init__(self, stream: ConnectStream, counters: SocketCounters) -> None:
        self._stream = stream
        self._counters = counters
        self._protocol = FrameProtocol(client=False, extensions=[])
        self._put, self._mailbox = trio.open_memory_channel[Message](MAILBOX)
        self._gone = trio.Event()
        self._parts = bytearray()
        self._is_text = False
        self._reading_since = trio.current_time()
        self._blocked = False
        self._ended = False
        self._close_code: int | None = None
        self.fault: Ending | None = None
        """What the peer has done wrong, if that is why it ends."""

    async def take(self) -> Message | None:
        try:
            return await self._mailbox.receive()
        except trio.EndOfChannel:
            return None

    async def wait_gone(self) -> None:
        await self._gone.wait()

    async def send(self, message: Message) -> None:
        payload: bytes | str = message.data
        if message.text:
            payload = message.data.decode()  # it was text when it came
        await self._stream.send(bytes(self._protocol.send_data(payload)))

    async def read(self) -> None:
        """Fill the mailbox until the peer closes, breaks the rules, or is lost."""
        with suppress(StreamLostError):
            await self._read_frames()
        self._put.close()
        self._gone.set()

    async def _read_frames(self) -> None:
        while True:
            self._reading_since = trio.current_time()
            data = await self._stream.receive()
            if not data:
                return
            self._blocked = True
            try:
                self._protocol.receive_bytes(data)
                for count, frame in enumerate(self._protocol.received_frames(), 1):
                    if not await self._accept(frame):
                        return
                    if count % _FRAMES_PER_TURN == 0:
                        await trio.lowlevel.checkpoint()
            except ParseFailed as exc:
                _log.info("peer violated websocket", remote=self._stream.remote_host, reason=str(exc))
                self._counters.errors += 1
                self._close_code = exc.code
                return
            self._blocked = False

    async def _accept(self, frame: Frame) -> bool:
        """Whether there may be more."""
        payload = frame.payload
        if frame.opcode is Opcode.CLOSE:
            assert isinstance(payload, tuple)
            self._close_code = None if payload[0] == CloseReason.NO_STATUS_RCVD else payload[0]
            return False
        assert not isinstance(payload, tuple)
        piece = payload.encode() if isinstance(payload, str) else bytes(payload)
        if frame.opcode is Opcode.PING:
            self._counters.pings_received += 1
            await self._stream.send(bytes(self._protocol.pong(piece)))
            self._counters.pongs_sent += 1
            return True
        if frame.opcode is Opcode.PONG:
            self._counters.pongs_received += 1
            return True
        if len(self._parts) + len(piece) > MAX_MESSAGE:
            self.fault = Ending.TOO_BIG
            self._close_code = CloseReason.MESSAGE_TOO_BIG
            return False
        self._parts += piece
        self._is_text = isinstance(payload, str)
        if frame.message_finished:
            message = Message(bytes(self._parts), text=self._is_text)
            self._parts.clear()
            await self._put.send(message)
        return True

    async def keep_alive(self) -> None:
        """Send Pings; a peer that is read and gives no sign of life is lost."""
        patience = PING_INTERVAL + MAX_MISSES * PONG_TIMEOUT
        with suppress(StreamLostError):
            while True:
                await trio.sleep(PING_INTERVAL)
                # One that is not read, because the other is slow, cannot answer.
                if not self._blocked and trio.current_time() - self._reading_since >= patience:
                    self._counters.errors += 1
                    self._stream.reset()
                    return
                await self._stream.send(bytes(self._protocol.ping(b"")))

    async def close(self, ending: Ending) -> None:
        """Say Close: with the peer's own code if it came first, else with ours; the stream ends."""
        if self._ended:
            return
        self._ended = True
        with trio.move_on_after(_CLOSE_TIMEOUT, shield=True), suppress(StreamLostError):
            if self._gone.is_set() and self.fault is None:
                last = self._protocol.close(self._close_code)
            else:
                fault = self.fault or ending
                last = self._protocol.close(fault.code, fault.reason)
            await self._stream.send(bytes(last))
            await self._stream.end()
