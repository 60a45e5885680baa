"""From a server's address to a running HTTP connection, with a deadline on each step."""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from commucat_cli.errors import (
    CliError,
    ConnectionLostError,
    NotCommuCatError,
    TrustError,
    UnknownHostError,
    UnreachableError,
)
from commucat_cli.transport.address import ServerAddress
from commucat_cli.transport.h1_client import H1Client
from commucat_cli.transport.h2_client import H2Client
from commucat_cli.transport.stream import HttpClient
from commucat_cli.transport.tasks import alongside
from commucat_cli.transport.trust import HTTP1, HTTP2, Trust, client_context
from commucat_cli.transport.via import Via

AnyClient = TypeVar("AnyClient", bound=HttpClient)


@attrs.frozen(kw_only=True)
class Timeouts:
    """Seconds to wait for a server at each step."""

    connect: float = 10.0
    """TCP, over all addresses of the host."""
    tls: float = 10.0
    handshake: float = 15.0
    """From the request to ``/connect`` to the final Ack."""
    request: float = 15.0
    """A REST request."""
    close: float = 2.0
    """The end of a session, until the server has taken everything."""
    quiet: float = 60.0
    """Silence after which the server is asked for a sign of life."""
    sign_of_life: float = 20.0


@asynccontextmanager
async def open_h2(
    address: ServerAddress,
    trust: Trust,
    timeouts: Timeouts = Timeouts(),
    via: Via = Via.BINARY,
) -> AsyncIterator[H2Client]:
    """Connect, and run the connection as long as the block lasts.

    Raises:
        UnknownHostError, UnreachableError, TrustError, NotCommuCatError, ConnectionLostError.
    """
    tls = await open_tls(address, trust, timeouts, [HTTP2])
    async with closing(tls), running(H2Client(tls, address.authority, via), timeouts) as client:
        yield client


@asynccontextmanager
async def open_http(
    address: ServerAddress,
    trust: Trust,
    via: Via,
    timeouts: Timeouts = Timeouts(),
) -> AsyncIterator[HttpClient]:
    """Connect in the way that ``via`` needs, and run the connection as long as the block lasts.

    Raises:
        UnknownHostError, UnreachableError, TrustError, NotCommuCatError, ConnectionLostError.
    """
    protocols = [HTTP2, HTTP1] if via is Via.AUTO else [HTTP1 if via.http1 else HTTP2]
    tls = await open_tls(address, trust, timeouts, protocols)
    if via is Via.AUTO:
        via = Via.BINARY if tls.selected_alpn_protocol() == HTTP2 else Via.WEBSOCKET
    # The first connection shows at once whether there is a server; over HTTP/1.1 others follow it.
    first: list[trio.SSLStream[trio.SocketStream]] = [tls]

    async def dial() -> trio.abc.Stream:
        return first.pop() if first else await open_tls(address, trust, timeouts, [HTTP1])

    client: HttpClient = (
        H1Client(dial, address.authority, via) if via.http1 else H2Client(tls, address.authority, via)
    )
    async with closing(tls), running(client, timeouts):
        yield client


@asynccontextmanager
async def closing(stream: trio.abc.AsyncResource) -> AsyncIterator[None]:
    """Close it at the end of the block, without a word: HTTP says goodbye by itself."""
    try:
        yield
    finally:
        # Shielded, as closing is a checkpoint; it never waits.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def running(client: AnyClient, timeouts: Timeouts) -> AsyncIterator[AnyClient]:
    """Run a client's tasks as long as the block lasts; its exceptions come out as they are."""
    keep_alive = partial(client.keep_alive, timeouts.quiet, timeouts.sign_of_life)
    async with alongside(client.run, keep_alive):
        yield client


async def open_tls(
    address: ServerAddress, trust: Trust, timeouts: Timeouts, protocols: Sequence[str]
) -> "trio.SSLStream[trio.SocketStream]":
    """One connection, encrypted, with one of these ALPN protocols agreed upon.

    Raises:
        UnknownHostError, UnreachableError, TrustError, NotCommuCatError, ConnectionLostError.
    """
    context = client_context(trust, protocols)
    tcp = await _connect_tcp(address, timeouts.connect)
    _watch_network(tcp, timeouts)
    tls = trio.SSLStream(tcp, context, server_hostname=address.host, https_compatible=True)
    try:
        await _do_tls_handshake(tls, address, trust, timeouts.tls)
        _check_protocol(tls, address, protocols)
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    return tls


