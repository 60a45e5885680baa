"""Clients that mix what belongs to one mode, one request or one connection with what belongs to another."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from commucat_proto import FrameType, decode_frame
from server.connect_builders import Client, MemoryConnectStream, Person, Server, running_server
from server.h1_builders import served_h1
from server.listener_builders import Peer, served
from server.mode_streams import ModeStream

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")


@attrs.define
class Shared:
    """One HTTP/2 connection and the streams that clients have opened on it."""

    peer: Peer
    nursery: trio.Nursery
    streams: dict[int, ModeStream] = attrs.Factory(dict)
    seen: dict[int, int] = attrs.Factory(dict)

    async def client(self, person: Person, mode: str) -> tuple[int, Client]:
        stream = ModeStream(mode)
        stream_id = await self.peer.request(f"/connect?mode={mode}")
        self.streams[stream_id] = stream
        self.nursery.start_soon(self._send, stream_id, stream)
        return stream_id, await Client(person.session(), stream).handshake()

    async def _send(self, stream_id: int, stream: ModeStream) -> None:
        while True:
            await self.peer.send(stream_id, await stream.pending())

    async def read(self) -> None:
        while not self.peer.closed:
            await self.peer.read()
            for stream_id, stream in self.streams.items():
                body = self.peer.body(stream_id)
                stream.arrived(body[self.seen.get(stream_id, 0) :])
                self.seen[stream_id] = len(body)


@asynccontextmanager
async def shared(server: Server) -> AsyncIterator[Shared]:
    async with served(server.handler) as test, trio.open_nursery() as nursery:
        connection = Shared(test.peer, nursery)
        nursery.start_soon(connection.read)
        yield connection
        nursery.cancel_scope.cancel()


async def exchange(alice: Client, bob: Client, text: bytes) -> None:
    assert "ack" in await alice.message(CHANNEL, text)
    assert (await bob.next_of(FrameType.MSG)).payload == text


async def test_streams_of_one_connection_in_different_modes_know_nothing_of_each_other(
    tmp_path: Path,
) -> None:
    async with running_server(tmp_path) as server, shared(server) as connection:
        _, alice = await connection.client(ALICE, "binary")
        _, bob = await connection.client(BOB, "sse")
        carol_id, carol = await connection.client(Person(handle="carol"), "long-poll")
        await alice.join(CHANNEL, BOB.device_id)
        await bob.join(CHANNEL, ALICE.device_id)

        await exchange(alice, bob, b"one")
        carol.stream.write(b"\xff" * 100)  # what cannot be decrypted ends this stream alone
        while not connection.peer.ended(carol_id):
            await trio.testing.wait_all_tasks_blocked()
        await exchange(bob, alice, b"two")
        await exchange(alice, bob, b"three")


async def test_data_behind_the_end_of_a_stream_hurts_no_other_stream(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, shared(server) as connection:
        first, alice = await connection.client(ALICE, "binary")
        _, bob = await connection.client(BOB, "sse")
        await alice.join(CHANNEL, BOB.device_id)
        assert "ack" in await alice.message(CHANNEL, b"the last one")
        connection.peer.protocol.end_stream(first)
        # No client of the library would do it. In one write, so that the stream is still there.
        ended = connection.peer.protocol.data_to_send()
        data = b"\x00\x00\x05\x00\x00" + first.to_bytes(4, "big") + b"again"
        await connection.peer.transport.send_all(ended + data)
        while not connection.peer.reset(first):
            await trio.testing.wait_all_tasks_blocked()
        assert (await bob.next_of(FrameType.MSG)).payload == b"the last one"
        live = server.context.registry.receiver(BOB.device_id)
        assert live is not None
        assert live.farewell is None
        assert "ack" in await bob.join(CHANNEL, ALICE.device_id)


@pytest.mark.parametrize("query", ["mode=websocket", "mode=binary", "mode=long-poll", "transport=ws"])
async def test_a_post_to_a_stream_has_no_mode_of_its_own(tmp_path: Path, query: str) -> None:
    async with running_server(tmp_path) as server:

        def post(request: MemoryConnectStream) -> None:
            request.query = f"{query}&{request.query}"
            server.nursery.start_soon(server.handler, request)
            posts.append(request)

        posts: list[MemoryConnectStream] = []
        bob = await server.connect(BOB, stream=ModeStream("sse-posts", post=post))

        assert "ack" in await bob.join(CHANNEL, ALICE.device_id)
        await trio.testing.wait_all_tasks_blocked()
        assert {request.status for request in posts} == {204}


async def test_a_request_that_waits_behind_a_session_is_answered_after_it(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, served_h1(server.handler) as test:
        await test.peer.raw(
            b"POST /connect HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\n\x01\xff\x00\r\n0\r\n\r\n"
            b"GET /next HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
        )

        status, _, body = await test.peer.answer_to("POST")
        frame, _ = decode_frame(body)
        assert (status, frame.type) == (200, FrameType.ERROR)
        status, headers, body = await test.peer.answer_to("GET")
        assert (status, headers["x-path"], body) == (200, "/next", b"hello")


@pytest.mark.parametrize(
    "behind",
    [
        b"GET /connect HTTP/1.1\r\nupgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"\x82\x85abcdefghi\r\n",
    ],
    ids=["an upgrade", "a response", "a websocket frame"],
)
async def test_something_else_in_the_middle_of_a_chunked_body_ends_the_connection(
    tmp_path: Path, behind: bytes
) -> None:
    async with running_server(tmp_path) as server, served_h1(server.handler) as test:
        hello = ALICE.session().start()
        await test.peer.raw(
            b"POST /connect HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"%x\r\n%b\r\n" % (len(hello), hello)
            + behind
        )

        # 400 if it came before the handler could begin its response.
        answered = await test.peer.until_closed()
        assert answered.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))
        await test.done.wait()
        assert len(server.context.registry) == 0
