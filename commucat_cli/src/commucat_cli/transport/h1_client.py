"""HTTP/1.1 to a server: a connection for each session, and one that is kept for short requests."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import attrs
import h11
import trio

from commucat_cli.errors import CliError, ConnectionLostError, NotCommuCatError
from commucat_cli.transport.h1_stream import READ_LEN, H1Stream, request_of, text_headers
from commucat_cli.transport.stream import MAX_BODY_LEN, Headers, RequestHead, Response
from commucat_cli.transport.tasks import alongside
from commucat_cli.transport.via import Via

Dial = Callable[[], Awaitable[trio.abc.Stream]]
"""Opens one more connection to the same server."""


@attrs.define(eq=False)
class _Spare:
    """A connection between two short requests."""

    transport: trio.abc.Stream
    connection: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))
    used: bool = False


class H1Client:
    """The client's end of any number of HTTP/1.1 connections to one server."""

    def __init__(self, dial: Dial, authority: str, via: Via) -> None:
        self._dial = dial
        self._authority = authority
        self._via = via
        self._spares: list[_Spare] = []

    @property
    def via(self) -> Via:
        return self._via

    async def run(self) -> None:
        """Keep connections for short requests until cancelled."""
        try:
            await trio.sleep_forever()
        finally:
            # Shielded, or the cancellation would leave all but the first one open; it never waits.
            with trio.CancelScope(shield=True):
                while self._spares:
                    await trio.aclose_forcefully(self._spares.pop().transport)

    async def keep_alive(self, interval: float, patience: float) -> None:
        """Nothing to ask with: streams end after a silence, and TCP finds dead peers."""

    @asynccontextmanager
    async def carrying(self, head: RequestHead) -> AsyncIterator[H1Stream]:
        """Send a request's head over a connection of its own; it is closed at the end of the block.

        Raises:
            CliError: there is no connection.
        """
        transport = await self._dial()
        stream = H1Stream(transport, self._authority, head)
        try:
            async with alongside(stream.run):
                yield stream
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(transport)

    async def get(self, path: str, headers: Headers = ()) -> Response:
        """A whole GET.

        Raises:
            CliError: the connection was lost, or the answer is too long.
        """
        return await self.request("GET", path, headers)

    async def request(self, method: str, path: str, headers: Headers = (), body: bytes = b"") -> Response:
        """A short request. One that got no answer over a kept connection is sent again over a new one.

        Raises:
            CliError: the connection was lost, or the answer is too long.
        """
        head = RequestHead(method=method, path=path, headers=headers)
        while True:
            spare = self._spares.pop() if self._spares else _Spare(await self._dial())
            kept = False
            try:
                response = await self._exchange(spare, head, body)
                kept = spare.connection.our_state is h11.DONE and spare.connection.their_state is h11.DONE
            except ConnectionLostError:
                if not spare.used:
                    raise
                continue  # the server had closed it meanwhile, as it may
            finally:
                if not kept:
                    with trio.CancelScope(shield=True):
                        await trio.aclose_forcefully(spare.transport)
            spare.connection.start_next_cycle()
            spare.used = True
            self._spares.append(spare)
            return response

    async def _exchange(self, spare: _Spare, head: RequestHead, body: bytes) -> Response:
        connection = spare.connection
        data = connection.send(request_of(head, self._authority, ("content-length", str(len(body))))) or b""
        if body:
            data += connection.send(h11.Data(data=body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        # An answer may have come all the same, such as one that refuses the body.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await spare.transport.send_all(data)
        status, headers, content = 0, dict[str, str](), bytearray()
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as exc:
                raise self._failure(connection, exc) from exc
            match event:
                case h11.Response():
                    status, headers = event.status_code, text_headers(event)
                case h11.Data():
                    content += event.data
                    if len(content) > MAX_BODY_LEN:
                        raise NotCommuCatError(f"the server's answer is longer than {MAX_BODY_LEN} bytes")
                case h11.EndOfMessage():
                    return Response(status=status, headers=headers, body=bytes(content))
                case h11.ConnectionClosed():
                    raise ConnectionLostError("the server closed the connection without an answer")
                case h11.NEED_DATA:
                    connection.receive_data(await self._received(spare.transport))

    def _failure(self, connection: h11.Connection, exc: Exception) -> CliError:
        if connection.trailing_data[0] and connection.their_state is h11.ERROR:
            return NotCommuCatError(f"{self._authority} does not speak HTTP/1.1; it is no CommuCat server")
        return ConnectionLostError(f"the server broke off its answer: {exc}")

    async def _received(self, transport: trio.abc.Stream) -> bytes:
        try:
            return bytes(await transport.receive_some(READ_LEN))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionLostError("the connection to the server was lost") from exc
