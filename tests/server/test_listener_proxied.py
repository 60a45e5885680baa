"""The listener behind a proxy that speaks the PROXY protocol, and with a certificate that changes."""

import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from commucat_server.listener import (
    ConnectStream,
    ListenerSettings,
    ShutdownSignal,
    TlsIdentity,
    open_tcp,
    serve_listeners,
    tls_context,
)
from commucat_server.provision.certificate import self_signed
from server.listener_builders import Peer, hello_app, peer_on, write_certificate

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"


def another_certificate(folder: Path) -> tuple[Path, Path]:
    """Not the one that all tests of the listener share."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate, private = folder / "another.pem", folder / "another.key"
    certificate.write_bytes(self_signed(key=key, domain="localhost", bind_host="127.0.0.1", now=now))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    private.write_bytes(pem)
    return certificate, private


@attrs.define
class Proxied:
    port: int
    identity: TlsIdentity
    seen: list[tuple[str, int]] = attrs.Factory(list)

    @asynccontextmanager
    async def peer(self, before: bytes = b"") -> AsyncIterator[Peer]:
        tcp = await trio.open_tcp_stream("127.0.0.1", self.port)
        await tcp.send_all(before)
        async with peer_on(tcp) as peer:
            yield peer

    async def certificate(self) -> x509.Certificate:
        """What a new connection is shown."""
        unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        tls = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", self.port), unchecked)
        await tls.do_handshake()
        shown = tls.getpeercert(binary_form=True)
        await trio.aclose_forcefully(tls)
        return x509.load_der_x509_certificate(shown)


@asynccontextmanager
async def proxied(folder: Path, *, trusted: bool, patience: float = 10.0) -> AsyncIterator[Proxied]:
    shutdown = ShutdownSignal()
    listeners = await open_tcp("127.0.0.1", 0)
    identity = TlsIdentity(tls_context(*write_certificate(folder)))
    server = Proxied(listeners[0].socket.getsockname()[1], identity)

    async def handler(stream: ConnectStream) -> None:
        server.seen.append((stream.remote_host, stream.remote_port))
        await stream.start(200, [])
        await stream.end()

    async def run(task_status: trio.TaskStatus[Any]) -> None:
        await serve_listeners(
            listeners,
            identity,
            ListenerSettings(handshake_timeout=patience),
            connect_handler=handler,
            asgi_app=hello_app,
            shutdown=shutdown,
            is_proxy=lambda host: trusted and host == "127.0.0.1",
            task_status=task_status,
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield server
        shutdown.request()


async def test_a_stream_has_the_address_that_the_proxy_names(tmp_path: Path) -> None:
    async with proxied(tmp_path, trusted=True) as server:
        async with server.peer(HEADER) as peer:
            await peer.answer(await peer.request())
        async with server.peer(b"PROXY UNKNOWN\r\n") as peer:
            await peer.answer(await peer.request())

    assert server.seen[0] == ("192.0.2.7", 40000)
    assert server.seen[1][0] == "127.0.0.1"


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192.0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"])
async def test_a_header_that_does_not_come_to_its_end_is_not_waited_for(tmp_path: Path, sent: bytes) -> None:
    with capture_logs() as lines:
        async with proxied(tmp_path, trusted=True, patience=0.05) as server:
            tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
            # Of bytes that it had not read the kernel makes a reset.
            async with tcp:
                with trio.fail_after(60), contextlib.suppress(trio.BrokenResourceError):
                    await tcp.send_all(sent)
                    assert await tcp.receive_some(1) == b""

    [line] = [line for line in lines if line["event"] == "a proxy sent no proper PROXY header"]
    assert (line["proxy"], line["reason"], line["times"]) == ("127.0.0.1", "too slow", 1)


async def test_many_bad_headers_are_one_line(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with proxied(tmp_path, trusted=True) as server:
            for _ in range(20):
                tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
                async with tcp:
                    await tcp.send_all(b"GET / HTTP/1.1\r\n\r\n")
                    with trio.fail_after(30):
                        # What it had not read may make the kernel reset it.
                        with contextlib.suppress(trio.BrokenResourceError):
                            assert await tcp.receive_some(1) == b""

    assert len([line for line in lines if "PROXY" in line["event"]]) == 1


async def test_who_is_no_proxy_speaks_tls_at_once(tmp_path: Path) -> None:
    async with proxied(tmp_path, trusted=False) as server:
        async with server.peer() as peer:
            await peer.answer(await peer.request())
        with pytest.raises(trio.BrokenResourceError):
            async with server.peer(HEADER):
                pass

    assert [host for host, _ in server.seen] == ["127.0.0.1"]


async def test_another_certificate_holds_for_connections_that_come_later(tmp_path: Path) -> None:
    async with proxied(tmp_path, trusted=False) as server:
        before = await server.certificate()
        async with server.peer() as peer:
            server.identity.context = tls_context(*another_certificate(tmp_path))
            assert (await server.certificate()).serial_number != before.serial_number
            # The connection that was open goes on.
            await peer.answer(await peer.request())
