"""What the listener's tests share: a real HTTP/2 client, a served connection, a TLS certificate."""

import datetime
import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import h2.config
import h2.connection
import h2.events
import h2.settings
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from commucat_server.listener import (
    AsgiApp,
    ConnectStream,
    H2Connection,
    ListenerSettings,
    ShutdownSignal,
    open_tcp,
    serve_listeners,
    tls_context,
)

REMOTE = ("192.0.2.7", 51_000)
LOCAL = ("192.0.2.1", 8443)
HEAD = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost")]


def detached(stream: trio.SocketStream) -> socket.socket:
    """The socket of a stream, which has none after this."""
    given = stream.socket
    return socket.socket(given.family, given.type, given.proto, fileno=given.detach())


class Peer:
    """An HTTP/2 client on a Trio stream: the library's own client state machine, driven by hand.

    Credit is given back for every byte received unless ``reads_bodies`` is switched off.
    """

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.transport = transport
        self.protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        self.events: list[h2.events.Event] = []
        self.reads_bodies = True
        self.answers_pings = True
        self.closed = False
        self._next_stream = 1

    async def begin(self) -> None:
        """Send the preface and wait for the server's settings."""
        self.protocol.initiate_connection()
        await self.flush()
        await self.until(lambda: bool(self.count(h2.events.RemoteSettingsChanged)))

    async def flush(self) -> None:
        """Send what the state machine has queued."""
        if data := self.protocol.data_to_send():
            await self.transport.send_all(data)

    async def request(
        self, path: str = "/connect", *, method: str = "POST", headers: Any = (), end: bool = False
    ) -> int:
        """Open a stream; return its number."""
        stream_id, self._next_stream = self._next_stream, self._next_stream + 2
        fields = [(":method", method), (":path", path), *HEAD[1:], *headers]
        self.protocol.send_headers(stream_id, fields, end_stream=end)
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send a body, waiting for the server's windows as often as needed."""
        while data:
            room = min(
                self.protocol.local_flow_control_window(stream_id), self.protocol.max_outbound_frame_size
            )
            if room:
                self.protocol.send_data(stream_id, data[:room])
                data = data[room:]
                await self.flush()
            else:
                await self.read()
        if end:
            self.protocol.end_stream(stream_id)
            await self.flush()

    async def read(self) -> None:
        """Take what the server sent."""
        data = await self.transport.receive_some(65_536)
        if not data:
            self.closed = True
            return
        for event in self.protocol.receive_data(data):
            self.events.append(event)
            if self.reads_bodies and isinstance(event, h2.events.DataReceived):
                self.protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        await self.flush()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Read until the condition holds; an end of the connection before that is a failure."""
        while not condition():
            assert not self.closed, f"the server closed; it had sent {self.events}"
            await self.read()

    async def until_closed(self) -> None:
        """Read to the end of the connection."""
        while not self.closed:
            await self.read()

    def count(self, kind: type[h2.events.Event]) -> int:
        """How many events of a kind came."""
        return sum(isinstance(event, kind) for event in self.events)

    def of(self, kind: type[Any], stream_id: int) -> list[Any]:
        """The events of a kind on a stream."""
        return [event for event in self.events if isinstance(event, kind) and event.stream_id == stream_id]

    def body(self, stream_id: int) -> bytes:
        """The response body so far."""
        return b"".join(event.data for event in self.of(h2.events.DataReceived, stream_id))

    def headers(self, stream_id: int) -> dict[str, str]:
        """The response head."""
        [event] = self.of(h2.events.ResponseReceived, stream_id)
        return dict(event.headers)

    def ended(self, stream_id: int) -> bool:
        """Whether the server ended the stream."""
        return bool(self.of(h2.events.StreamEnded, stream_id))

    def reset(self, stream_id: int) -> bool:
        """Whether the server reset the stream."""
        return bool(self.of(h2.events.StreamReset, stream_id))

    def goaway(self) -> h2.events.ConnectionTerminated:
        """The server's farewell."""
        [event] = [event for event in self.events if isinstance(event, h2.events.ConnectionTerminated)]
        return event

    async def until_reset(self, stream_id: int) -> None:
        """Wait until the server resets a stream."""
        await self.until(lambda: self.reset(stream_id))

    async def answer(self, stream_id: int) -> tuple[int, dict[str, str], bytes]:
        """Wait for the whole response: status, headers, body."""
        await self.until(lambda: self.ended(stream_id))
        headers = self.headers(stream_id)
        return int(headers[":status"]), headers, self.body(stream_id)


