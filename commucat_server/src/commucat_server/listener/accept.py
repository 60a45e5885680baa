"""From a listening socket to a served connection: accept, TLS handshake, choice of the protocol."""

import contextlib
import ipaddress
import math
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import structlog
import trio

from commucat_server.listener.asgi import AsgiApp
from commucat_server.listener.h1_connection import H1Connection
from commucat_server.listener.h1_progress import TcpProgress
from commucat_server.listener.h2_connection import H2Connection
from commucat_server.listener.outflow import Outflow
from commucat_server.listener.proxy_protocol import ProxyHeaderError, read_proxy_header
from commucat_server.listener.settings import ListenerSettings
from commucat_server.listener.shutdown import ShutdownSignal
from commucat_server.listener.stream import ConnectHandler
from commucat_server.listener.tcp_stream import TcpStream
from commucat_server.listener.tls import TlsIdentity
from commucat_server.listener.tls_stream import TlsStream
from commucat_server.listener.turnstile import Step, Turnstile

_log = structlog.get_logger("commucat.listener")
_PROBES = 4


async def open_tcp(
    host: str, port: int, backlog: int = 4096, *, given: Sequence[socket.socket] = ()
) -> list[trio.SocketListener]:
    """Listen on every address of ``host``, unless sockets are ``given`` that listen already.

    Args:
        host: name or address; IPv6 without brackets.
        port: 0 lets the system choose.
        backlog: connections that may wait for us to accept them; the system may allow fewer.

    Raises:
        OSError: the port is in use, or there is no such host; for the caller to explain.
    """
    if given:
        return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in given]
    return await trio.open_tcp_listeners(port, host=host, backlog=backlog)


