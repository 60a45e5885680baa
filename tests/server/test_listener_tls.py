"""From the listening socket to the stream: real TLS on 127.0.0.1."""

import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import h2.events
import pytest
import structlog.testing
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hyperframe.frame import GoAwayFrame

from commucat_server.listener import (
    ConnectStream,
    ListenerSettings,
    ShutdownSignal,
    StreamLostError,
    TlsConfigError,
    open_tcp,
    tls_context,
)
from commucat_server.listener.accept import _endpoint
from server.listener_builders import client_tls, running, write_certificate


async def test_streams_and_requests_over_tls(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.peer() as peer:
        stream_id = await peer.request()
        await peer.send(stream_id, b"x" * 1_500_000, end=True)
        assert (await peer.answer(stream_id))[2] == b"x" * 1_500_000
        other = await peer.request("/", end=True)
        assert (await peer.answer(other))[2] == b"hello"
        assert isinstance(peer.transport, trio.SSLStream)
        assert peer.transport.version() == "TLSv1.3"


async def test_handler_sees_the_peers_address(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    async def handler(stream: ConnectStream) -> None:
        seen.append((stream.remote_host, stream.remote_port))
        await stream.start(200, [])

    async with running(tmp_path, handler) as server, server.peer() as peer:
        await peer.answer(await peer.request())
        assert isinstance(peer.transport, trio.SSLStream)
        assert seen == [peer.transport.transport_stream.socket.getsockname()]


async def test_older_tls_is_refused(tmp_path: Path) -> None:
    context = client_tls("h2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(tmp_path) as server:
        tls = trio.SSLStream(await server.dial(), context, server_hostname="127.0.0.1")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await tls.do_handshake()
        assert "ALERT_PROTOCOL_VERSION" in str(caught.value.__cause__)
        await trio.aclose_forcefully(tls)


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h3", "http/1.1")])
async def test_without_h2_the_peer_is_served_http_1(tmp_path: Path, alpn: tuple[str, ...]) -> None:
    async with running(tmp_path) as server:
        tls = trio.SSLStream(await server.dial(), client_tls(*alpn), server_hostname="127.0.0.1")
        await tls.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        with trio.fail_after(60):
            while data := await tls.receive_some():
                answer += data
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"hello" in answer
        await trio.aclose_forcefully(tls)


async def test_h2_is_preferred(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        tls = trio.SSLStream(await server.dial(), client_tls("http/1.1", "h2"), server_hostname="127.0.0.1")
        await tls.do_handshake()
        assert tls.selected_alpn_protocol() == "h2"
        await trio.aclose_forcefully(tls)


async def test_plain_text_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        async with await server.dial() as tcp:
            await tcp.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with trio.fail_after(60):
                while await tcp.receive_some():
                    pass
        async with server.peer() as peer:
            assert (await peer.answer(await peer.request("/", end=True)))[0] == 200


async def test_silent_client_is_dropped_at_the_deadline(tmp_path: Path) -> None:
    settings = ListenerSettings(handshake_timeout=0.05)
    with structlog.testing.capture_logs() as logs:
        async with running(tmp_path, settings=settings) as server, await server.dial() as tcp:
            with trio.fail_after(60):
                assert await tcp.receive_some() == b""
    assert [entry["event"] for entry in logs] == ["tls handshake took too long"]


async def test_too_many_connections_are_closed_at_once(tmp_path: Path) -> None:
    settings = ListenerSettings(max_connections=2)
    with structlog.testing.capture_logs() as logs:
        async with running(tmp_path, settings=settings) as server, server.peer() as first, server.peer():
            for _ in range(3):
                async with await server.dial() as refused:
                    with trio.fail_after(60):
                        assert await refused.receive_some() == b""
            assert (await first.answer(await first.request("/", end=True)))[0] == 200
    refusals = [entry for entry in logs if entry["event"] == "too many connections"]
    assert [(entry["times"], entry["limit"]) for entry in refusals] == [(1, 2)]


async def test_room_is_free_again_after_a_connection(tmp_path: Path) -> None:
    async with running(tmp_path, settings=ListenerSettings(max_connections=1)) as server:
        for _ in range(5):
            async with server.peer() as peer:
                await peer.answer(await peer.request("/", end=True))
                await peer.transport.send_all(GoAwayFrame(0).serialize())
                await peer.until_closed()
            await trio.testing.wait_all_tasks_blocked()


def fail_first_accepts(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """As with exhausted descriptors."""
    left, accept = [times], socket.socket.accept

    def failing(listening: socket.socket) -> tuple[socket.socket, Any]:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", failing)


async def test_failed_accepts_do_not_end_the_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_first_accepts(monkeypatch, 3)
    settings = ListenerSettings(accept_backoff=0.001)
    with structlog.testing.capture_logs() as logs:
        async with running(tmp_path, settings=settings) as server, server.peer() as peer:
            assert (await peer.answer(await peer.request("/", end=True)))[0] == 200
    assert [entry["reason"] for entry in logs] == ["[Errno 24] Too many open files"]


async def test_shutdown_lets_streams_finish(tmp_path: Path) -> None:
    shutdowns: list[ShutdownSignal] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await shutdowns[0].wait()
        await stream.send(b"goodbye")

    async with running(tmp_path, handler) as server:
        shutdowns.append(server.shutdown)
        async with server.peer() as peer:
            stream_id = await peer.request(end=True)
            await peer.until(lambda: peer.count(h2.events.ResponseReceived))
            assert not server.shutdown.requested
            server.shutdown.request()
            # h2 itself would send nothing more after it has seen GOAWAY; answers still come.
            await peer.until(lambda: peer.ended(stream_id))
            assert peer.body(stream_id) == b"goodbye"
            await server.done.wait()
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            await server.dial()


async def test_shutdown_has_a_hard_deadline(tmp_path: Path) -> None:
    ended: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        try:
            await trio.sleep_forever()
        finally:
            ended.append("cancelled")

    settings = ListenerSettings(drain_timeout=0.05)
    async with running(tmp_path, handler, settings) as server, server.peer() as peer:
        await peer.request()
        await peer.until(lambda: peer.count(h2.events.ResponseReceived))
        server.shutdown.request()
        with trio.fail_after(60):
            await server.done.wait()
    assert ended == ["cancelled"]


async def test_shutdown_does_not_wait_for_handshakes(tmp_path: Path) -> None:
    settings = ListenerSettings(handshake_timeout=3600.0)
    async with running(tmp_path, settings=settings) as server, await server.dial() as tcp:
        await trio.testing.wait_all_tasks_blocked(0.01)
        server.shutdown.request()
        with trio.fail_after(60):
            await server.done.wait()
        assert await tcp.receive_some() == b""


async def test_killed_connection_is_a_lost_stream(tmp_path: Path) -> None:
    lost: list[str] = []
    over = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        try:
            await stream.receive()
        except StreamLostError as exc:
            lost.append(str(exc))
            over.set()
            raise

    async with running(tmp_path, handler) as server, server.peer() as peer:
        await peer.request()
        await peer.until(lambda: peer.count(h2.events.ResponseReceived))
        assert isinstance(peer.transport, trio.SSLStream)
        tcp = peer.transport.transport_stream
        # No close_notify, and RST instead of FIN.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        tcp.socket.close()
        with trio.fail_after(60):
            await over.wait()
    assert lost == ["connection lost"]


async def test_cancelled_server_leaves_nothing_open(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with running(tmp_path) as server, server.peer() as peer:
            await peer.request()
            await peer.until(lambda: peer.count(h2.events.ResponseReceived))
            listeners = server.listeners
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert all(listener.socket.fileno() == -1 for listener in listeners)


async def test_port_in_use_is_an_os_error() -> None:
    [listener] = await open_tcp("127.0.0.1", 0)
    async with listener:
        with pytest.raises(OSError, match="in use"):
            await open_tcp("127.0.0.1", listener.socket.getsockname()[1])


async def test_unknown_host_is_an_os_error() -> None:
    with pytest.raises(OSError):  # noqa: PT011 - the text is the resolver's
        await open_tcp("no-such-host.invalid", 0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (("127.0.0.1", 80), ("127.0.0.1", 80)),
        (("::ffff:192.0.2.5", 80, 0, 0), ("192.0.2.5", 80)),
        (("2001:db8::1", 80, 0, 0), ("2001:db8::1", 80)),
        (("fe80::1%eth0", 80, 0, 2), ("fe80::1", 80)),
    ],
)
def test_addresses_have_one_form(name: tuple[Any, ...], shown: tuple[str, int]) -> None:
    assert _endpoint(name) == shown


# Certificates


def test_missing_file_is_named(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    with pytest.raises(TlsConfigError, match=r"certificate .*absent\.pem: No such file"):
        tls_context(tmp_path / "absent.pem", key)
    with pytest.raises(TlsConfigError, match=r"private key .*absent\.pem: No such file"):
        tls_context(cert, tmp_path / "absent.pem")
    with pytest.raises(TlsConfigError, match="Is a directory"):
        tls_context(tmp_path, key)


def new_key(encryption: serialization.KeySerializationEncryption) -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def test_foreign_key_is_named(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    key.write_bytes(new_key(serialization.NoEncryption()))
    with pytest.raises(TlsConfigError, match="does not belong to") as caught:
        tls_context(cert, key)
    assert "\n" not in str(caught.value)


def test_protected_key_is_named_instead_of_asking(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    key.write_bytes(new_key(serialization.BestAvailableEncryption(b"secret")))
    with pytest.raises(TlsConfigError, match="passphrase"):
        tls_context(cert, key)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    cert, key = write_certificate(tmp_path)
    good = cert.read_bytes()
    cert.write_bytes(content)
    with pytest.raises(TlsConfigError, match="not valid"):
        tls_context(cert, key)
    cert.write_bytes(good)
    key.write_bytes(content)
    with pytest.raises(TlsConfigError, match="not valid"):
        tls_context(cert, key)
