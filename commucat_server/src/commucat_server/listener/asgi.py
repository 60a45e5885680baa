"""The bridge to an ASGI 3 application: one request each, and its lifespan."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
import structlog
import trio

from commucat_server.listener.errors import LifespanError, StreamLostError, StreamMisuseError
from commucat_server.listener.problem import problem
from commucat_server.listener.request import RequestHead
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.stream import HttpStream

_log = structlog.get_logger("commucat.listener")

Message = dict[str, Any]
# Any: frameworks give scope, receive and send types of their own, which no common type describes.
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

# RFC 9110, sections 15.3.5 and 15.4.5: these answers have no body.
_BODILESS = frozenset({204, 304})


@attrs.frozen(kw_only=True)
class AsgiOrigin:
    """What the requests of one connection have in common."""

    client: tuple[str, int]
    server: tuple[str, int]
    state: Mapping[str, Any] | None = None
    http_version: str = "2"


async def answer_request(
    stream: HttpStream, head: RequestHead, origin: AsgiOrigin, app: AsgiApp, settings: ListenerSettings
) -> None:
    """Let the application answer one request.

    A body above ``max_body`` bytes is answered with 400, one that stalls with 408, and the application is
    cancelled. If the
    application fails before it sent anything, 500 is answered; the failure is logged. After that the
    stream is reset. If the peer leaves, the application sees it in ``receive``, and is cancelled when it
    sends; so it is if the peer takes nothing of its answer for ``stall_timeout``.
    """
    exchange = _Exchange(stream, head, settings)
    if exchange.announced > settings.max_body:
        await exchange.refuse_body()
        return
    try:
        with exchange.running:
            await app(_http_scope(head, origin), exchange.receive, exchange.send)
    except* Exception as failed:  # noqa: BLE001 - whatever the application raises
        cause = failed.exceptions[0] if len(failed.exceptions) == 1 else failed
        _log.error("request failed", method=stream.method, path=stream.path, exc_info=cause)
        await exchange.fail()
    else:
        if not exchange.complete and not exchange.abandoned:
            _log.error("request not answered to its end", method=stream.method, path=stream.path)
            await exchange.fail()


def _http_scope(head: RequestHead, origin: AsgiOrigin) -> Message:
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": origin.http_version,
        "method": head.method.decode("latin-1").upper(),
        "scheme": "https",
        "path": unquote_to_bytes(head.path).decode("utf-8", "replace"),
        "raw_path": head.path,
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        "client": origin.client,
        "server": origin.server,
    }
    if origin.state is not None:
        scope["state"] = dict(origin.state)
    return scope


class _Exchange:
    """One request and its answer: the ``receive`` and ``send`` of the application."""

    def __init__(self, stream: HttpStream, head: RequestHead, settings: ListenerSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._received = 0
        self._body_ended = False
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._without_body = head.method == b"HEAD"
        self.complete = False
        self.abandoned = False
        self.running = trio.CancelScope()
        # The protocol library has checked that it is a number.
        self.announced = int(stream.headers.get("content-length", "0"))

    async def receive(self) -> Message:
        try:
            if not self._body_ended:
                return await self._receive_body()
            await self._stream.wait_closed()
        except StreamLostError:
            # Whatever the application does now, nobody listens.
            self.abandoned = True
        return {"type": "http.disconnect"}

    async def _receive_body(self) -> Message:
        data = b""
        with trio.move_on_after(self._settings.stall_timeout) as waiting:
            data = await self._stream.receive()
        self._received += len(data)
        if waiting.cancelled_caught:
            await self._answer(408, "RequestTimeout", "request body did not arrive in time")
            await self._stop()
        elif self._received > self._settings.max_body:
            await self.refuse_body()
            await self._stop()
        self._body_ended = not data
        return {"type": "http.request", "body": data, "more_body": bool(data)}

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" if self._head is None and not self.complete:
                headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
                self._head = (message["status"], headers)
            case "http.response.body" if self._head is not None and not self.complete:
                try:
                    await self._send_body(message.get("body", b""), message.get("more_body", False))
                except StreamLostError:
                    # Nobody listens. An exception here would only be taken for the application's own.
                    self.abandoned = True
                    await self._stop()
            case kind:
                raise StreamMisuseError(f"the application sent {kind!r} out of turn")

    async def _send_body(self, body: bytes, more: bool) -> None:
        assert self._head is not None
        status, headers = self._head
        if not self._stream.started:
            # Not earlier: until here a failure can still become a proper answer, and head and body
            # leave in one write.
            if status in _BODILESS or not (body or more):
                self._without_body = True
            self._stream.send_head(status, headers, end=self._without_body)
        if self._without_body and more:
            # The answer to a HEAD: nobody wants the rest, and it may be long.
            self.complete = True
            await self._stream.end()
            await self._stop()
            return
        if not self._without_body:
            with trio.move_on_after(self._settings.stall_timeout) as waiting:
                await self._stream.send(bytes(body))
            if waiting.cancelled_caught:
                self._stream.reset()
                raise StreamLostError("the peer takes nothing of its answer")
        if not more:
            self.complete = True
            await self._stream.end()

    async def _stop(self) -> None:
        """Cancel the application."""
        self.running.cancel()
        await trio.lowlevel.checkpoint()

    async def refuse_body(self) -> None:
        """Answer a body that is too large."""
        size = self._settings.max_body // (1024 * 1024)
        await self._answer(400, "BadRequest", f"request body too large (max {size} MB)")

    async def fail(self) -> None:
        """Answer what nobody answered; break the stream off if an answer had begun."""
        if not self.complete:
            await self._answer(500, "InternalError", "internal server error")

    async def _answer(self, status: int, title: str, detail: str) -> None:
        if self._stream.started:
            self._stream.reset()
            self.abandoned = True
            return
        headers, body = problem(status, title, detail)
        self._stream.send_head(status, headers, end=self._without_body)
        self.complete = True
        if not self._without_body:
            await self._stream.send(body)
            await self._stream.end()


@asynccontextmanager
async def asgi_lifespan(app: AsgiApp) -> AsyncIterator[dict[str, Any]]:
    """Run the application's startup before the block and its shutdown after it.

    An exception of the block comes out in an exception group, as with a nursery.

    Yields:
        The state the application keeps for its requests: give it to ``serve_listeners``.

    Raises:
        LifespanError: startup or shutdown failed; the message is the application's.
    """
    state: dict[str, Any] = {}
    lifespan = _Lifespan()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifespan.run, app, state)
        await lifespan.started.wait()
        if lifespan.failure is None:
            try:
                yield state
            finally:
                lifespan.stopping.set()
    if lifespan.failure is not None:
        raise LifespanError(lifespan.failure)


class _Lifespan:
    def __init__(self) -> None:
        self.started = trio.Event()
        self.stopping = trio.Event()
        self.failure: str | None = None
        self._startup_told = False

    async def run(self, app: AsgiApp, state: dict[str, Any]) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
        try:
            await app(scope, self._receive, self._send)
        except Exception as exc:  # noqa: BLE001 - an application may refuse the whole protocol by raising
            if not self._startup_told:
                _log.info("the application has no lifespan", reason=repr(exc))
            elif self.failure is None:
                self.failure = f"{type(exc).__name__}: {exc}"
        finally:
            self.started.set()

    async def _receive(self) -> Message:
        if not self._startup_told:
            self._startup_told = True
            return {"type": "lifespan.startup"}
        await self.stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self.started.set()
            case "lifespan.startup.failed" | "lifespan.shutdown.failed":
                self.failure = message.get("message") or "the application failed"
                self.started.set()
