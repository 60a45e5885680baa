"""Our end of a TCP connection, and writes that do not wait: order, full buffers, ends of every kind."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from commucat_server.listener import tls_context
from commucat_server.listener.stream import ConnectStream
from commucat_server.listener.tcp_stream import TcpStream
from commucat_server.listener.tls_stream import TlsStream
from server.listener_builders import Peer, client_tls, detached, h2_connection, write_certificate

LARGE = b"0123456789abcdef" * 500_000
"""More than the buffers of both kernels take."""


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[trio.SocketStream, TcpStream]]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.testing.open_stream_to_socket_listener(listener)
        server = TcpStream(detached(await listener.accept()))
    async with client, server:
        yield client, server


async def read(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = bytearray()
    with trio.fail_after(20):
        while len(received) < size:
            received += await stream.receive_some(65_536)
    return bytes(received)


async def test_bytes_pass_both_ways() -> None:
    async with connected() as (client, server):
        assert server.send_now(b"at once")
        await server.send_all(b", and then")
        assert await read(client, 17) == b"at once, and then"
        await client.send_all(b"back")
        assert await server.receive_some(2) == b"ba"
        assert await server.receive_some() == b"ck"
        await client.send_eof()
        assert await server.receive_some() == b""


async def test_what_the_kernel_does_not_take_goes_first_at_the_next_write() -> None:
    async with connected() as (client, server):
        assert not server.send_now(LARGE)
        assert not server.send_now(b"second")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send_all, b"third")
            assert await read(client, len(LARGE) + 11) == LARGE + b"secondthird"
        assert server.send_now(b"free again")


async def test_little_waits_in_the_kernel_for_a_peer_that_does_not_read() -> None:
    """Media would grow old there, and messages come behind them; else the kernel takes 4 MB."""
    async with connected() as (_, server):
        sent = 0
        while server.send_now(bytes(1_200)):
            sent += 1_200

        assert sent < 512 * 1024


async def test_a_peer_that_is_gone_breaks_reads_and_writes() -> None:
    async with connected() as (client, server):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.socket.close()
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            server.send_now(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"x")


async def test_closing_ends_a_read_and_refuses_more() -> None:
    async with connected() as (_, server), trio.open_nursery() as nursery:
        ended = trio.Event()

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await server.receive_some()
            ended.set()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        server.close()
        server.close()
        await ended.wait()
        for refused in (server.receive_some, partial(server.send_all, b"x")):
            with pytest.raises(trio.ClosedResourceError):
                await refused()
        with pytest.raises(trio.ClosedResourceError):
            server.send_now(b"x")


# -- under TLS and HTTP/2 --------------------------------------------------------------------------


@attrs.define
class Secured:
    client: trio.SSLStream[trio.SocketStream]
    tcp: TcpStream
    server: TlsStream


@asynccontextmanager
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    async with connected() as (client_end, tcp):
        client = trio.SSLStream(client_end, client_tls("h2"), server_hostname="localhost")
        server = TlsStream(tcp, tls_context(*write_certificate(tmp_path)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            await server.do_handshake()
        yield Secured(client, tcp, server)


async def test_tls_keeps_the_order_and_counts_what_the_kernel_has(tmp_path: Path) -> None:
    async with secured(tmp_path) as test:
        assert test.server.send_now(b"first")
        before = test.server.sent_bytes
        assert not test.server.send_now(LARGE)
        assert not test.server.send_now(b"second")
        assert test.server.sent_bytes == before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(test.server.send_all, b"")
            assert await read(test.client, len(LARGE) + 11) == b"first" + LARGE + b"second"
        assert test.server.sent_bytes > before + len(LARGE) + 6


async def test_a_stream_whose_peer_stops_reading_keeps_its_bytes_in_order(tmp_path: Path) -> None:
    """The inline write, the write that the kernel takes in part, and the writer task, one after the other."""
    pieces = [b"%07d," % number * 4_096 for number in range(400)]
    refused = 0

    async def handler(stream: ConnectStream) -> None:
        nonlocal refused
        await stream.start(200, [])
        await stream.receive()
        for piece in pieces:
            if not stream.send_now(piece):
                refused += 1
                await stream.send(piece)
        await stream.end()

    async with secured(tmp_path) as test, trio.open_nursery() as nursery:
        connection = h2_connection(test.server, handler)
        nursery.start_soon(connection.serve)
        peer = Peer(test.client)
        await peer.begin()
        peer.protocol.increment_flow_control_window(2**30)
        stream_id = await peer.request()
        peer.protocol.increment_flow_control_window(2**30, stream_id)
        await peer.send(stream_id, b"go")
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(20):
            _, _, body = await peer.answer(stream_id)
        assert body == b"".join(pieces)
        assert refused
        nursery.cancel_scope.cancel()


async def test_a_connection_that_breaks_in_a_write_is_lost_for_its_streams(tmp_path: Path) -> None:
    lost: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.receive()
        test.tcp.socket.shutdown(socket.SHUT_WR)
        stream.send_now(b"nobody gets this")
        try:
            await stream.receive()
        except Exception as exc:
            lost.append(type(exc).__name__)
            raise

    async with secured(tmp_path) as test, trio.open_nursery() as nursery:
        connection = h2_connection(test.server, handler)
        served = trio.Event()

        async def serve() -> None:
            await connection.serve()
            served.set()

        nursery.start_soon(serve)
        peer = Peer(test.client)
        await peer.begin()
        await peer.send(await peer.request(), b"go")
        with trio.fail_after(20):
            await served.wait()
    assert lost == ["StreamLostError"]
