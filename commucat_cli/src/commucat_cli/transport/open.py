"""From a server's address to a running HTTP/2 connection, with a deadline on each step."""

import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
from commucat_cli.transport.h2_client import H2Client
from commucat_cli.transport.trust import Trust, client_context


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
) -> AsyncIterator[H2Client]:
    """Connect, and run the connection as long as the block lasts.

    Raises:
        UnknownHostError, UnreachableError, TrustError, NotCommuCatError, ConnectionLostError.
    """
    context = client_context(trust)
    tcp = await _connect_tcp(address, timeouts.connect)
    tls = trio.SSLStream(tcp, context, server_hostname=address.host, https_compatible=True)
    try:
        await _do_tls_handshake(tls, address, trust, timeouts.tls)
        async with running(H2Client(tls, address.authority), timeouts) as client:
            yield client
    finally:
        # HTTP/2 says goodbye by itself; waiting for TLS to do so as well would add a round trip.
        await trio.aclose_forcefully(tls)


@asynccontextmanager
async def running(client: H2Client, timeouts: Timeouts) -> AsyncIterator[H2Client]:
    """Run a client's tasks as long as the block lasts; its exceptions come out as they are."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(client.keep_alive, timeouts.quiet, timeouts.sign_of_life)
        try:
            yield client
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery's group
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


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
    if tls.selected_alpn_protocol() != "h2":
        raise NotCommuCatError(f"{where} does not offer HTTP/2; it is no CommuCat server")


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
            return NotCommuCatError(f"{where} does not offer HTTP/2; it is no CommuCat server")
        return NotCommuCatError(
            f"{where} does not speak TLS as a CommuCat server does ({cause.reason or cause})"
        )
    return ConnectionLostError(f"{where} closed the connection during the TLS handshake")
