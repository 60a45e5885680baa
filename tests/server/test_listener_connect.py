"""Streams to /connect, with a real HTTP/2 client state machine at the other end."""

import os

import h2.events
import pytest
import structlog.testing
import trio
import trio.testing

from commucat_server.listener import (
    ConnectStream,
    ListenerSettings,
    StreamLostError,
    StreamMisuseError,
)
from server.listener_builders import REMOTE, Peer, echo, h2_connection, served

MEGABYTE = 1024 * 1024


async def test_request_is_described_to_the_handler() -> None:
    seen: list[ConnectStream] = []

    async def handler(stream: ConnectStream) -> None:
        seen.append(stream)
        await stream.start(200, [("X-Mode", "binary"), ("Connection", "keep-alive")])

    headers = [("x-a", "first"), ("x-a", "second"), ("accept", "*/*")]
    async with served(handler) as test:
        stream_id = await test.peer.request("/connect?mode=sse&a=b", headers=headers)
        status, answer, body = await test.peer.answer(stream_id)
    [stream] = seen
    assert (stream.method, stream.path, stream.query) == ("POST", "/connect", "mode=sse&a=b")
    assert stream.headers["x-a"] == "first"
    assert stream.headers["host"] == "localhost"
    assert (stream.remote_host, stream.remote_port) == REMOTE
    assert (status, body) == (200, b"")
    assert answer["x-mode"] == "binary"
    assert "connection" not in answer


@pytest.mark.parametrize("path", ["/connect/", "/Connect", "/connec", "/", "/%63onnect"])
async def test_only_the_exact_path_reaches_the_connect_handler(path: str) -> None:
    async with served() as test:
        stream_id = await test.peer.request(path, end=True)
        _, headers, body = await test.peer.answer(stream_id)
    assert (headers["x-path"], body) == (path, b"hello")


async def test_megabytes_flow_both_ways() -> None:
    data = os.urandom(3 * MEGABYTE)
    async with served() as test:
        stream_id = await test.peer.request()
        await test.peer.send(stream_id, data, end=True)
        _, _, body = await test.peer.answer(stream_id)
    assert body == data


async def test_streams_share_a_connection() -> None:
    async with served() as test:
        streams = [await test.peer.request() for _ in range(20)]
        for stream_id in streams:
            await test.peer.send(stream_id, b"%d" % stream_id * 30_000, end=True)
        for stream_id in streams:
            assert (await test.peer.answer(stream_id))[2] == b"%d" % stream_id * 30_000


async def test_receive_returns_everything_that_arrived() -> None:
    received: list[bytes] = []
    go = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await go.wait()
        received.append(await stream.receive())
        received.append(await stream.receive())
        received.append(await stream.receive())

    async with served(handler) as test:
        stream_id = await test.peer.request()
        for piece in (b"a", b"b", b"", b"c"):
            test.peer.protocol.send_data(stream_id, piece)
        await test.peer.send(stream_id, b"d", end=True)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        await test.peer.answer(stream_id)
    assert received == [b"abcd", b"", b""]


async def test_what_handlers_queue_leaves_in_one_write() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.receive()
        for _ in range(100):
            await stream.send(b"x" * 100)

    async with served(handler) as test:
        stream_id = await test.peer.request()
        await test.peer.until(lambda: test.peer.of(h2.events.ResponseReceived, stream_id))
        await test.peer.send(stream_id, b"go")
        await test.peer.answer(stream_id)
        data = test.peer.of(h2.events.DataReceived, stream_id)
    assert len(data[0].data) == 10_000


