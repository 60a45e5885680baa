"""Our end of TLS against Trio's, and against what no TLS peer sends."""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commucat_server.listener import tls_context
from commucat_server.listener.tls_stream import TlsStream
from server.listener_builders import client_tls, write_certificate

Client = trio.SSLStream[trio.abc.Stream]


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    return tls_context(*write_certificate(tmp_path))


@asynccontextmanager
async def connected(
    context: ssl.SSLContext, *, lockstep: bool = False
) -> AsyncIterator[tuple[Client, TlsStream]]:
    pair = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
    client = trio.SSLStream(pair[0], client_tls("h2"), server_hostname="localhost")
    server = TlsStream(pair[1], context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        await server.do_handshake()
    yield client, server
    await trio.aclose_forcefully(client)
    await trio.aclose_forcefully(server)


async def test_megabytes_pass_both_ways_at_once(context: ssl.SSLContext) -> None:
    data = os.urandom(2_000_000)
    received: dict[str, bytes] = {}

    async def collect(name: str, stream: trio.abc.Stream) -> None:
        received[name] = b""
        while len(received[name]) < len(data):
            received[name] += await stream.receive_some(65_536)

    async with connected(context, lockstep=True) as (client, server):
        assert server.protocol == "h2"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, "client", client)
            nursery.start_soon(collect, "server", server)
            nursery.start_soon(client.send_all, data)
            nursery.start_soon(server.send_all, data)
    assert received["client"] == received["server"] == data


async def test_one_read_returns_all_records_that_arrived(context: ssl.SSLContext) -> None:
    async with connected(context) as (client, server):
        for number in range(10):
            await client.send_all(b"%d" % number)
        assert await server.receive_some() == b"0123456789"


async def test_limit_of_a_read_is_kept_to_a_record(context: ssl.SSLContext) -> None:
    async with connected(context) as (client, server):
        for _ in range(10):
            await client.send_all(b"x" * 1_000)
        assert len(await server.receive_some(2_500)) == 3_000
        assert len(await server.receive_some()) == 7_000


async def test_polite_end_follows_the_last_bytes(context: ssl.SSLContext) -> None:
    async with connected(context) as (client, server):
        await client.send_all(b"last")
        await client.aclose()
        assert await server.receive_some() == b"last"
        assert await server.receive_some() == b""
        assert await server.receive_some() == b""


async def test_abrupt_end_is_an_end(context: ssl.SSLContext) -> None:
    async with connected(context) as (client, server):
        await client.send_all(b"last")
        await client.transport_stream.aclose()
        assert await server.receive_some() == b"last"
        assert await server.receive_some() == b""


async def test_peer_is_told_of_our_end(context: ssl.SSLContext) -> None:
    async with connected(context) as (client, server):
        await server.send_all(b"last")
        await server.aclose()
        assert await client.receive_some() == b"last"
        # Trio's stream raises at an end without close_notify.
        assert await client.receive_some() == b""


async def test_garbage_breaks_the_connection(context: ssl.SSLContext) -> None:
    async with connected(context) as (client, server):
        await client.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"\0" * 32)
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"x")


async def test_cancelled_write_is_the_last(context: ssl.SSLContext) -> None:
    async with connected(context, lockstep=True) as (_, server):
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.send_all(b"x")
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"y")


async def test_cancelled_read_loses_nothing(context: ssl.SSLContext) -> None:
    async with connected(context) as (client, server):
        await client.send_all(b"here")
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.receive_some()
        assert scope.cancelled_caught
        assert await server.receive_some() == b"here"


async def test_closing_is_not_held_up_for_ever(
    context: ssl.SSLContext, autojump_clock: trio.testing.MockClock
) -> None:
    async with connected(context, lockstep=True) as (client, server):
        with trio.move_on_after(3) as scope:
            await server.aclose()
        assert scope.cancelled_caught
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await client.transport_stream.send_all(b"x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_instead_of_a_handshake_are_refused(
    context: ssl.SSLContext, garbage: bytes, record: bool
) -> None:
    async def main() -> None:
        client, transport = trio.testing.memory_stream_pair()
        header = b"\x16\x03\x01" + len(garbage).to_bytes(2, "big") if record else b""
        await client.send_all(header + garbage)
        assert isinstance(client, trio.StapledStream)
        await client.send_stream.aclose()
        server = TlsStream(transport, context)
        with pytest.raises(trio.BrokenResourceError):
            await server.do_handshake()
        await server.aclose()

    trio.run(main)


class NotingBio:
    """Stands before a buffer and notes the most bytes that were ever in it: what it has grown to."""

    def __init__(self, bio: ssl.MemoryBIO) -> None:
        self._bio = bio
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        self.most = max(self.most, self._bio.pending)
        return getattr(self._bio, name)

    def write(self, data: Any) -> int:
        written = self._bio.write(data)
        self.most = max(self.most, self._bio.pending)
        return written


async def test_buffers_that_never_shrink_see_pieces_only(context: ssl.SSLContext) -> None:
    pair = trio.testing.memory_stream_pair()
    server = TlsStream(pair[0], context)
    buffers = [NotingBio(server._incoming), NotingBio(server._outgoing)]
    server._incoming, server._outgoing = buffers  # type: ignore[assignment]  # they do what those do
    client = trio.SSLStream(pair[1], client_tls("h2"), server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        await server.do_handshake()
    for size, most in ((3_000, 1_400), (200_000, 16_384 + 100)):
        data = os.urandom(size)
        await client.send_all(data)
        received = b""
        while len(received) < size:
            received += await server.receive_some()
        await server.send_all(data)
        back = b""
        while len(back) < size:
            back += await client.receive_some(65_536)
        assert received == back == data
        assert all(0 < buffer.most <= most for buffer in buffers)
    await trio.aclose_forcefully(client)
    await trio.aclose_forcefully(server)
