"""An HTTP/1.1 client on a Trio stream, and a connection that is served to it in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import trio
import trio.testing

from commucat_server.listener import AsgiApp, ConnectStream, H1Connection, ListenerSettings, StreamLostError
from server.listener_builders import LOCAL, REMOTE, echo, hello_app


class FakeProgress:
    """A kernel whose peer acknowledges when a test says so."""

    def __init__(self) -> None:
        self.passed = 0
        self.answered = 0
        self.dead = False

    def sent(self) -> int:
        return self.passed

    def acknowledged(self) -> int:
        if self.dead:
            raise StreamLostError("connection lost")
        return self.answered


class H1Peer:
    """The client's side; the library's own state machine reads what the server sends."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.transport = transport
        self.protocol = h11.Connection(h11.CLIENT)
        self.body = b""

    async def raw(self, data: bytes) -> None:
        await self.transport.send_all(data)

    async def request(self, method: str = "GET", target: str = "/", *headers: tuple[str, str]) -> None:
        """Send a head."""
        fields = [("host", "localhost"), *headers]
        await self.raw(self.protocol.send(h11.Request(method=method, target=target, headers=fields)) or b"")

    async def send(self, data: bytes = b"", *, end: bool = False) -> None:
        """Send a piece of the body, and perhaps its end."""
        out = (self.protocol.send(h11.Data(data=data)) or b"") if data else b""
        if end:
            out += self.protocol.send(h11.EndOfMessage()) or b""
        await self.raw(out)

    async def event(self) -> Any:
        """The next event of the response."""
        with trio.fail_after(60):
            while (event := self.protocol.next_event()) is h11.NEED_DATA:
                self.protocol.receive_data(await self.transport.receive_some(65_536))
        return event

    async def head(self) -> h11.Response:
        """The response head, after all informational ones."""
        while not isinstance(event := await self.event(), h11.Response):
            pass
        return event

    async def read_body(self, size: int | None = None) -> bytes:
        """Read so many bytes of the body, or all of it."""
        body, self.body = self.body, b""
        while size is None or len(body) < size:
            event = await self.event()
            if isinstance(event, h11.EndOfMessage):
                break
            assert isinstance(event, h11.Data), event
            body += bytes(event.data)
        return body

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The whole response; another request may follow."""
        head = await self.head()
        body = await self.read_body()
        if self.protocol.our_state is h11.DONE and self.protocol.their_state is h11.DONE:
            self.protocol.start_next_cycle()
        return head.status_code, {n.decode(): v.decode() for n, v in head.headers}, body

    async def answer_to(self, method: str) -> tuple[int, dict[str, str], bytes]:
        """The response to a request that was sent with :meth:`raw`, its body included."""
        self.protocol.send(h11.Request(method=method, target="/", headers=[("host", "localhost")]))
        self.protocol.send(h11.EndOfMessage())
        return await self.answer()

    async def until_closed(self) -> bytes:
        """Everything to the end of the connection."""
        data = b""
        with trio.fail_after(60):
            while more := await self.transport.receive_some(65_536):
                data += more
        return data


@attrs.define
class ServedH1:
    """A connection that is being served, and the client at its other end."""

    connection: H1Connection
    peer: H1Peer
    progress: FakeProgress
    done: trio.Event


@asynccontextmanager
async def served_h1(
    handler: Callable[[ConnectStream], Awaitable[None]] = echo,
    app: AsgiApp = hello_app,
    *,
    settings: ListenerSettings | None = None,
    lockstep: bool = False,
) -> AsyncIterator[ServedH1]:
    """Serve one connection in memory; at the end of the block the client hangs up, and serving must end."""
    pair = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
    client_end, server_end = pair
    progress = FakeProgress()
    connection = H1Connection(
        server_end,
        settings or ListenerSettings(),
        progress=progress,
        remote=REMOTE,
        local=LOCAL,
        connect_handler=handler,
        asgi_app=app,
    )
    done = trio.Event()

    async def run() -> None:
        await connection.serve()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield ServedH1(connection=connection, peer=H1Peer(client_end), progress=progress, done=done)
        await client_end.aclose()