async def test_slow_reader_stops_the_sender() -> None:
    sent = 0
    limit = 50_000
    settings = ListenerSettings(outbox_high_water=limit)
    streams: list[ConnectStream] = []

    async def handler(stream: ConnectStream) -> None:
        nonlocal sent
        streams.append(stream)
        await stream.start(200, [])
        for _ in range(1_000):
            await stream.send(b"x" * 1_000)
            sent += 1_000

    async with served(handler, settings=settings) as test:
        test.peer.reads_bodies = False
        stream_id = await test.peer.request()
        await trio.testing.wait_all_tasks_blocked()
        # What the peer's window lets through, and one outbox more.
        assert limit <= streams[0].outbox_bytes < limit + 1_000
        assert sent == 65_535 + streams[0].outbox_bytes
        await test.peer.until(lambda: len(test.peer.body(stream_id)) == 65_535)
        test.peer.reads_bodies = True
        test.peer.protocol.acknowledge_received_data(65_535, stream_id)
        await test.peer.flush()
        await test.peer.until(lambda: test.peer.ended(stream_id))
        assert len(test.peer.body(stream_id)) == 1_000_000


async def test_cancelled_send_has_queued_nothing(autojump_clock: trio.testing.MockClock) -> None:
    outcome: list[int] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 100_000)
        before = stream.outbox_bytes
        with trio.move_on_after(1) as scope:
            await stream.send(b"y")
        assert scope.cancelled_caught
        outcome.append(stream.outbox_bytes - before)
        stream.reset()

    async with served(handler, settings=ListenerSettings(outbox_high_water=1)) as test:
        test.peer.reads_bodies = False
        stream_id = await test.peer.request()
        await test.peer.until_reset(stream_id)
    assert outcome in ([0], [-65_535])


async def test_slow_handler_stops_the_peer() -> None:
    go = trio.Event()
    received = 0

    async def handler(stream: ConnectStream) -> None:
        nonlocal received
        await stream.start(200, [])
        await go.wait()
        while data := await stream.receive():
            received += len(data)

    settings = ListenerSettings(stream_window=100_000)
    async with served(handler, settings=settings) as test:
        stream_id = await test.peer.request()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(test.peer.send, stream_id, b"x" * 400_000)
            await trio.testing.wait_all_tasks_blocked()
            assert test.peer.protocol.local_flow_control_window(stream_id) == 0
            go.set()
        await test.peer.send(stream_id, b"", end=True)
        await test.peer.answer(stream_id)
    assert received == 400_000


async def test_waiting_handlers_do_not_starve_other_streams() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        if stream.query == "sleep":
            await trio.sleep_forever()
        while data := await stream.receive():
            await stream.send(data)

    async with served(handler) as test:
        asleep = await test.peer.request("/connect?sleep")
        window = test.peer.protocol.local_flow_control_window(asleep)
        await test.peer.send(asleep, b"x" * window)
        awake = await test.peer.request("/connect")
        await test.peer.send(awake, b"y" * MEGABYTE, end=True)
        assert len((await test.peer.answer(awake))[2]) == MEGABYTE
        test.peer.protocol.reset_stream(asleep)
        await test.peer.flush()
        test.connection._nursery.cancel_scope.cancel()  # type: ignore[union-attr]


async def test_reset_by_the_peer_is_a_lost_stream() -> None:
    outcome: list[object] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        outcome.append(await stream.receive())
        with pytest.raises(StreamLostError):
            await stream.receive()
        for call in (stream.send(b"x"), stream.confirm(), stream.flushed()):
            try:
                outcome.append(await call)
            except StreamLostError:
                outcome.append("lost")
        await stream.end()
        stream.reset()
        raise StreamLostError("the handler may let it escape")

    with structlog.testing.capture_logs() as logs:
        async with served(handler) as test:
            stream_id = await test.peer.request()
            await test.peer.until(lambda: test.peer.of(h2.events.ResponseReceived, stream_id))
            await test.peer.send(stream_id, b"last words")
            test.peer.protocol.reset_stream(stream_id)
            await test.peer.flush()
            await trio.testing.wait_all_tasks_blocked()
            other = await test.peer.request("/")
            assert (await test.peer.answer(other))[0] == 200
    assert outcome == [b"last words", "lost", "lost", None]
    assert logs == []