async def echo(stream: ConnectStream) -> None:
    """A handler that sends back what it receives."""
    await stream.start(200, [("content-type", "application/octet-stream")])
    while data := await stream.receive():
        await stream.send(data)


async def hello_app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers every request alike."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["raw_path"])]})
    await send({"type": "http.response.body", "body": b"hello"})


@attrs.define
class Served:
    """A connection that is being served, and the client at its other end."""

    connection: H2Connection
    peer: Peer
    server_end: trio.abc.Stream
    done: trio.Event


def h2_connection(
    transport: trio.abc.Stream,
    handler: Callable[[ConnectStream], Awaitable[None]],
    app: AsgiApp = hello_app,
    *,
    settings: ListenerSettings | None = None,
    state: dict[str, Any] | None = None,
) -> H2Connection:
    """The server's side of a connection, not served yet."""
    return H2Connection(
        transport,
        settings or ListenerSettings(),
        remote=REMOTE,
        local=LOCAL,
        connect_handler=handler,
        asgi_app=app,
        state=state,
    )


@asynccontextmanager
async def served(
    handler: Callable[[ConnectStream], Awaitable[None]] = echo,
    app: AsgiApp = hello_app,
    *,
    settings: ListenerSettings | None = None,
    lockstep: bool = False,
    begin: bool = True,
    state: dict[str, Any] | None = None,
) -> AsyncIterator[Served]:
    """Serve one connection in memory. At the end of the block the client hangs up, and serving must end.

    With ``lockstep`` a send waits until the other side has read it, as with a full socket buffer.
    """
    pair = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
    client_end, server_end = pair
    connection = h2_connection(server_end, handler, app, settings=settings, state=state)
    done = trio.Event()

    async def run() -> None:
        await connection.serve()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        peer = Peer(client_end)
        if begin:
            await peer.begin()
        yield Served(connection=connection, peer=peer, server_end=server_end, done=done)
        await client_end.aclose()


@functools.cache
def certificate_pem() -> tuple[bytes, bytes]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write certificate and key; return their paths."""
    cert, key = certificate_pem()
    (folder / "cert.pem").write_bytes(cert)
    (folder / "key.pem").write_bytes(key)
    return folder / "cert.pem", folder / "key.pem"


def client_tls(*alpn: str) -> ssl.SSLContext:
    """A client context that trusts the test certificate."""
    context = ssl.create_default_context(cadata=certificate_pem()[0].decode())
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@asynccontextmanager
async def peer_on(tcp: trio.SocketStream) -> AsyncIterator[Peer]:
    """A peer with TLS and HTTP/2 on a connection that is dialled."""
    tls = trio.SSLStream(tcp, client_tls("h2"), server_hostname="127.0.0.1")
    try:
        peer = Peer(tls)
        await peer.begin()
        yield peer
    finally:
        await trio.aclose_forcefully(tls)


@attrs.define
class Server:
    """A listener with all that is behind it, over real TLS."""

    port: int
    shutdown: ShutdownSignal
    done: trio.Event
    listeners: list[trio.SocketListener]

    async def dial(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    @asynccontextmanager
    async def peer(self) -> AsyncIterator[Peer]:
        async with peer_on(await self.dial()) as peer:
            yield peer


@asynccontextmanager
async def running(
    folder: Path,
    handler: Any = echo,
    settings: ListenerSettings | None = None,
    **more: Any,
) -> AsyncIterator[Server]:
    """A server on a free port. ``more``: for ``serve_listeners``."""
    shutdown, done = ShutdownSignal(), trio.Event()
    listeners = await open_tcp("127.0.0.1", 0)

    async def run(task_status: trio.TaskStatus[Any]) -> None:
        await serve_listeners(
            listeners,
            tls_context(*write_certificate(folder)),
            settings or ListenerSettings(),
            connect_handler=handler,
            asgi_app=hello_app,
            shutdown=shutdown,
            task_status=task_status,
            **more,
        )
        done.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        port = listeners[0].socket.getsockname()[1]
        yield Server(port=port, shutdown=shutdown, done=done, listeners=listeners)
        shutdown.request()
