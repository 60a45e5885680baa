"""HTTP/1.1 behind the same interfaces as HTTP/2."""

import contextlib
import os
import socket
import ssl
from typing import Any

import h11
import orjson
import pytest
import structlog.testing
import trio
import trio.testing

from commucat_server.listener import ConnectStream, ListenerSettings, StreamLostError
from commucat_server.listener.h1_progress import TcpProgress
from commucat_server.listener.tcp_stream import TcpStream
from commucat_server.listener.tls_stream import TlsStream
from server.h1_builders import served_h1
from server.listener_builders import detached

CHUNKED = ("transfer-encoding", "chunked")


async def body_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body it was sent."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    body = b"%d" % size
    headers = [(b"content-length", b"%d" % len(body)), (b"x-version", scope["http_version"].encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def test_requests_follow_each_other() -> None:
    async with served_h1(app=body_app) as test:
        for size in (0, 3, 200_000):
            await test.peer.request("POST", "/x?y=1", ("content-length", str(size)))
            await test.peer.send(b"z" * size, end=True)
            status, headers, body = await test.peer.answer()
            assert (status, headers["x-version"], body) == (200, "1.1", b"%d" % size)


async def test_head_has_no_body() -> None:
    async with served_h1() as test:
        await test.peer.request("HEAD")
        await test.peer.send(end=True)
        assert (await test.peer.answer())[2] == b""
        await test.peer.request("GET")
        await test.peer.send(end=True)
        assert (await test.peer.answer())[2] == b"hello"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served_h1() as test:
        lines = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(50)]
        await test.peer.raw(
            b"".join(lines[:-1]) + lines[-1].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        answer = await test.peer.until_closed()
        seen = [line for line in answer.split(b"\r\n") if line.startswith(b"x-path")]
        assert seen == [b"x-path: /%d" % number for number in range(50)]


async def test_pipelined_bytes_are_bounded() -> None:
    release = trio.Event()

    async def waiting(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await release.wait()

    async with served_h1(waiting, lockstep=True, settings=ListenerSettings(read_size=1024)) as test:
        await test.peer.raw(b"POST /connect HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await test.peer.head()
        sent = 0
        with trio.move_on_after(0.2):
            while True:
                await test.peer.raw(b"x" * 1024)
                sent += 1
        assert sent <= 2
        release.set()


async def test_permission_to_send_a_body_is_given_when_it_is_wanted() -> None:
    async with served_h1(app=body_app) as test:
        await test.peer.request("POST", "/", ("content-length", "3"), ("expect", "100-continue"))
        event = await test.peer.event()
        assert isinstance(event, h11.InformationalResponse)
        assert event.status_code == 100
        await test.peer.send(b"abc", end=True)
        assert (await test.peer.answer())[2] == b"3"


async def test_no_permission_for_a_body_nobody_wants() -> None:
    async with served_h1() as test:
        await test.peer.request("POST", "/", ("content-length", "3"), ("expect", "100-continue"))
        assert isinstance(await test.peer.event(), h11.Response)


async def test_connect_streams_both_ways_at_once() -> None:
    async with served_h1() as test:
        await test.peer.request("POST", "/connect", CHUNKED, ("expect", "100-continue"))
        assert isinstance(await test.peer.event(), h11.InformationalResponse)
        head = await test.peer.head()
        assert head.status_code == 200
        for size in (1, 1000, 500_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(test.peer.send, b"x" * size)
                assert await test.peer.read_body(size) == b"x" * size
        await test.peer.send(end=True)
        assert isinstance(await test.peer.event(), h11.EndOfMessage)
        test.peer.protocol.start_next_cycle()
        await test.peer.request("GET")
        await test.peer.send(end=True)
        assert (await test.peer.answer())[2] == b"hello"


async def test_a_slow_reader_stops_its_sender() -> None:
    sent = 0

    async def pour(stream: ConnectStream) -> None:
        nonlocal sent
        await stream.start(200, [])
        while True:
            await stream.send(bytes(1000))
            sent += 1000

    settings = ListenerSettings(outbox_high_water=10_000, write_size=5_000)
    async with served_h1(pour, lockstep=True, settings=settings) as test:
        await test.peer.request("POST", "/connect", CHUNKED)
        await test.peer.head()
        with trio.move_on_after(0.2):
            await trio.sleep_forever()
        assert sent <= 20_000
        await test.peer.transport.aclose()


async def test_a_slow_handler_stops_its_peer() -> None:
    streams: list[ConnectStream] = []

    async def idle(stream: ConnectStream) -> None:
        streams.append(stream)
        await stream.start(200, [])
        await trio.sleep_forever()

    settings = ListenerSettings(stream_window=65_535, drain_timeout=0.1)
    async with served_h1(idle, lockstep=True, settings=settings) as test:
        await test.peer.request("POST", "/connect", CHUNKED)
        await test.peer.head()
        sent = 0
        with trio.move_on_after(2):
            while True:
                await test.peer.send(bytes(10_000))
                sent += 10_000
        assert 60_000 <= sent <= 200_000
        streams[0].reset()


async def test_chunks_of_one_byte_arrive_whole() -> None:
    async with served_h1() as test:
        await test.peer.request("POST", "/connect", CHUNKED)
        await test.peer.raw(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
        await test.peer.head()
        assert await test.peer.read_body() == b"x" * 5000


async def test_the_end_of_the_connection_is_a_lost_stream(autojump_clock: trio.testing.MockClock) -> None:
    lost: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        try:
            await stream.receive()
        except StreamLostError as exc:
            lost.append(str(exc))
            raise

    async with served_h1(handler) as test:
        await test.peer.request("POST", "/connect", CHUNKED)
        await test.peer.head()
        await test.peer.transport.aclose()
        await test.done.wait()
    assert lost == ["connection lost"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01 garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 20_000, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
async def test_what_is_no_request_is_answered_and_ends(request_bytes: bytes, status: int) -> None:
    with structlog.testing.capture_logs():
        async with served_h1() as test:
            await test.peer.raw(request_bytes)
            answer = await test.peer.until_closed()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    document = orjson.loads(answer.partition(b"\r\n\r\n")[2])
    assert document["status"] == status


async def test_absolute_form_is_understood() -> None:
    async with served_h1() as test:
        await test.peer.request("GET", "https://localhost/a?b")
        await test.peer.send(end=True)
        assert (await test.peer.answer())[1]["x-path"] == "/a"


async def test_a_malformed_body_is_answered_400() -> None:
    with structlog.testing.capture_logs():
        async with served_h1(app=body_app) as test:
            await test.peer.raw(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
            assert (await test.peer.until_closed()).startswith(b"HTTP/1.1 400 ")


async def test_a_head_that_trickles_in_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    settings = ListenerSettings(handshake_timeout=10.0)
    with structlog.testing.capture_logs():
        async with served_h1(settings=settings) as test:
            for letter in b"GET / HT":
                await test.peer.raw(bytes([letter]))
                await trio.sleep(1)
            assert (await test.peer.until_closed()).startswith(b"HTTP/1.1 408 ")
            assert trio.current_time() == pytest.approx(10.0, abs=0.01)


async def test_an_idle_connection_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with served_h1(settings=ListenerSettings(idle_timeout=50.0)) as test:
        await test.peer.request()
        await test.peer.send(end=True)
        await test.peer.answer()
        assert await test.peer.until_closed() == b""
        assert trio.current_time() == pytest.approx(50.0, abs=0.01)


async def test_a_body_that_stalls_is_answered_408(autojump_clock: trio.testing.MockClock) -> None:
    async with served_h1(app=body_app) as test:
        await test.peer.request("POST", "/", ("content-length", "10"))
        assert (await test.peer.answer())[0] == 408


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with served_h1(app=body_app, settings=ListenerSettings(max_body=1024 * 1024)) as test:
        await test.peer.request("POST", "/", ("content-length", "1048577"))
        status, _, body = await test.peer.answer()
        assert (status, orjson.loads(body)["detail"]) == (400, "request body too large (max 1 MB)")


async def test_a_failing_handler_is_answered_500() -> None:
    async def failing(stream: ConnectStream) -> None:
        raise RuntimeError("broken")

    with structlog.testing.capture_logs() as logs:
        async with served_h1(failing) as test:
            await test.peer.request("GET", "/connect")
            await test.peer.send(end=True)
            assert (await test.peer.answer())[0] == 500
            await test.peer.request("GET", "/")
            await test.peer.send(end=True)
            assert (await test.peer.answer())[2] == b"hello"
    assert [entry["event"] for entry in logs] == ["handler failed"]


async def test_a_handler_that_fails_midway_breaks_the_connection() -> None:
    async def failing(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"half")
        await stream.flushed()
        raise RuntimeError("broken")

    with structlog.testing.capture_logs():
        async with served_h1(failing) as test:
            await test.peer.request("GET", "/connect")
            answer = await test.peer.until_closed()
    assert answer.endswith(b"half\r\n")
    assert b"\r\n0\r\n" not in answer


async def test_shutdown_lets_a_request_finish() -> None:
    async with served_h1() as test:
        await test.peer.request("POST", "/connect", CHUNKED)
        await test.peer.head()
        test.connection.go_away()
        await test.peer.send(b"last words", end=True)
        assert await test.peer.read_body() == b"last words"
        assert await test.peer.until_closed() == b""
        await test.done.wait()


async def test_shutdown_ends_an_idle_connection_at_once() -> None:
    async with served_h1() as test:
        await trio.testing.wait_all_tasks_blocked()
        test.connection.go_away()
        await test.done.wait()


async def test_http_1_0_is_served() -> None:
    async with served_h1() as test:
        await test.peer.raw(b"GET / HTTP/1.0\r\n\r\n")
        answer = await test.peer.until_closed()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nhello")


async def test_switching_protocols_makes_plain_bytes() -> None:
    async def switch(stream: ConnectStream) -> None:
        await stream.start(101, [("upgrade", "websocket"), ("connection", "Upgrade")])
        while data := await stream.receive():
            await stream.send(data)

    async with served_h1(switch) as test:
        await test.peer.request("GET", "/connect", ("upgrade", "websocket"), ("connection", "Upgrade"))
        await test.peer.raw(b"early")
        answer = b""
        while not answer.endswith(b"early"):
            answer += await test.peer.transport.receive_some()
        assert answer.startswith(b"HTTP/1.1 101 ")
        await test.peer.raw(b"\x00late")
        assert await test.peer.transport.receive_some() == b"\x00late"


async def test_confirm_waits_for_the_peers_kernel(autojump_clock: trio.testing.MockClock) -> None:
    confirmed: list[float] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 100)
        test.progress.passed = 200
        await stream.confirm()
        confirmed.append(trio.current_time())

    async with served_h1(handler) as test:
        await test.peer.request("POST", "/connect", CHUNKED)
        test.progress.answered = 199
        await trio.sleep(30)
        assert confirmed == []
        test.progress.answered = 200
        await trio.sleep(1.1)
        assert len(confirmed) == 1
        await test.peer.transport.aclose()


@pytest.mark.parametrize("dead", [True, False])
async def test_confirm_gives_up_on_a_dead_peer(autojump_clock: trio.testing.MockClock, dead: bool) -> None:
    lost: list[float] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        test.progress.passed, test.progress.dead = 200, dead
        try:
            await stream.confirm()
        except StreamLostError:
            lost.append(trio.current_time())
            raise

    async with served_h1(handler) as test:
        await test.peer.request("POST", "/connect", CHUNKED)
        await test.done.wait()
    [at] = lost
    assert (at == 0) if dead else (60 <= at < 62)


async def test_the_kernel_tells_what_was_acknowledged() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.testing.open_stream_to_socket_listener(listener)
    server = TcpStream(detached(await listener.accept()))
    tls = TlsStream(server, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    progress = TcpProgress(server, tls)
    assert progress.acknowledged() == progress.sent() == 0
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with socket.socket(fileno=os.dup(server.socket.fileno())) as full, contextlib.suppress(BlockingIOError):
        full.setblocking(False)
        while True:  # until neither kernel takes any more
            tls.sent_bytes += full.send(bytes(10_000))
    assert progress.acknowledged() < progress.sent()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.socket.close()
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(server.socket)  # the reset has come
    with pytest.raises(StreamLostError):
        progress.acknowledged()
    await trio.aclose_forcefully(server)
    await listener.aclose()
