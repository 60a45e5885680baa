"""``receive_by``: bytes go to a function in the task that reads the connection."""

import os

import pytest
import trio
import trio.testing

from commucat_server.listener import ConnectStream, StreamLostError
from server.listener_builders import echo, served

MEGABYTE = 1024 * 1024


async def test_everything_arrives_in_order_and_the_peers_end_is_told() -> None:
    data = os.urandom(3 * MEGABYTE)
    taken = bytearray()
    ends: list[bool] = []

    def take(piece: bytes) -> bool:
        taken.extend(piece)
        return True

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        ends.append(await stream.receive_by(take))
        ends.append(await stream.receive_by(take))

    async with served(handler) as test:
        stream_id = await test.peer.request()
        await test.peer.send(stream_id, data, end=True)
        await test.peer.answer(stream_id)
    assert bytes(taken) == data
    assert ends == [False, False]


async def test_bytes_that_wait_come_first() -> None:
    taken: list[bytes] = []
    go, first = trio.Event(), trio.Event()

    def take(piece: bytes) -> bool:
        taken.append(piece)
        first.set()
        return True

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await go.wait()
        await stream.receive_by(take)

    async with served(handler) as test:
        stream_id = await test.peer.request()
        await test.peer.send(stream_id, b"early")
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        await first.wait()
        await test.peer.send(stream_id, b"late", end=True)
        await test.peer.answer(stream_id)
    assert taken == [b"early", b"late"]


async def test_whoever_has_enough_is_asked_no_more_and_the_rest_waits() -> None:
    taken: list[bytes] = []
    go, enough = trio.Event(), trio.Event()
    rest = b""

    def take(piece: bytes) -> bool:
        taken.append(piece)
        return len(taken) < 2

    async def handler(stream: ConnectStream) -> None:
        nonlocal rest
        await stream.start(200, [])
        assert await stream.receive_by(take)
        enough.set()
        await go.wait()
        rest = await stream.receive()

    async with served(handler) as test:
        stream_id = await test.peer.request()
        for piece in (b"1", b"2"):
            await test.peer.send(stream_id, piece)
            await trio.testing.wait_all_tasks_blocked()
        await enough.wait()
        for piece in (b"3", b"4"):
            await test.peer.send(stream_id, piece)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        await test.peer.send(stream_id, b"", end=True)
        await test.peer.answer(stream_id)
    assert taken == [b"1", b"2"]
    assert rest == b"34"


async def test_an_error_is_the_handlers_and_other_streams_go_on() -> None:
    failures: list[Exception] = []

    def take(piece: bytes) -> bool:
        raise RuntimeError(piece.decode())

    async def handler(stream: ConnectStream) -> None:
        if stream.query:
            await echo(stream)
            return
        await stream.start(200, [])
        with pytest.raises(RuntimeError) as failed:
            await stream.receive_by(take)
        failures.append(failed.value)

    async with served(handler) as test:
        breaking, other = await test.peer.request(), await test.peer.request("/connect?echo")
        await test.peer.send(breaking, b"broken")
        await test.peer.send(other, b"whole", end=True)
        assert (await test.peer.answer(other))[2] == b"whole"
        await test.peer.answer(breaking)
    assert [str(failure) for failure in failures] == ["broken"]


async def test_a_lost_stream_is_told() -> None:
    lost = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        with pytest.raises(StreamLostError):
            await stream.receive_by(lambda _: True)
        lost.set()

    async with served(handler) as test:
        stream_id = await test.peer.request()
        await trio.testing.wait_all_tasks_blocked()
        test.peer.protocol.reset_stream(stream_id)
        await test.peer.flush()
        await lost.wait()


async def test_cancelled_it_takes_nothing_more() -> None:
    taken: list[bytes] = []
    scope = trio.CancelScope()

    def take(piece: bytes) -> bool:
        taken.append(piece)
        return True

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        with scope:
            await stream.receive_by(take)
        await echo(stream)

    async with served(handler) as test:
        stream_id = await test.peer.request()
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await test.peer.send(stream_id, b"x", end=True)
        await test.peer.until(lambda: test.peer.reset(stream_id) or test.peer.ended(stream_id))
    assert taken == []
