"""A client's session whose connection can be mistreated: torn down, half closed, not read."""

import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import trio

from commucat_cli.chaos.steps import Parting
from commucat_cli.client import Connection
from commucat_cli.client.opening import attach
from commucat_cli.client.server_info import fetch_server_info
from commucat_cli.errors import CliError, ConnectionLostError, UnreachableError
from commucat_cli.transport import (
    HTTP1,
    HTTP2,
    H1Client,
    H2Client,
    HttpClient,
    ServerAddress,
    Timeouts,
    Trust,
    Via,
    client_context,
    open_h2,
    running,
)
from commucat_proto import SEND_ONLY, ClientParameters, Frame

TIMEOUTS = Timeouts(connect=5.0, handshake=10.0)
END_PATIENCE = 5.0
"""Seconds a session has to end by itself before its socket is torn down."""
_RECEIVE_BUFFER = 64 * 1024  # small, so that a client that does not read is felt by the server
_NO_LINGER = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: closing throws away and sends RST


@attrs.frozen(kw_only=True)
class Target:
    """The server, as its clients know it."""

    addresses: tuple[ServerAddress, ...]
    """Of its nodes."""
    trust: Trust
    domain: str
    noise_public: bytes
    afar: Mapping[str, str] = attrs.field(factory=dict)
    """Devices of other domains, and how they are called here."""

    @classmethod
    async def find(cls, servers: Sequence[str], tls_ca: str) -> "Target":
        """Ask the server for its keys.

        Raises:
            CliError: it cannot be reached.
        """
        addresses = tuple(map(ServerAddress.parse, servers))
        trust = Trust(ca_file=Path(tls_ca))
        async with open_h2(addresses[0], trust, TIMEOUTS) as client:
            info = await fetch_server_info(client, TIMEOUTS)
        return cls(addresses=addresses, trust=trust, domain=info.domain, noise_public=info.noise_public)


class _Valve:
    """While it is shut nothing is read, from no connection of a link."""

    def __init__(self) -> None:
        self._open = trio.Event()
        self._open.set()

    def shut(self) -> None:
        if self._open.is_set():  # else somebody waits for this very event
            self._open = trio.Event()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        await self._open.wait()


class _Gate(trio.abc.Stream):
    """One connection behind a valve."""

    def __init__(self, inner: trio.abc.Stream, valve: _Valve) -> None:
        self._inner = inner
        self._valve = valve

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self._valve.passed()
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Link:
    """One session, run as a task of its own by :meth:`run`."""

    def __init__(
        self,
        target: Target,
        parameters: ClientParameters,
        *,
        via: Via,
        number: int,
        on_open: Callable[["Link"], None],
        on_frames: Callable[["Link", list[Frame]], None],
    ) -> None:
        """``on_open`` is called before the first frames; ``on_frames`` with frames, with none at the end."""
        self.number = number
        """Which session of its device this is."""
        self.highest = 0
        """Highest inbox number that is here: at first the watermark that the server names."""
        self._target = target
        # Each session at the next node: whatever a device does, it does it everywhere.
        self._address = target.addresses[number % len(target.addresses)]
        self._parameters = parameters
        self._via = via
        self._on_open = on_open
        self._on_frames = on_frames
        self._ended = trio.Event()
        self._valve = _Valve()
        self._sockets: list[tuple[trio.SocketStream, trio.SSLStream[trio.SocketStream]]] = []
        self._torn = False
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        assert self._connection is not None, "links are used only after their handshake"
        return self._connection

    @property
    def resume(self) -> int | None:
        """The number that the Hello confirmed."""
        return None if self._parameters.resume is None else self._parameters.resume.ack

    @property
    def receives(self) -> bool:
        """Whether it is not send-only."""
        return SEND_ONLY not in self._parameters.capabilities

    @property
    def last(self) -> int:
        """The last inbox number that was given out when the session began."""
        number: int = self.connection.info.ack["inbox"]["next"]
        return number - 1

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, report the start, take what comes until the session has ended.

        Raises:
            CliError: before the start was reported: it could not be opened.
        """
        try:
            authority = self._address.authority
            client: HttpClient = (
                H1Client(self._dial, authority, self._via)
                if self._via.http1
                else H2Client(await self._dial(), authority, self._via)
            )
            async with (
                running(client, TIMEOUTS),
                attach(client, self._parameters, TIMEOUTS) as connection,
            ):
                self._connection = connection
                self.highest = connection.info.ack["inbox"]["confirmed"]
                self._on_open(self)
                task_status.started()
                await self._take(connection)
        finally:
            self._ended.set()
            self._on_frames(self, [])
            await self._close_sockets()

    async def _dial(self) -> trio.abc.Stream:
        """One more connection; those of one link are mistreated together."""
        if self._torn:
            raise ConnectionLostError("the connection was torn down")
        address = self._address
        try:
            with trio.fail_after(TIMEOUTS.connect):
                tcp = await trio.open_tcp_stream(address.host, address.port)
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
                context = client_context(self._target.trust, [HTTP1 if self._via.http1 else HTTP2])
                tls = trio.SSLStream(tcp, context, server_hostname=address.host, https_compatible=True)
                self._sockets.append((tcp, tls))
                await tls.do_handshake()
        except trio.TooSlowError as exc:
            raise UnreachableError("the server does not answer") from exc
        except OSError as exc:
            raise UnreachableError(f"cannot connect: {exc}") from exc
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionLostError("the connection ended during the TLS handshake") from exc
        return _Gate(tls, self._valve)

    async def _take(self, connection: Connection) -> None:
        try:
            while True:
                self._on_frames(self, await connection.deliveries())
        except CliError:
            return  # the end; everything that came before has been taken

    # -- mistreatment -------------------------------------------------------------------------------

    async def pause(self, seconds: float) -> None:
        """Read nothing from the network for some seconds."""
        self._valve.shut()
        await trio.sleep(seconds)
        self._valve.open()

    async def part(self, how: Parting) -> None:
        """End the connection; return when everything that had come has been taken."""
        if self.ended:
            return
        match how:
            case Parting.END:
                self.connection.end()
            case Parting.HALF:
                await self._shut_down()
            case Parting.RESET | Parting.DROP:
                await self._tear(reset=how is Parting.RESET)
        await self.wait_ended()

    async def wait_ended(self) -> None:
        """Wait for the end; help it along after :data:`END_PATIENCE`."""
        with trio.move_on_after(END_PATIENCE) as patience:
            await self._ended.wait()
        if patience.cancelled_caught:
            await self._tear(reset=True)
            await self._ended.wait()

    async def _shut_down(self) -> None:
        self._torn = True
        for tcp, _ in self._sockets:
            try:
                tcp.socket.shutdown(socket.SHUT_WR)
            except OSError:
                await self._tear(reset=False)  # a connection is gone already
                return

    async def _tear(self, *, reset: bool) -> None:
        self._torn = True
        self._valve.open()
        for tcp, _ in self._sockets:
            if reset and tcp.socket.fileno() >= 0:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        await self._close_sockets()

    async def _close_sockets(self) -> None:
        # Shielded, or a cancellation would leave all but the first one open; it never waits.
        with trio.CancelScope(shield=True):
            for _, tls in self._sockets:
                await trio.aclose_forcefully(tls)
