"""One HTTP/2 connection: a reader, a writer, and one task per stream, in one nursery."""

import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import h2.events
import h2.exceptions
import structlog
import trio

from commucat_server.listener.asgi import AsgiApp, AsgiOrigin, answer_request
from commucat_server.listener.errors import PeerViolationError, StreamLostError, StreamMisuseError
from commucat_server.listener.frame_intake import FrameIntake
from commucat_server.listener.h2_frames import data_frame
from commucat_server.listener.h2_lazy import LazyProtocol
from commucat_server.listener.h2_stream import INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, H2Stream
from commucat_server.listener.h2_writer import H2Writer
from commucat_server.listener.request import RequestHead
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.stream import STREAM_PATHS, ConnectHandler
from commucat_server.listener.tcp_stream import PromptStream

_log = structlog.get_logger("commucat.listener")


class H2Connection:
    """Serves one peer that speaks HTTP/2 with prior knowledge (ALPN has chosen it).

    The reader is the only one that feeds the protocol, the writer the only one that sends.

    Args:
        transport: bytes to and from the peer; closed when ``serve`` returns.
        settings: limits and deadlines.
        remote: address and port of the peer.
        local: address and port it connected to.
        connect_handler: called with each stream whose path is exactly ``/connect`` or ``/p2p``.
        asgi_app: answers all other requests.
        state: what the application's lifespan left for its requests.
    """

    __slots__ = (
        "_asgi_app",
        "_connect_handler",
        "_going_away",
        "_intake",
        "_lost",
        "_nursery",
        "_origin",
        "_prompt",
        "_protocol",
        "_reading",
        "_remote",
        "_streams",
        "_transport",
        "settings",
        "writer",
    )

    def __init__(
        self,
        transport: trio.abc.Stream,
        settings: ListenerSettings,
        *,
        remote: tuple[str, int],
        local: tuple[str, int],
        connect_handler: ConnectHandler,
        asgi_app: AsgiApp,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self._transport = transport
        self._prompt = transport if isinstance(transport, PromptStream) else None
        self._remote = remote
        self._origin = AsgiOrigin(client=remote, server=local, state=state)
        self._connect_handler = connect_handler
        self._asgi_app = asgi_app
        self._protocol = LazyProtocol(settings)
        self.writer = H2Writer(transport, self._protocol, settings, self._lose, self._start_writer)
        self._intake = FrameIntake(settings)
        self._streams: dict[int, H2Stream] = {}
        self._reading = trio.CancelScope(deadline=trio.current_time() + settings.handshake_timeout)
        self._nursery: trio.Nursery | None = None
        self._lost: str | None = None
        self._going_away = False

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until either side ends the connection, then close it.

        After the connection is lost, handlers have ``drain_timeout`` to return before they are cancelled.
        """
        graceful = False
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._protocol.open()
                # It waits for the peer's, which comes first and waits for nothing (RFC 9113, section 3.4): so
                # it shares a packet with the first answer.
                self.writer.pull(now=False)
                task_status.started()
                await self._read_loop()
                self._stop("connection closed")
                if self._streams:
                    nursery.cancel_scope.deadline = trio.current_time() + self.settings.drain_timeout
                self.writer.finish()
            graceful = True
        finally:
            self._stop("connection closed")
            if not (graceful and self._prompt is not None and self._prompt.close_now()):
                with trio.move_on_after(self.settings.close_timeout if graceful else 0, shield=True):
                    await self._transport.aclose()
            self.writer.close()
            self._nursery = None

    def _start_writer(self, run: Callable[[], Awaitable[None]]) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(run)

    def go_away(self) -> None:
        """Take no more streams; end the connection when those that are open have ended."""
        if self._nursery is None:
            self._reading.cancel()
        elif not self._going_away and self._lost is None:
            # GOAWAY itself follows the last stream: libraries on both sides, the one used here among
            # them, take it for the end and would drop the last frames of streams that are open.
            # New streams are refused meanwhile.
            self._going_away = True
            self._end_if_unused()

    # What the streams need

    def send_head(
        self, stream_id: int, fields: list[tuple[bytes, bytes]], *, end: bool, now: bool = True
    ) -> None:
        """Queue a response head; without ``now`` it may wait for what follows it."""
        try:
            self._protocol.send_headers(stream_id, fields, end_stream=end)
        except h2.exceptions.ProtocolError as exc:
            raise StreamMisuseError(f"response head refused: {exc}") from exc
        self.writer.pull(now=now)

    def credit(self, stream_id: int, amount: int) -> None:
        """Bytes were taken: let the peer send as many more. The library answers in batches."""
        if self._lost is None and amount:
            self._protocol.acknowledge_received_data(amount, stream_id)
            self.writer.pull()

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Tell the peer that a stream is broken off."""
        if self._lost is None:
            self.writer.withdraw(stream_id)
            try:
                self._protocol.reset_stream(stream_id, code)
            except h2.exceptions.StreamClosedError:
                return  # Both sides had ended it.
            self.writer.pull()

    # Reading

    async def _read_loop(self) -> None:
        receive_some, read_size = self._transport.receive_some, self.settings.read_size
        first = True
        with self._reading:
            while self._lost is None:
                try:
                    data = await receive_some(read_size)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    self._stop("connection lost")
                    return
                try:
                    self._take(data)
                except (PeerViolationError, h2.exceptions.ProtocolError) as exc:
                    _log.info("peer violated http/2", remote=self._remote[0], reason=str(exc))
                    if isinstance(exc, PeerViolationError):
                        self._protocol.close_connection(exc.code)
                    self.writer.pull()
                    self._stop("protocol violation")
                    return
                del data  # Not kept while the peer is silent.
                if first:
                    first = False
                    self._set_deadline()
        if self._lost is None:
            self._protocol.close_connection(NO_ERROR)
            self.writer.pull()

    def _take(self, data: bytes | bytearray) -> None:
        begun = len(self._streams)
        for stream_id, piece in self._intake.feed(data, trio.current_time(), self.writer.data_frames):
            if not stream_id:
                self._take_frames(piece)
                continue
            stream = self._streams.get(stream_id)
            if stream is not None and self._protocol.take_data(stream_id, piece):
                stream.deliver(piece, len(piece))
            else:
                self._take_frames(data_frame(stream_id, piece))
        # A stream that has just begun is about to answer, or to wait for more: both take this along.
        self.writer.pull(now=len(self._streams) <= begun)
        if self._intake.peer_going_away:
            self._end_if_unused()

    def _take_frames(self, frames: bytes) -> None:
        for event in self._protocol.take_frames(frames):
            match event:
                case h2.events.DataReceived(stream_id=stream_id):
                    stream = self._streams.get(stream_id)
                    if stream is None:
                        self.credit(stream_id, event.flow_controlled_length)
                    else:
                        stream.deliver(event.data, event.flow_controlled_length)
                case h2.events.WindowUpdated(stream_id=stream_id):
                    self._unblock(stream_id)
                case h2.events.RequestReceived(stream_id=stream_id):
                    self._open_stream(stream_id, event.headers)
                case h2.events.StreamEnded(stream_id=stream_id):
                    if stream_id in self._streams:
                        self._streams[stream_id].deliver_end()
                case h2.events.StreamReset(stream_id=stream_id):
                    if not event.remote_reset:
                        self._intake.count_reset(trio.current_time())
                    self.writer.withdraw(stream_id)
                    if stream_id in self._streams:
                        self._streams[stream_id].lose("reset by the peer")
                case h2.events.PingAckReceived():
                    if not self.writer.pings.accept_answer(event.ping_data):
                        self._intake.count_control(trio.current_time())
                case h2.events.RemoteSettingsChanged():
                    self._unblock(0)

    def _unblock(self, stream_id: int) -> None:
        """The peer has opened the window of a stream, or of all of them (0)."""
        for stream in self._streams.values() if stream_id == 0 else [self._streams.get(stream_id)]:
            if stream is not None and stream.blocked:
                stream.blocked = False
                self.writer.offer(stream)

    # Streams

    def _open_stream(self, stream_id: int, fields: list[tuple[bytes, bytes]]) -> None:
        assert self._nursery is not None
        if self._going_away or len(self._streams) >= self.settings.max_streams:
            self.reset_stream(stream_id, REFUSED_STREAM)
            self._intake.count_reset(trio.current_time())
            return
        if len(fields) > self.settings.max_header_count:
            # Refused if the same read held the peer's reset: the library has seen that already.
            with contextlib.suppress(StreamMisuseError):
                self.send_head(stream_id, [(b":status", b"431")], end=True)
            self.reset_stream(stream_id, NO_ERROR)
            return
        head = RequestHead.from_fields(fields)
        stream = H2Stream(self, stream_id, head, self._remote)
        self._streams[stream_id] = stream
        self._set_deadline()
        handle: Callable[[], Awaitable[None]]
        if head.path in STREAM_PATHS:
            handle = partial(self._connect_handler, stream)
        else:
            handle = partial(answer_request, stream, head, self._origin, self._asgi_app, self.settings)
        self._nursery.start_soon(self._run_stream, stream, handle)

    async def _run_stream(self, stream: H2Stream, handle: Callable[[], Awaitable[None]]) -> None:
        try:
            try:
                await handle()
                stream.check_answered()
            except* StreamLostError:
                stream.reset()
            except* Exception as failed:  # noqa: BLE001 - the top of this task
                cause = failed.exceptions[0] if len(failed.exceptions) == 1 else failed
                _log.error("handler failed", path=stream.path, exc_info=cause)
                stream.break_off(INTERNAL_ERROR)
            await stream.finish(self.settings.stall_timeout)
        finally:
            stream.release()
            self.writer.withdraw(stream.stream_id)
            del self._streams[stream.stream_id]
            self._set_deadline()
            self._end_if_unused()

    def _set_deadline(self) -> None:
        """A connection without streams ends after a while; one with a stream lives."""
        deadline = math.inf if self._streams else trio.current_time() + self.settings.idle_timeout
        if deadline != self._reading.deadline:
            self._reading.deadline = deadline

    def _end_if_unused(self) -> None:
        if not self._streams and (self._going_away or self._intake.peer_going_away):
            self._reading.cancel()

    def _lose(self, reason: str) -> None:
        """The connection is of no more use: end its reading, and tell everybody who waits for it."""
        if self._lost is None:
            self._stop(reason)
            self._reading.cancel()

    def _stop(self, reason: str) -> None:
        """``_lose`` where the reading is over by itself: to cancel its scope would be work for nothing."""
        if self._lost is None:
            self._lost = reason
            self.writer.stop(reason)
            for stream in self._streams.values():
                stream.lose(reason)