async def test_lost_connection_is_a_lost_stream() -> None:
    outcome: list[object] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        outcome.append(await stream.receive())
        try:
            await stream.receive()
        except StreamLostError as exc:
            outcome.append(str(exc))
            raise

    async with served(handler) as test:
        stream_id = await test.peer.request()
        await test.peer.send(stream_id, b"last words")
        await test.peer.transport.aclose()
        await test.done.wait()
    assert outcome == [b"last words", "connection lost"]


async def test_sender_waiting_for_room_learns_of_the_loss() -> None:
    outcome: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        try:
            while True:
                await stream.send(b"x" * 100_000)
        except StreamLostError:
            outcome.append("lost")

    async with served(handler) as test:
        test.peer.reads_bodies = False
        await test.peer.request()
        await trio.testing.wait_all_tasks_blocked()
    assert outcome == ["lost"]


async def test_failed_handler_is_logged_and_the_others_live() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        if stream.query == "fail":
            await stream.receive()
            raise ValueError("broken on purpose")
        await echo_started(stream)

    async def echo_started(stream: ConnectStream) -> None:
        while data := await stream.receive():
            await stream.send(data)

    with structlog.testing.capture_logs() as logs:
        async with served(handler) as test:
            other = await test.peer.request("/connect")
            failing = await test.peer.request("/connect?fail")
            await test.peer.send(failing, b"x")
            await test.peer.until(lambda: test.peer.reset(failing))
            await test.peer.send(other, b"alive", end=True)
            assert (await test.peer.answer(other))[2] == b"alive"
    [entry] = logs
    assert entry["event"] == "handler failed"
    assert isinstance(entry["exc_info"], ValueError)


async def test_handler_without_answer_is_logged_and_reset() -> None:
    async def handler(stream: ConnectStream) -> None:
        return

    with structlog.testing.capture_logs() as logs:
        async with served(handler) as test:
            stream_id = await test.peer.request()
            await test.peer.until_reset(stream_id)
    assert [entry["event"] for entry in logs] == ["handler failed"]


async def test_misuse_is_named() -> None:
    caught: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        for call in (
            stream.send(b"early"),
            stream.end(),
            stream.start(200, [("bad name", "x")]),
            stream.start(200, [("a", "🐈")]),
        ):
            try:
                await call
            except StreamMisuseError:
                caught.append("misuse")
        stream.reset()

    async def twice(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.end()
        await stream.end()
        for call in (stream.start(200, []), stream.send(b"late")):
            try:
                await call
            except StreamMisuseError:
                caught.append("misuse")

    async with served(handler) as test:
        stream_id = await test.peer.request()
        await test.peer.until_reset(stream_id)
    assert caught == ["misuse"] * 4
    async with served(twice) as test:
        stream_id = await test.peer.request(end=True)
        assert (await test.peer.answer(stream_id))[0] == 200
    assert caught == ["misuse"] * 6


async def test_end_comes_after_what_is_queued_and_stops_an_upload() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 200_000)
        await stream.end()

    async with served(handler) as test:
        stream_id = await test.peer.request()
        assert len((await test.peer.answer(stream_id))[2]) == 200_000
        await test.peer.until_reset(stream_id)
        [reset] = test.peer.of(h2.events.StreamReset, stream_id)
    assert reset.error_code == 0


async def test_bytes_nobody_took_are_credited_to_the_connection() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])

    settings = ListenerSettings(connection_window=100_000, stream_window=100_000)
    async with served(handler, settings=settings) as test:
        for _ in range(20):
            stream_id = await test.peer.request()
            test.peer.protocol.send_data(stream_id, b"x" * 16_000)
            await test.peer.answer(stream_id)
            await test.peer.until_reset(stream_id)
        last = await test.peer.request()
        await test.peer.until(lambda: test.peer.protocol.local_flow_control_window(last) > 16_000)