async def serve_listeners(
    listeners: list[trio.SocketListener],
    ssl_context: ssl.SSLContext | TlsIdentity,
    settings: ListenerSettings,
    *,
    connect_handler: ConnectHandler,
    asgi_app: AsgiApp,
    shutdown: ShutdownSignal,
    state: Mapping[str, Any] | None = None,
    turnstile: Turnstile | None = None,
    outflow: Outflow | None = None,
    is_proxy: Callable[[str], bool] | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve connections until ``shutdown`` is requested and they have come to an end.

    At shutdown the listening sockets are closed and every connection is told to end (GOAWAY, or
    ``connection: close``). Requests finish;
    ``/connect`` handlers watch ``shutdown`` and end their streams by themselves; what is left after
    ``settings.drain_timeout`` is cancelled.

    Args:
        listeners: listening sockets; closed at the end.
        ssl_context: from ``tls_context``; as :class:`TlsIdentity` it may be changed meanwhile.
        settings: limits and deadlines.
        connect_handler: called with each stream whose path is ``/connect`` or ``/p2p``.
        asgi_app: answers all other requests.
        shutdown: ends it all.
        state: what ``asgi_lifespan`` yielded.
        turnstile: shared with whoever else has costly steps of newcomers.
        outflow: shared with whoever makes many connections send at once.
        is_proxy: asked with the peer's address: whether it must begin with a header of the PROXY protocol.
        task_status: told the listeners as soon as they accept.
    """
    turnstile = turnstile or Turnstile()
    identity = TlsIdentity(ssl_context) if isinstance(ssl_context, ssl.SSLContext) else ssl_context
    acceptor = _Acceptor(
        identity,
        settings,
        connect_handler,
        asgi_app,
        state,
        shutdown,
        turnstile,
        outflow or Outflow(),
        is_proxy,
    )
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(acceptor.accept_loop, listener, connections)
                task_status.started(listeners)
                await shutdown.wait()
                accepting.cancel_scope.cancel()
            for listener in listeners:
                listener.socket.close()
            connections.cancel_scope.deadline = trio.current_time() + settings.drain_timeout
            acceptor.drain()
    finally:
        for listener in listeners:
            listener.socket.close()


@attrs.define
class _Acceptor:
    """What all connections share, and which are open."""

    identity: TlsIdentity
    settings: ListenerSettings
    connect_handler: ConnectHandler
    asgi_app: AsgiApp
    state: Mapping[str, Any] | None
    shutdown: ShutdownSignal
    turnstile: Turnstile
    outflow: Outflow
    is_proxy: Callable[[str], bool] | None
    open: int = 0
    """Connections, handshakes included."""
    connections: set[H1Connection | H2Connection] = attrs.Factory(set)
    newcomers: set[trio.CancelScope] = attrs.Factory(set)
    """Of connections that speak no HTTP yet, for as long as they wait for their peers."""
    refusals: "_Report" = attrs.Factory(lambda: _Report("too many connections"))
    headers: "_Report" = attrs.Factory(lambda: _Report("a proxy sent no proper PROXY header"))
    failures: "_Report" = attrs.Factory(lambda: _Report("accept failed"))

    async def accept_loop(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        # A second descriptor of the same socket: Trio's makes three objects of each connection, and a turn of
        # the scheduler.
        with socket.socket(fileno=os.dup(listener.socket.fileno())) as listening:
            listening.setblocking(False)
            while True:
                await trio.lowlevel.wait_readable(listening)
                await self.accept_waiting(listening, nursery)

    async def accept_waiting(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        """Take what the kernel has, as fast as those who were taken before leave time for it."""
        while True:
            await self.turnstile.turn(Step.ACCEPT)
            try:
                accepted, address = listening.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                # Descriptors or memory are exhausted: it may pass, so the listener lives on.
                self.failures.count(self.settings.report_interval, reason=str(exc))
                await trio.sleep(self.settings.accept_backoff)
                continue
            if self.open >= self.settings.max_connections:
                self.refusals.count(self.settings.report_interval, limit=self.settings.max_connections)
                accepted.close()
                continue
            self.open += 1
            nursery.start_soon(self.serve, accepted, address)

    async def serve(self, accepted: socket.socket, address: tuple[Any, ...]) -> None:
        """The top of one connection's task: whatever fails here fails for this peer alone."""
        try:
            with accepted, contextlib.closing(TcpStream(accepted, self.outflow)) as stream:
                remote, local = _endpoint(address), _endpoint(accepted.getsockname())
                _probe_when_silent(accepted, self.settings.tcp_keepalive)
                if self.is_proxy is not None and self.is_proxy(remote[0]):
                    client = await self.client_of(stream, remote)
                    if client is None:
                        return
                    remote = client
                transport = TlsStream(stream, self.identity.context)
                if await self.handshake(transport, remote):
                    await self.turnstile.turn(Step.HTTP)
                    await self.serve_http(stream, transport, remote, local)
        except OSError as exc:
            _log.debug("connection lost before it began", reason=str(exc))
        except Exception as exc:  # noqa: BLE001 - the top of this task
            _log.error("connection failed", exc_info=exc)
        finally:
            self.open -= 1

    async def client_of(self, stream: TcpStream, proxy: tuple[str, int]) -> tuple[str, int] | None:
        """Whom the proxy passes on, or the proxy itself; None if it does not say so properly and in time."""
        reason = "too slow"
        with self.newcomer() as scope:
            try:
                return await read_proxy_header(stream) or proxy
            except (ProxyHeaderError, trio.BrokenResourceError) as exc:
                reason = str(exc)
            finally:
                self.newcomers.discard(scope)
        if self.shutdown.requested:
            return None
        self.headers.count(self.settings.report_interval, proxy=proxy[0], reason=reason)
        return None

    def newcomer(self) -> trio.CancelScope:
        """A deadline for what comes before HTTP; with the server's end it is over. It is for the caller to
        discard from ``newcomers``."""
        scope = trio.CancelScope(deadline=trio.current_time() + self.settings.handshake_timeout)
        if self.shutdown.requested:
            scope.cancel()  # It was accepted in the moment in which the others were told.
        self.newcomers.add(scope)
        return scope

    async def handshake(self, transport: TlsStream, remote: tuple[str, int]) -> bool:
        """Whether the peer now speaks TLS with us. Without ALPN it speaks HTTP/1.1."""
        with self.newcomer() as scope:
            try:
                await transport.do_handshake(partial(self.turnstile.turn, Step.TLS, scope))
            except trio.BrokenResourceError as exc:
                _log.debug("tls handshake failed", remote=remote[0], reason=str(exc.__cause__ or exc))
                return False
            finally:
                self.newcomers.discard(scope)
        if scope.cancelled_caught:
            _log.debug("tls handshake took too long", remote=remote[0])
            return False
        return not self.shutdown.requested

    async def serve_http(
        self,
        stream: TcpStream,
        transport: TlsStream,
        remote: tuple[str, int],
        local: tuple[str, int],
    ) -> None:
        connection: H1Connection | H2Connection
        if transport.protocol == "h2":
            connection = H2Connection(
                transport,
                self.settings,
                remote=remote,
                local=local,
                connect_handler=self.connect_handler,
                asgi_app=self.asgi_app,
                state=self.state,
            )
        else:
            connection = H1Connection(
                transport,
                self.settings,
                progress=TcpProgress(stream, transport),
                remote=remote,
                local=local,
                connect_handler=self.connect_handler,
                asgi_app=self.asgi_app,
                state=self.state,
            )
        self.connections.add(connection)
        if self.shutdown.requested:
            # It has waited for its turn since, and was not there when the others were told.
            connection.go_away()
        try:
            await connection.serve()
        finally:
            self.connections.discard(connection)

    def drain(self) -> None:
        """Ask every connection to end."""
        for scope in self.newcomers:
            scope.cancel()
        for connection in self.connections:
            connection.go_away()


@attrs.define
class _Report:
    """Logs something that happens often at most once per interval, with how often it did."""

    event: str
    count_since: int = 0
    next_at: float = -math.inf

    def count(self, interval: float, **details: str | int) -> None:
        self.count_since += 1
        now = trio.current_time()
        if now >= self.next_at:
            _log.warning(self.event, times=self.count_since, **details)
            self.count_since, self.next_at = 0, now + interval


def _endpoint(name: tuple[Any, ...]) -> tuple[str, int]:
    host, port = str(name[0]), int(name[1])
    if ":" in host:
        # A scope such as %eth0 is no part of the address, and IPv4 must look the same on both sockets.
        address = ipaddress.IPv6Address(host.partition("%")[0])
        host = str(address.ipv4_mapped or address)
    return host, port


def _probe_when_silent(connection: socket.socket, idle: int) -> None:
    """Let the kernel find out that a peer has vanished."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // _PROBES))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
