"""Clients that never read, in every mode: nobody waits for them, nothing is lost, and they do not stay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_proto import FrameType
from commucat_server.routing.live import NOTICES_BYTES
from commucat_server.routing.reception import WINDOW_BYTES
from server.connect_builders import Client, Person, Server, running_server, until_dropped
from server.h1_builders import served_h1
from server.listener_builders import served
from server.mode_streams import MODES, ModeStream

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
LIMITS = {"write_stall": 5.0}
"""Shorter than the signs of life that some modes wait for."""
COUNT, SIZE = 60, 50_000
"""More than a window in memory and a stream's outbox hold together."""


async def acquainted(server: Server, bob: Client) -> Client:
    """Alice, whose messages bob's inbox takes without the share of strangers."""
    assert "ack" in await bob.join(CHANNEL, ALICE.device_id)
    return await known_alice(server)


async def send_all(alice: Client) -> None:
    for number in range(COUNT):
        assert "ack" in await alice.message(CHANNEL, b"%d " % number + bytes(SIZE))
        assert "ack" in await alice.answer(alice.send(FrameType.TYPING, CHANNEL, {"label": "x" * 10_000}))


async def received_anew(server: Server) -> list[int]:
    """The numbers in the messages that wait for bob."""
    bob = await server.connect(BOB)
    return [int((await bob.next_of(FrameType.MSG)).payload.split()[0]) for _ in range(COUNT)]


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_stops_reading_is_dropped_and_misses_nothing(
    tmp_path: Path, mode: str, mock_clock: trio.testing.MockClock
) -> None:
    async with running_server(tmp_path, settings=LIMITS) as server:
        stream = ModeStream(mode, post=lambda request: server.nursery.start_soon(server.handler, request))
        bob = await server.connect(BOB, stream=stream)
        alice = await acquainted(server, bob)
        stream.limit(2_000)

        await send_all(alice)

        live = server.context.registry.receiver(BOB.device_id)
        assert live is not None
        assert live._ready_bytes <= WINDOW_BYTES + 2 * SIZE
        assert live._notices_bytes <= NOTICES_BYTES + 20_000
        await until_dropped(server, BOB, mock_clock)
        await stream.wait_lost()
        assert await received_anew(server) == list(range(COUNT))


async def converse(
    client: Client, stream: ModeStream, send: Callable[[bytes], Any], receive: Callable[[], Any]
) -> None:
    """A handshake and a Join over the connection that these two move bytes of."""

    async def up() -> None:
        while True:
            await send(await stream.pending())

    async def down() -> None:
        while True:
            stream.arrived(await receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(up)
        nursery.start_soon(down)
        await client.handshake()
        assert "ack" in await client.join(CHANNEL, ALICE.device_id)
        nursery.cancel_scope.cancel()


async def known_alice(server: Server) -> Client:
    alice = await server.connect(ALICE)
    assert "ack" in await alice.join(CHANNEL, BOB.device_id)
    return alice


async def test_http_2_client_without_credit(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """It reads its socket, but opens no window: the connection lives, the stream stands still."""
    async with running_server(tmp_path, settings=LIMITS) as server, served(server.handler) as test:
        stream = ModeStream("binary")
        bob = Client(BOB.session(), stream)
        peer = test.peer
        stream_id = await peer.request()
        seen = 0

        async def receive() -> bytes:
            nonlocal seen
            await peer.read()
            body = peer.body(stream_id)
            new, seen = body[seen:], len(body)
            return new

        await converse(bob, stream, lambda data: peer.send(stream_id, data), receive)
        alice = await known_alice(server)
        peer.reads_bodies = False

        await send_all(alice)
        await until_dropped(server, BOB, mock_clock)
        await peer.until_reset(stream_id)
        # With credit for the connection others on it are served.
        peer.reads_bodies = True
        peer.protocol.increment_flow_control_window(2**20)
        other = await peer.request("/", method="GET", end=True)
        assert (await peer.answer(other))[0] == 200
        assert await received_anew(server) == list(range(COUNT))


async def test_http_1_client_that_does_not_read_its_socket(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with (
        running_server(tmp_path, settings=LIMITS) as server,
        served_h1(server.handler, lockstep=True) as test,
    ):
        stream = ModeStream("binary")
        bob = Client(BOB.session(), stream)
        await test.peer.request("POST", "/connect", ("transfer-encoding", "chunked"))
        await test.peer.head()

        await converse(bob, stream, test.peer.send, lambda: test.peer.read_body(1))
        alice = await known_alice(server)

        await send_all(alice)
        await until_dropped(server, BOB, mock_clock)
        await test.done.wait()
        assert await received_anew(server) == list(range(COUNT))
