"""One HTTP/1.1 connection: request after request.

A request that comes early (pipelining) waits in a buffer of bounded size until the one before is answered.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import h11
import structlog
import trio

from commucat_server.listener.asgi import AsgiApp, AsgiOrigin, answer_request
from commucat_server.listener.h1_exchange import H1Exchange, receive_some
from commucat_server.listener.h1_progress import SendProgress
from commucat_server.listener.problem import problem
from commucat_server.listener.request import RequestHead
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.stream import STREAM_PATHS, ConnectHandler

_log = structlog.get_logger("commucat.listener")

_TITLES = {
    400: "BadRequest",
    408: "RequestTimeout",
    431: "RequestHeaderFieldsTooLarge",
    501: "NotImplemented",
}


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
        connect_handler: called with each request whose path is exactly ``/connect`` or ``/p2p``.
        asgi_app: answers all other requests.
        state: what the application's lifespan left for its requests.
    """

    __slots__ = (
        "_asgi_app",
        "_connect_handler",
        "_going_away",
        "_graceful",
        "_h11",
        "_idle",
        "_origin",
        "_progress",
        "_remote",
        "_transport",
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
        self._progress = progress
        self._transport = transport
        self._remote = remote
        self._origin = AsgiOrigin(client=remote, server=local, state=state, http_version="1.1")
        self._connect_handler = connect_handler
        self._asgi_app = asgi_app
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.max_header_size)
        self._idle = trio.CancelScope()
        self._graceful = True
        self._going_away = False

    async def serve(self) -> None:
        """Serve until either side ends the connection, then close it."""
        patience = self.settings.handshake_timeout
        finished = False
        try:
            while await self._serve_request(patience):
                patience = self.settings.idle_timeout
            finished = True
        finally:
            with trio.move_on_after(
                self.settings.close_timeout if finished and self._graceful else 0, shield=True
            ):
                await self._transport.aclose()

    def go_away(self) -> None:
        """End the connection when the request that runs, if any, is answered."""
        self._going_away = True
        self._idle.cancel()

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
        exchange = H1Exchange(
            self._transport,
            self._h11,
            self.settings,
            progress=self._progress,
            head=head,
            remote=self._remote,
            is_last=lambda: self._going_away,
        )
        stream = exchange.stream
        handle: Callable[[], Awaitable[None]]
        if head.path in STREAM_PATHS:
            handle = partial(self._connect_handler, stream)
        else:
            handle = partial(answer_request, stream, head, self._origin, self._asgi_app, self.settings)
        await exchange.run(handle)
        if exchange.broken is not None and not stream.started:
            await self._refuse(exchange.broken.error_status_hint, str(exchange.broken))
        if exchange.lost is not None:
            self._graceful = False
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
                self._h11.receive_data(await receive_some(self._transport, self.settings.read_size))
        if self._h11.trailing_data[0] and not self._going_away:
            await self._refuse(408, "request head did not arrive in time")
        return None

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
            while self._h11.their_state in (h11.SEND_BODY, h11.SWITCHED_PROTOCOL):
                event = self._h11.next_event()
                if isinstance(event, h11.Data):
                    await trio.lowlevel.checkpoint()
                elif event in (h11.NEED_DATA, h11.PAUSED):
                    data = await receive_some(self._transport, self.settings.read_size)
                    if not data:
                        return
                    if event is h11.NEED_DATA:
                        self._h11.receive_data(data)
        except h11.RemoteProtocolError:
            return  # The answer is out; there is nothing to tell.
