"""One HTTP/2 connection to a server: a session stream and REST requests side by side.

One task reads, one task writes. The writer takes everything that is waiting on all streams
and passes it on in one ``send_all``; whoever has something to send calls :meth:`H2Client.wake`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio

from commucat_cli.errors import CliError, ConnectionLostError, NotCommuCatError, ServerBusyError
from commucat_cli.transport.goaway import GoawayFilter
from commucat_cli.transport.h2_stream import H2Stream
from commucat_cli.transport.stream import Headers, RequestHead, Response
from commucat_cli.transport.via import Via

READ_LEN = 65_536
STREAM_WINDOW = 1024 * 1024
"""Bytes the server may send ahead on a stream: a frame of the default limit, as a whole."""
CONNECTION_WINDOW = 4 * 1024 * 1024
FRAME_LEN = 65_536  # fewer, larger DATA frames: h2 costs per frame

_LAST_READ = 1.0  # seconds the reader gets to find the end of a connection that takes nothing more


class H2Client:
    """The client's end of an HTTP/2 connection over any reliable stream."""

    def __init__(self, transport: trio.abc.Stream, authority: str, via: Via = Via.BINARY) -> None:
        self._transport = transport
        self._via = via
        self._authority = authority
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._streams: dict[int, H2Stream] = {}
        self._wakeup: trio.Event | None = None
        self._failure: CliError | None = None
        self._incoming = GoawayFilter()
        self._heard_anything = False
        self._spoke_h2 = False
        self._settled = trio.Event()
        self._last_read = trio.current_time()
        self._h2.initiate_connection()
        # Announced afterwards, because the library itself works with the default limits
        # until these have been acknowledged.
        self._h2.update_settings(
            {
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                h2.settings.SettingCodes.MAX_FRAME_SIZE: FRAME_LEN,
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
            }
        )
        self._h2.increment_flow_control_window(CONNECTION_WINDOW)

    @property
    def via(self) -> Via:
        return self._via

    async def run(self) -> None:
        """Read and write until the connection ends; never raises for what the peer does."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_loop, nursery.cancel_scope)
            await self._read_loop()
            nursery.cancel_scope.cancel()

    async def keep_alive(self, interval: float, patience: float) -> None:
        """Ask for a sign of life after ``interval`` quiet seconds; without one, the connection is lost.

        A dead network says nothing: without this a listener would wait for ever.
        """
        while self._failure is None:
            quiet = trio.current_time() - self._last_read
            if quiet >= interval + patience:
                self._lose(ConnectionLostError("the server does not answer any more"))
                # The reader still waits for bytes; this ends it.
                await trio.aclose_forcefully(self._transport)
                return
            if quiet >= interval:
                self._h2.ping(b"commucat")
                self.wake()
                await trio.sleep(patience)
            else:
                await trio.sleep(interval - quiet)

    def wake(self) -> None:
        """Tell the writer that there is something to send."""
        if self._wakeup is not None:
            self._wakeup.set()

    def release(self, stream_id: int, credit: int) -> None:
        """Let the server send ``credit`` bytes more."""
        if credit and self._failure is None:
            try:
                self._h2.acknowledge_received_data(credit, stream_id)
            except h2.exceptions.ProtocolError:
                return  # the stream or the connection is over: nothing to credit
            self.wake()

    def cancel(self, stream_id: int) -> None:
        """Tell the server that nobody wants the rest of an answer (RFC 9113, section 8.1)."""
        self._streams.pop(stream_id, None)
        if self._failure is None:
            try:
                self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            except h2.exceptions.ProtocolError:
                return  # it is over already
            self.wake()

    @asynccontextmanager
    async def carrying(self, head: RequestHead) -> AsyncIterator[H2Stream]:
        """Send a request's head; its stream is for use within the block.

        Raises:
            NotCommuCatError: it needs an extended CONNECT, and the server does not offer that.
            CliError: the connection is lost.
        """
        if head.protocol:
            await self._settled.wait()
            if self._failure is None and not self._h2.remote_settings.enable_connect_protocol:
                raise NotCommuCatError("the server does not offer WebSocket over HTTP/2; use --via websocket")
        yield await self.open_stream(
            head.method, head.path, head.headers, end=not head.body, protocol=head.protocol
        )

    async def open_stream(
        self, method: str, path: str, headers: Headers = (), *, end: bool = False, protocol: str = ""
    ) -> H2Stream:
        """Send a request's head. ``protocol`` is that of an extended CONNECT.

        Raises:
            CliError: the connection is lost.
        """
        # Not behind it: cancelled then, nobody would have the stream that was begun.
        await trio.lowlevel.checkpoint()
        if self._failure is not None:
            raise self._failure
        if self._incoming.going_away:
            raise ServerBusyError("the server is shutting down")
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(
                stream_id,
                [
                    (":method", method),
                    (":scheme", "https"),
                    (":authority", self._authority),
                    (":path", path),
                    *([(":protocol", protocol)] if protocol else []),
                    ("user-agent", "commucat-cli"),
                    *headers,
                ],
                end_stream=end,
            )
        except h2.exceptions.ProtocolError as exc:
            raise ConnectionLostError(f"the server takes no further requests: {exc}") from exc
        stream = H2Stream(self, stream_id, end_sent=end)
        self._streams[stream_id] = stream
        self.wake()
        return stream

    async def get(self, path: str, headers: Headers = ()) -> Response:
        """A whole GET.

        Raises:
            CliError: the connection was lost, or the answer is too long.
        """
        return await self.request("GET", path, headers)

    async def request(self, method: str, path: str, headers: Headers = (), body: bytes = b"") -> Response:
        """A whole request.

        Raises:
            CliError: the connection was lost, or the answer is too long.
        """
        stream = await self.open_stream(method, path, headers, end=not body)
        try:
            if body:
                stream.send(body)
                stream.end()
            status, fields = await stream.response()
            return Response(status=status, headers=fields, body=await stream.whole_body())
        except BaseException:
            # Above all when the caller waits no longer: what is on its way would take the room of others.
            stream.abort(None)
            raise

    # -- tasks ------------------------------------------------------------------------------------

    async def _write_loop(self, scope: trio.CancelScope) -> None:
        while True:
            self._wakeup = None
            try:
                for stream in list(self._streams.values()):
                    stream.write_into(self._h2)
                    if stream.is_over:
                        del self._streams[stream.stream_id]
            except h2.exceptions.ProtocolError as exc:
                self._lose(ConnectionLostError(f"the server ended the HTTP/2 connection: {exc}"))
            data = self._h2.data_to_send()
            if data:
                try:
                    await self._transport.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    # What was sent to us before may say why, so the reader goes first.
                    await trio.sleep(_LAST_READ)
                    self._lose(ConnectionLostError("the connection to the server was lost"))
                    scope.cancel()
                    return
                continue
            # Between the last look and here nothing else has run, so no wake-up is missed.
            self._wakeup = trio.Event()
            await self._wakeup.wait()

    async def _read_loop(self) -> None:
        while True:
            try:
                data = await self._transport.receive_some(READ_LEN)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                return self._lose(ConnectionLostError(_loss_text(exc)))
            if not data:
                return self._lose(self._end_of_stream())
            self._last_read = trio.current_time()
            self._heard_anything = True
            try:
                events = self._h2.receive_data(self._incoming.feed(bytes(data)))
            except h2.exceptions.ProtocolError as exc:
                return self._lose(self._protocol_failure(exc))
            self._spoke_h2 = self._spoke_h2 or bool(events)
            for event in events:
                self._dispatch(event)
            self.wake()
            if self._failure is not None:
                return None

    def _end_of_stream(self) -> CliError:
        if self._spoke_h2:
            return ConnectionLostError("the server closed the connection")
        where = self._authority
        if self._heard_anything:
            return NotCommuCatError(f"{where} does not speak HTTP/2; it is no CommuCat server")
        # It offered HTTP/2 in the handshake: most likely it was stopped in this very moment.
        return ConnectionLostError(f"{where} closed the connection at once; is it a CommuCat server?")

    def _protocol_failure(self, exc: Exception) -> CliError:
        if self._spoke_h2:
            return ConnectionLostError(f"the server broke the rules of HTTP/2: {exc}")
        return NotCommuCatError(f"{self._authority} does not speak HTTP/2; it is no CommuCat server")

    def _dispatch(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            # Nothing can follow for the library, so this is the end for every stream.
            return self._lose(ConnectionLostError("the server is closing the connection"))
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._settled.set()
        stream_id = getattr(event, "stream_id", None)
        stream = self._streams.get(stream_id) if stream_id else None
        if isinstance(event, h2.events.DataReceived) and stream is None:
            return self.release(event.stream_id or 0, event.flow_controlled_length or 0)
        if stream is None:
            return None
        if isinstance(event, h2.events.DataReceived):
            stream.on_data(event.data or b"", event.flow_controlled_length or 0)
        elif isinstance(event, h2.events.ResponseReceived):
            stream.on_headers([(_text(name), _text(value)) for name, value in event.headers or ()])
        elif isinstance(event, h2.events.StreamEnded):
            stream.on_end(None)
        elif isinstance(event, h2.events.StreamReset):
            # Gone at once: the library refuses to send on it.
            del self._streams[stream.stream_id]
            stream.on_end(ConnectionLostError(f"the server aborted the request (code {event.error_code})"))
        return None

    def _lose(self, failure: CliError) -> None:
        if self._failure is None:
            self._failure = failure
            self._settled.set()
            for stream in self._streams.values():
                stream.on_end(failure)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _loss_text(exc: BaseException) -> str:
    cause = exc.__cause__
    detail = f": {cause}" if isinstance(cause, OSError) and cause.strerror else ""
    return f"the connection to the server was lost{detail}"
