"""One HTTP/2 connection: a reader, a writer, and one task per stream.

The reader is the only one that feeds the protocol library, and the writer the only one that sends. Between
two reads of the socket everything the handlers queue collects in the streams' outboxes; the writer then
frames all of it, in turn and as far as the peer's windows allow, and passes it on in one piece: one TLS
record and one system call for many messages. This decides the speed of the whole server.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import structlog
import trio
from hyperframe.frame import GoAwayFrame

from commucat_server.listener.asgi import AsgiApp, AsgiOrigin, answer_request
from commucat_server.listener.errors import PeerViolationError, StreamLostError, StreamMisuseError
from commucat_server.listener.frame_intake import JOINED_SIZE, FrameIntake
from commucat_server.listener.h2_stream import INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, H2Stream
from commucat_server.listener.pings import Pings
from commucat_server.listener.request import RequestHead
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.stream import ConnectStream
from commucat_server.listener.wakeup import Wakeup

CONNECT_PATH = b"/connect"

_log = structlog.get_logger("commucat.listener")
_INITIAL_WINDOW = 65_535  # RFC 9113, section 6.9.2

ConnectHandler = Callable[[ConnectStream], Awaitable[None]]


class _Protocol(h2.connection.H2Connection):
    # How each of the last streams was closed; the library's default remembers 65,536 of them.
    MAX_CLOSED_STREAMS = 256


class H2Connection:
    """Serves one peer that speaks HTTP/2 with prior knowledge (ALPN has chosen it).

    Args:
        transport: bytes to and from the peer; closed when ``serve`` returns.
        settings: limits and deadlines.
        remote: address and port of the peer.
        local: address and port it connected to.
        connect_handler: called with each stream whose path is exactly ``/connect``.
        asgi_app: answers all other requests.
        state: what the application's lifespan left for its requests.
    """

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
        self.pings = Pings()
        self._transport = transport
        self._remote = remote
        self._origin = AsgiOrigin(client=remote, server=local, state=state)
        self._connect_handler = connect_handler
        self._asgi_app = asgi_app
        self._protocol = _Protocol(_CONFIG)
        self._intake = FrameIntake(settings)
        self._streams: dict[int, H2Stream] = {}
        self._sendable: dict[int, H2Stream] = {}
        self._batch: list[H2Stream] = []
        self._out: list[bytes] = []
        self._work = Wakeup()
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._lost: str | None = None
        self._ending = False
        self._going_away = False

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until either side ends the connection, then close it.

        After the connection is lost, handlers have ``drain_timeout`` to return before they are cancelled.
        """
        graceful = False
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._begin()
                nursery.start_soon(self._write_loop)
                task_status.started()
                await self._read_loop()
                self._lose("connection closed")
                nursery.cancel_scope.deadline = trio.current_time() + self.settings.drain_timeout
                self._ending = True
                self._work.set()
            graceful = True
        finally:
            self._lose("connection closed")
            with trio.move_on_after(self.settings.close_timeout if graceful else 0, shield=True):
                await self._transport.aclose()

    def go_away(self) -> None:
        """Take no more streams; end the connection when those that are open have ended."""
        if self._nursery is None:
            self._reading.cancel()
        elif not self._going_away and self._lost is None:
            self._going_away = True
            # The library's own GOAWAY would forbid it to send anything after, also on open streams.
            last = self._protocol.highest_inbound_stream_id
            self._out.append(GoAwayFrame(0, last_stream_id=last, error_code=NO_ERROR).serialize())
            self._work.set()
            self._end_if_unused()

    # What the streams need

    def send_head(self, stream_id: int, fields: list[tuple[bytes, bytes]], *, end: bool) -> None:
        """Queue a response head."""
        try:
            self._protocol.send_headers(stream_id, fields, end_stream=end)
        except h2.exceptions.ProtocolError as exc:
            raise StreamMisuseError(f"response head refused: {exc}") from exc
        self._pull()

    def watch_flush(self, stream: H2Stream) -> None:
        """Tell the stream when what is queued now has been passed to the kernel."""
        self._batch.append(stream)

    def offer(self, stream: H2Stream) -> None:
        """The stream has something to send."""
        if not stream.blocked:
            self._sendable[stream.stream_id] = stream
            self._work.set()

    def credit(self, stream_id: int, amount: int) -> None:
        """Bytes were taken: let the peer send as many more. The library answers in batches."""
        if self._lost is None and amount:
            self._protocol.acknowledge_received_data(amount, stream_id)
            self._pull()

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Tell the peer that a stream is broken off."""
        if self._lost is None:
            self._sendable.pop(stream_id, None)
            try:
                self._protocol.reset_stream(stream_id, code)
            except h2.exceptions.StreamClosedError:
                return  # Both sides had ended it.
            self._pull()

    async def wait_ping(self, number: int) -> None:
        """Return at the next answer to a PING, or when the connection is lost.

        Args:
            number: the PING somebody needs; it is sent if it is not on its way.

        Raises:
            StreamLostError: the connection is lost already.
        """
        if self._lost is not None:
            raise StreamLostError(self._lost)
        if number > self.pings.sent:
            self.pings.wanted = True
            self._work.set()
        with trio.move_on_after(self.settings.ping_timeout) as waiting:
            await self.pings.wait()
        if waiting.cancelled_caught:
            self._lose("no answer to a PING")

    # Writing

    async def _write_loop(self) -> None:
        while True:
            data = self._next_write()
            if not data:
                if self._ending:
                    return
                await self._work.wait()
                continue
            batch = [(stream, stream.framed, stream.end_framed) for stream in self._batch]
            self._batch = []
            timeout = self.settings.close_timeout if self._ending else self.settings.write_timeout
            try:
                with trio.move_on_after(timeout) as writing:
                    await self._transport.send_all(data)
            except trio.BrokenResourceError:
                self._lose("connection lost")
                return
            if writing.cancelled_caught:
                # Part of a frame may be out: nothing can follow it.
                self._lose("peer stopped reading")
                return
            for stream, position, ended in batch:
                stream.flushed_position = position
                stream.end_flushed = ended
                stream.notify()

    def _next_write(self) -> bytes:
        protocol = self._protocol
        room = self.settings.write_size
        while self._sendable and room > 0:
            stream = self._sendable.pop(next(iter(self._sendable)))
            window = protocol.local_flow_control_window(stream.stream_id)
            if window <= 0 and stream.outbox:
                stream.blocked = True
                continue
            chunk = stream.take(min(window, protocol.max_outbound_frame_size))
            size = len(chunk)
            if stream.outbox:
                self._sendable[stream.stream_id] = stream
            ends = stream.ending and not stream.outbox
            protocol.send_data(stream.stream_id, chunk, end_stream=ends)
            stream.framed += size
            stream.end_framed = ends
            stream.ping_mark = self.pings.sent
            stream.notify()
            self._batch.append(stream)
            room -= size
        if self._lost is None and (payload := self.pings.next_payload()) is not None:
            protocol.ping(payload)
        data = protocol.data_to_send()
        if self._out:
            self._out.append(data)
            data = b"".join(self._out)
            self._out = []
        return data

    def _pull(self) -> None:
        """Wake the writer if the library has something to send."""
        data = self._protocol.data_to_send()
        if data:
            self._out.append(data)
            self._work.set()

    # Reading

    def _begin(self) -> None:
        protocol, settings = self._protocol, self.settings
        protocol.initiate_connection()
        # Not as initial values: the library would apply those to its windows twice.
        codes = h2.settings.SettingCodes
        protocol.update_settings(
            {
                codes.MAX_CONCURRENT_STREAMS: settings.max_streams,
                codes.INITIAL_WINDOW_SIZE: settings.stream_window,
                codes.MAX_FRAME_SIZE: settings.max_frame_size,
                codes.MAX_HEADER_LIST_SIZE: settings.max_header_size,
            }
        )
        if settings.connection_window > _INITIAL_WINDOW:
            protocol.increment_flow_control_window(settings.connection_window - _INITIAL_WINDOW)
        # From the first request on, not only after the peer has acknowledged our settings.
        protocol.decoder.max_header_list_size = settings.max_header_size
        self._pull()
        self._reading.deadline = trio.current_time() + settings.handshake_timeout

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
                    self._lose("connection lost")
                    return
                try:
                    self._take(data)
                except (PeerViolationError, h2.exceptions.ProtocolError) as exc:
                    _log.info("peer violated http/2", remote=self._remote[0], reason=str(exc))
                    if isinstance(exc, PeerViolationError):
                        self._protocol.close_connection(exc.code)
                    self._pull()
                    self._lose("protocol violation")
                    return
                if first:
                    first = False
                    self._set_deadline()
        if self._lost is None:
            self._protocol.close_connection(NO_ERROR)
            self._pull()

    def _take(self, data: bytes | bytearray) -> None:
        protocol = self._protocol
        # Our intake has checked the size of each frame; joined ones may be larger than announced.
        protocol.max_inbound_frame_size = JOINED_SIZE
        frames = self._intake.feed(data, trio.current_time())
        for event in protocol.receive_data(frames):
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
                    self._sendable.pop(stream_id, None)
                    if stream_id in self._streams:
                        self._streams[stream_id].lose("reset by the peer")
                case h2.events.PingAckReceived():
                    if not self.pings.accept_answer(event.ping_data):
                        self._intake.count_control(trio.current_time())
                case h2.events.RemoteSettingsChanged():
                    self._unblock(0)
        self._pull()
        if self._intake.peer_going_away:
            self._end_if_unused()

    def _unblock(self, stream_id: int) -> None:
        streams = [self._streams[stream_id]] if stream_id in self._streams else []
        for stream in streams if stream_id else self._streams.values():
            if stream.blocked:
                stream.blocked = False
                self.offer(stream)

    # Streams

    def _open_stream(self, stream_id: int, fields: list[tuple[bytes, bytes]]) -> None:
        assert self._nursery is not None
        if self._going_away or len(self._streams) >= self.settings.max_streams:
            self.reset_stream(stream_id, REFUSED_STREAM)
            self._intake.count_reset(trio.current_time())
            return
        if len(fields) > self.settings.max_header_count:
            self.send_head(stream_id, [(b":status", b"431")], end=True)
            self.reset_stream(stream_id, NO_ERROR)
            return
        head = RequestHead.from_fields(fields)
        stream = H2Stream(self, stream_id, head, self._remote)
        self._streams[stream_id] = stream
        self._set_deadline()
        self._nursery.start_soon(self._run_stream, stream, head)

    async def _run_stream(self, stream: H2Stream, head: RequestHead) -> None:
        try:
            try:
                if head.path == CONNECT_PATH:
                    await self._connect_handler(stream)
                else:
                    await answer_request(stream, head, self._origin, self._asgi_app, self.settings.max_body)
            except* StreamLostError:
                stream.reset()
            except* Exception as failed:  # noqa: BLE001 - the top of this task
                cause = failed.exceptions[0] if len(failed.exceptions) == 1 else failed
                _log.error("handler failed", path=stream.path, exc_info=cause)
                stream.break_off(INTERNAL_ERROR)
            with trio.move_on_after(self.settings.drain_timeout):
                await stream.finish()
        finally:
            stream.release()
            self._sendable.pop(stream.stream_id, None)
            del self._streams[stream.stream_id]
            self._set_deadline()
            self._end_if_unused()

    def _set_deadline(self) -> None:
        """A connection without streams ends after a while; one with a stream lives."""
        idle = trio.current_time() + self.settings.idle_timeout
        self._reading.deadline = float("inf") if self._streams else idle

    def _end_if_unused(self) -> None:
        if not self._streams and (self._going_away or self._intake.peer_going_away):
            self._reading.cancel()

    def _lose(self, reason: str) -> None:
        """The connection is of no more use: tell everybody who waits for it."""
        if self._lost is None:
            self._lost = reason
            self._sendable.clear()
            for stream in self._streams.values():
                stream.lose(reason)
            self.pings.wake()
            self._reading.cancel()
            self._work.set()


# Bytes stay bytes; outbound names are lower-case already.
_CONFIG = h2.config.H2Configuration(client_side=False, header_encoding=None)