async def test_bytes_taken_after_a_reset_are_credited_to_the_connection() -> None:
    resets = trio.Event()
    taken = 0

    async def handler(stream: ConnectStream) -> None:
        nonlocal taken
        if stream.query == "last":
            await stream.start(200, [])
            return
        await resets.wait()
        while data := await stream.receive():
            taken += len(data)

    settings = ListenerSettings(connection_window=160_000, stream_window=100_000)
    async with served(handler, settings=settings) as test:
        for _ in range(10):
            stream_id = await test.peer.request()
            await test.peer.send(stream_id, b"x" * 16_000)
            test.peer.protocol.reset_stream(stream_id)
        await test.peer.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert test.peer.protocol.outbound_flow_control_window == 0
        resets.set()
        await test.peer.until(lambda: test.peer.protocol.outbound_flow_control_window > 64_000)
        assert taken == 160_000


async def test_flushed_waits_for_the_write() -> None:
    flushed: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 10)
        await stream.flushed()
        flushed.append("flushed")

    async with served(handler, lockstep=True) as test:
        await test.peer.request()
        await trio.testing.wait_all_tasks_blocked()
        assert flushed == []
        await test.peer.read()
        await trio.testing.wait_all_tasks_blocked()
        await test.peer.read()
        await trio.testing.wait_all_tasks_blocked()
        assert flushed == ["flushed"]


async def test_peer_that_stops_reading_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    lost: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        try:
            await stream.start(200, [])
            await stream.send(b"x")
            await stream.flushed()
        except StreamLostError as exc:
            lost.append(str(exc))
            raise

    async with served(handler, lockstep=True, settings=ListenerSettings(write_timeout=7)) as test:
        await test.peer.request()
        await test.done.wait()
    assert lost == ["peer stopped reading"]
    assert trio.current_time() == 7


async def test_rest_that_nobody_takes_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 100_000)

    async with served(handler, settings=ListenerSettings(stall_timeout=5)) as test:
        test.peer.reads_bodies = False
        stream_id = await test.peer.request()
        await test.peer.until(lambda: len(test.peer.body(stream_id)) == 65_535)
        await trio.sleep(4)
        test.peer.protocol.increment_flow_control_window(10)
        test.peer.protocol.increment_flow_control_window(10, stream_id)
        await test.peer.flush()
        await test.peer.until_reset(stream_id)
    assert len(test.peer.body(stream_id)) == 65_545
    assert trio.current_time() == 9


async def test_cancellation_leaves_nothing_open() -> None:
    stages: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        try:
            await stream.start(200, [])
            if stream.query == "send":
                while True:
                    await stream.send(b"x" * 100_000)
            if stream.query == "confirm":
                await stream.send(b"x" * 100_000)
                await stream.confirm()
            await stream.receive()
        finally:
            stages.append(stream.query)

    client_end, server_end = trio.testing.memory_stream_pair()
    connection = h2_connection(server_end, handler)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.serve)
        peer = Peer(client_end)
        peer.reads_bodies = False
        await peer.begin()
        for stage in ("receive", "send", "confirm"):
            await peer.request(f"/connect?{stage}")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sorted(stages) == ["confirm", "receive", "send"]
    assert connection._streams == {}
    with pytest.raises(trio.ClosedResourceError):
        await server_end.send_all(b"x")


async def test_stubborn_handler_is_cancelled_after_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(stream: ConnectStream) -> None:
        await trio.sleep_forever()

    async with served(handler, settings=ListenerSettings(drain_timeout=4)) as test:
        await test.peer.request()
        await trio.testing.wait_all_tasks_blocked()
        await test.peer.transport.aclose()
        await test.done.wait()
    assert trio.current_time() == pytest.approx(4)


async def test_two_receivers_are_refused() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await stream.receive()
            nursery.cancel_scope.cancel()

    async with served(handler) as test:
        stream_id = await test.peer.request()
        assert (await test.peer.answer(stream_id))[0] == 200


async def test_echo_survives_any_split_of_the_bytes() -> None:
    async with served(echo) as test:
        stream_id = await test.peer.request()
        test.peer.protocol.send_data(stream_id, b"hello")
        test.peer.protocol.send_data(stream_id, b"world", end_stream=True)
        for byte in test.peer.protocol.data_to_send():
            await test.peer.transport.send_all(bytes([byte]))
        assert (await test.peer.answer(stream_id))[2] == b"helloworld"
