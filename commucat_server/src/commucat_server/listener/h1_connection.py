"""One HTTP/1.1 connection: request after request, each with a reader, a writer and its handler.

A request that comes early (pipelining) waits in a buffer of bounded size until the one before is answered.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import h11
import structlog
import trio

from commucat_server.listener.asgi import AsgiApp, AsgiOrigin, answer_request
from commucat_server.listener.errors import StreamLostError, StreamMisuseError
from commucat_server.listener.h1_progress import SendProgress
from commucat_server.listener.h1_stream import SWITCHING, H1Stream
from commucat_server.listener.problem import problem
from commucat_server.listener.request import RequestHead
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.stream import CONNECT_PATH, ConnectHandler

_log = structlog.get_logger("commucat.listener")

# RFC 9112, section 6: the framing of the response is ours to decide.
_OWN_FIELDS = frozenset({b"transfer-encoding", b"keep-alive", b"proxy-connection"})
_TITLES = {
    400: "BadRequest",
    408: "RequestTimeout",
    431: "RequestHeaderFieldsTooLarge",
    500: "InternalError",
    501: "NotImplemented",
}
_EVENTS_PER_TURN = 200
"""Events of the protocol library between two turns of other tasks: a peer may send chunks of one byte."""


class H1Connection:
    """Serves one peer that speaks HTTP/1.1 or 1.0.

    The peer's end of the connection, even of one direction, is its end: whoever waits for an answer keeps
    both open.

    Args:
        transport: bytes to and from the peer; closed when ``serve`` returns.
        settings: limits and deadlines.
        progress: what the peer's kernel has acknowledged.
        remote: address and port of the peer.
        local: address and port it connected to.
        connect_handler: called with each request whose path is exactly ``/connect``.
        asgi_app: answers all other requests.
        state: what the application's lifespan left for its requests.
    """

    __slots__ = (
        "_asgi_app",
        "_broken",
        "_connect_handler",
        "_going_away",
        "_h11",
        "_heads",
        "_idle",
        "_lost",
        "_nursery",
        "_origin",
        "_remote",
        "_stream",
        "_transport",
        "progress",
        "settings",
    )

    def __init__(
        self,
        transport: trio.abc.Stream,
        settings: ListenerSettings,
        *,
        progress: SendProgress,
        remote: tuple[str, int],
        local: tuple[str, int],
        connect_handler: ConnectHandler,
        asgi_app: AsgiApp,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.progress = progress
        self._transport = transport
        self._remote = remote
        self._origin = AsgiOrigin(client=remote, server=local, state=state, http_version="1.1")
        self._connect_handler = connect_handler
        self._asgi_app = asgi_app
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.max_header_size)
        self._heads = bytearray()
        self._idle = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._stream: H1Stream | None = None
        self._lost: str | None = None
        self._broken: h11.RemoteProtocolError | None = None
        self._going_away = False

    async def serve(self) -> None:
        """Serve until either side ends the connection, then close it."""
        patience = self.settings.handshake_timeout
        graceful = False
        try:
            while await self._serve_request(patience):
                patience = self.settings.idle_timeout
            graceful = self._lost is None
        finally:
            with trio.move_on_after(self.settings.close_timeout if graceful else 0, shield=True):
                await self._transport.aclose()

    def go_away(self) -> None:
        """End the connection when the request that runs, if any, is answered."""
        self._going_away = True
        self._idle.cancel()

    # What the stream needs

    def send_head(self, stream: H1Stream, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Queue a response head."""
        fields = [(name, value) for name, value in headers if name not in _OWN_FIELDS]
        try:
            if status == SWITCHING:
                head: h11.Event = h11.InformationalResponse(status_code=status, headers=fields)
                self._heads += self._h11.send(head) or b""
                stream.switch()
                stream.deliver(self._h11.trailing_data[0])
                return
            if self._going_away and not any(name == b"connection" for name, _ in fields):
                fields.append((b"connection", b"close"))
            head = h11.Response(status_code=status, headers=fields)
            self._heads += self._h11.send(head) or b""
        except h11.LocalProtocolError as exc:
            raise StreamMisuseError(f"response head refused: {exc}") from exc

    def permit_body(self) -> None:
        """Tell a peer that waits for it (``Expect: 100-continue``) to send its body."""
        if self._stream is not None and self._h11.they_are_waiting_for_100_continue:
            self._heads += self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            self._stream.work.set()

    def lose(self, reason: str) -> None:
        """The connection is of no more use; its handler has ``drain_timeout`` to return."""
        if self._lost is None:
            self._lost = reason
            if self._stream is not None:
                self._stream.lose(reason)
            if self._nursery is not None:
                self._nursery.cancel_scope.deadline = trio.current_time() + self.settings.drain_timeout

    # Requests

    async def _serve_request(self, patience: float) -> bool:
        """Whether another request may follow."""
        try:
            request = await self._next_request(patience)
        except h11.RemoteProtocolError as exc:
            await self._refuse(exc.error_status_hint, str(exc))
            return False
        if request is None:
            return False
        if len(request.headers) > self.settings.max_header_count:
            await self._refuse(431, "too many header fields")
            return False
        head = RequestHead.from_target(request.method, request.target, request.headers)
        if head is None or request.method == b"CONNECT":
            await self._refuse(400, "not a request for this server")
            return False
        stream = self._stream = H1Stream(self, head, self._remote)
        handle: Callable[[], Awaitable[None]]
        if head.path == CONNECT_PATH:
            handle = partial(self._connect_handler, stream)
        else:
            handle = partial(answer_request, stream, head, self._origin, self._asgi_app, self.settings)
        # What came with the head is known before the handler runs.
        self._pump(stream)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._read, stream)
            nursery.start_soon(self._write, stream)
            await self._run(stream, handle)
            nursery.cancel_scope.cancel()
        self._nursery = self._stream = None
        if self._broken is not None and not stream.started:
            await self._refuse(self._broken.error_status_hint, str(self._broken))
        if self._lost is not None:
            return False
        with trio.move_on_after(self.settings.close_timeout):
            await self._discard_rest()
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return not self._going_away

    async def _next_request(self, patience: float) -> h11.Request | None:
        """Wait for a request head; it must be complete in time, however its bytes trickle in."""
        self._idle = trio.CancelScope(deadline=trio.current_time() + patience)
        if self._going_away:
            return None
        with self._idle:
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                self._h11.receive_data(await self._receive())
        if self._h11.trailing_data[0] and not self._going_away:
            await self._refuse(408, "request head did not arrive in time")
        return None

    async def _run(self, stream: H1Stream, handle: Callable[[], Awaitable[None]]) -> None:
        try:
            await handle()
            stream.check_answered()
        except* StreamLostError:
            stream.reset()
        except* Exception as failed:  # noqa: BLE001 - the top of this task
            cause = failed.exceptions[0] if len(failed.exceptions) == 1 else failed
            _log.error("handler failed", path=stream.path, exc_info=cause)
            if stream.started:
                stream.reset()
            elif not stream.lost:
                headers, body = problem(500, _TITLES[500], "internal server error")
                stream.send_head(500, headers, end=stream.method == "HEAD")
                if stream.method != "HEAD":
                    with contextlib.suppress(StreamLostError):
                        await stream.send(body)
        await stream.finish(self.settings.stall_timeout)

    async def _refuse(self, status: int, reason: str) -> None:
        """Answer what is no request; the connection ends after it."""
        _log.info("peer violated http/1.1", remote=self._remote[0], status=status, reason=reason)
        headers, body = problem(status, _TITLES.get(status, "BadRequest"), reason)
        try:
            data = self._h11.send(
                h11.Response(status_code=status, headers=[*headers, (b"connection", b"close")])
            )
            data = (data or b"") + (self._h11.send(h11.Data(data=body)) or b"")
        except h11.LocalProtocolError:
            return  # A response to something else has begun.
        with trio.move_on_after(self.settings.close_timeout), contextlib.suppress(trio.BrokenResourceError):
            await self._transport.send_all(data)

    async def _discard_rest(self) -> None:
        """Let the peer finish its body: closed over unread bytes, TCP would take back the answer."""
        try:
            while self._lost is None and self._h11.their_state in (h11.SEND_BODY, h11.SWITCHED_PROTOCOL):
                event = self._h11.next_event()
                if isinstance(event, h11.Data):
                    await trio.lowlevel.checkpoint()
                elif event in (h11.NEED_DATA, h11.PAUSED):
                    data = await self._receive()
                    if not data:
                        return
                    if event is h11.NEED_DATA:
                        self._h11.receive_data(data)
        except h11.RemoteProtocolError:
            return  # The answer is out; there is nothing to tell.

    # Reading

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._transport.receive_some(self.settings.read_size))
        except trio.BrokenResourceError:
            return b""

    async def _read(self, stream: H1Stream) -> None:
        """Take what the peer sends, and notice when it leaves."""
        ahead = 0
        while self._lost is None:
            while self._pump(stream):
                await trio.lowlevel.checkpoint()
            if stream.peer_ended and ahead >= self.settings.read_size:
                return  # The requests behind this one wait for their turn.
            if stream.inbound_bytes >= self.settings.stream_window:
                await stream.taken.wait()
                continue
            data = await self._receive()
            if not data:
                self.lose("connection lost")
            elif stream.raw:
                stream.deliver(data)
            else:
                self._h11.receive_data(data)
                if stream.peer_ended:
                    ahead += len(data)

    def _pump(self, stream: H1Stream) -> bool:
        """Pass on what is complete; whether there is more to do at once."""
        if stream.raw or stream.peer_ended or self._lost is not None:
            return False
        try:
            for _ in range(_EVENTS_PER_TURN):
                match self._h11.next_event():
                    case h11.Data(data=data):
                        stream.deliver(bytes(data))
                    case h11.EndOfMessage():
                        stream.deliver_end()
                        return False
                    case _:
                        return False
        except h11.RemoteProtocolError as exc:
            self._broken = exc
            if not stream.started:
                # The answer says what is wrong; the handler sees a lost stream.
                stream.lose("malformed request body")
            else:
                self.lose("malformed request body")
            return False
        return True

    # Writing

    async def _write(self, stream: H1Stream) -> None:
        while self._lost is None:
            head, self._heads = bytes(self._heads), bytearray()
            body = stream.take(self.settings.write_size) if stream.started else b""
            ended = stream.started and stream.ending and not stream.outbox
            data = head + self._frame(stream, body, ended=ended)
            if not (data or ended):
                await stream.work.wait()
                continue
            if self._lost is None and data:
                try:
                    with trio.move_on_after(self.settings.write_timeout) as writing:
                        await self._transport.send_all(data)
                except trio.BrokenResourceError:
                    self.lose("connection lost")
                    return
                if writing.cancelled_caught:
                    self.lose("peer stopped reading")
                    return
            if self._lost is None:
                stream.flushed_more(len(body), ended=ended)
            if ended:
                return

    def _frame(self, stream: H1Stream, body: bytes, *, ended: bool) -> bytes:
        if stream.raw:
            return body
        try:
            data = (self._h11.send(h11.Data(data=body)) or b"") if body else b""
            if ended:
                data += self._h11.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as exc:
            _log.error("response does not fit its head", path=stream.path, reason=str(exc))
            self.lose("response does not fit its head")
            return b""
        return data