def _watch_network(tcp: trio.SocketStream, timeouts: Timeouts) -> None:
    """Let the system find a dead network: HTTP/1.1 has nothing to ask for a sign of life with."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    limit = int(timeouts.quiet + timeouts.sign_of_life)
    # The names are those of Linux; elsewhere the system's own patience has to do.
    for name, value in (
        ("TCP_KEEPIDLE", max(1, int(timeouts.quiet))),
        ("TCP_KEEPINTVL", max(1, int(timeouts.sign_of_life / 4))),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", limit * 1000),
    ):
        if (option := getattr(socket, name, None)) is not None:
            tcp.setsockopt(socket.IPPROTO_TCP, option, value)


def _check_protocol(
    tls: "trio.SSLStream[trio.SocketStream]", address: ServerAddress, protocols: Sequence[str]
) -> None:
    agreed = tls.selected_alpn_protocol()
    # Without ALPN it is HTTP/1.1 (RFC 9112, section 9.7): middle boxes often know none.
    if agreed in protocols or (agreed is None and HTTP1 in protocols):
        return
    if HTTP1 in protocols:
        raise NotCommuCatError(f"{address.authority} does not offer HTTP/1.1; try another --via")
    raise NotCommuCatError(
        f"{address.authority} does not offer HTTP/2; it is no CommuCat server, "
        "or something in between lets only HTTP/1.1 through: try --via websocket"
    )


async def _connect_tcp(address: ServerAddress, patience: float) -> trio.SocketStream:
    where = address.authority
    try:
        with trio.fail_after(patience):
            # Sets TCP_NODELAY, without which small messages wait for the peer's delayed ACK.
            return await trio.open_tcp_stream(address.host, address.port)
    except trio.TooSlowError as exc:
        raise UnreachableError(f"{where} does not answer within {patience:g} s") from exc
    except (socket.gaierror, UnicodeError) as exc:
        if isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN:
            raise UnreachableError(f"the name service does not answer for {address.host!r}") from exc
        raise UnknownHostError(f"there is no host {address.host!r}; check the server's address") from exc
    except OSError as exc:
        raise UnreachableError(
            f"cannot connect to {where}: {_reason(exc)}; is the server running there?"
        ) from exc


def _reason(exc: OSError) -> str:
    """The system's words; trio puts them into a group below its own summary."""
    cause = exc.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else exc
    return (os.strerror(found.errno) if found.errno else str(found)).lower()


async def _do_tls_handshake(
    tls: "trio.SSLStream[trio.SocketStream]", address: ServerAddress, trust: Trust, patience: float
) -> None:
    where = address.authority
    try:
        with trio.fail_after(patience):
            await tls.do_handshake()
    except trio.TooSlowError as exc:
        raise UnreachableError(
            f"{where} accepts connections but does not answer within {patience:g} s"
        ) from exc
    except trio.BrokenResourceError as exc:
        raise tls_failure(exc.__cause__, address, trust) from exc


def tls_failure(cause: BaseException | None, address: ServerAddress, trust: Trust) -> CliError:
    """What a failed TLS handshake means to a person."""
    where = address.authority
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH
            return TrustError(
                f"the certificate of {where} is not for {address.host!r}; use a name that stands in it"
            )
        remedy = (
            "is it the right file?"
            if trust.ca_file is not None
            else "give the server's authority with --tls-ca FILE"
        )
        return TrustError(
            f"the server's certificate is not trusted by {trust.described}; {remedy} ({cause.verify_message})"
        )
    # A hang-up is one of these two, or no TLS error at all, depending on the version of Python.
    hung_up = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    if isinstance(cause, ssl.SSLError) and not hung_up:
        reason = (cause.reason or "").upper()
        if "VERSION" in reason or "PROTOCOL" in reason:
            return NotCommuCatError(f"{where} does not speak TLS 1.3")
        if "ALPN" in reason or "APPLICATION_PROTOCOL" in reason:
            return NotCommuCatError(f"{where} does not offer the HTTP that was asked for; try another --via")
        return NotCommuCatError(
            f"{where} does not speak TLS as a CommuCat server does ({cause.reason or cause})"
        )
    return ConnectionLostError(f"{where} closed the connection during the TLS handshake")
