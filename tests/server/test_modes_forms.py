"""Which mode a request asks for, and what frames look like in it."""

import base64
from typing import Any

import orjson
import pytest
import trio
import trio.testing

from commucat_proto import FrameType, encode_frame
from commucat_server.connect.modes import FramedStream, Mode, detect_mode
from commucat_server.connect.modes.text import EventStream, LineStream
from commucat_server.connect.modes.upstream import Upstream
from commucat_server.connect.modes.websocket import WebSocketStream
from commucat_server.listener import StreamLostError
from commucat_server.ops.counters import SocketCounters
from end_to_end.mode_transports import ws_frame
from server.connect_builders import MemoryConnectStream

UPGRADE = {"upgrade": "WebSocket", "connection": "keep-alive, Upgrade"}


def request(query: str = "", headers: dict[str, str] | None = None) -> MemoryConnectStream:
    stream = MemoryConnectStream()
    stream.query, stream.headers = query, headers or {}
    return stream


@pytest.mark.parametrize(
    ("query", "headers", "mode"),
    [
        ("", {}, Mode.BINARY),
        ("mode=sse", {}, Mode.SSE),
        ("TRANSPORT=EventStream", {}, Mode.SSE),
        ("x=1&mode=nonsense&transport=poll&mode=ws", {}, Mode.LONG_POLL),
        ("mode=%73se", {}, Mode.BINARY),
        ("mode= stream ", {"accept": "text/event-stream"}, Mode.BINARY),
        ("", {"x-connect-mode": "Long-Poll", "x-commucat-connect-mode": "sse"}, Mode.LONG_POLL),
        ("", {"x-connect-mode": "?", "x-commucat-connect-mode": "ws"}, Mode.WEBSOCKET),
        ("", UPGRADE | {"accept": "text/event-stream"}, Mode.WEBSOCKET),
        ("", {"upgrade": "websocket"}, Mode.BINARY),
        ("", {"upgrade": "websocket, h2c", "connection": "upgrade"}, Mode.BINARY),
        ("", {"accept": "text/html, Text/Event-Stream"}, Mode.SSE),
        ("", {"accept": "text/event-stream;q=0.9"}, Mode.BINARY),
        ("mode=binary", UPGRADE, Mode.BINARY),
    ],
)
def test_first_source_that_names_a_mode_wins(query: str, headers: dict[str, str], mode: Mode) -> None:
    assert detect_mode(request(query, headers)) is mode


FRAME = encode_frame(FrameType.KEY_UPDATE, 3_000_000_000, 42, b"{}")


async def test_events() -> None:
    inner = request()
    await EventStream(inner, 30.0).send_frame(FRAME, b"sealed")
    assert await inner.read() == b"event: frame\nid: 42\ndata: %b\n\n" % base64.b64encode(b"sealed")


async def test_lines() -> None:
    inner = request()
    await LineStream(inner, 30.0).send(FRAME)
    line = await inner.read()
    assert line.endswith(b"}\n")
    assert orjson.loads(line) == {
        "channel": 3_000_000_000,
        "data": base64.b64encode(FRAME).decode(),
        "sequence": 42,
        "type": "key_update",
    }


@pytest.mark.parametrize(
    ("kind", "sign"), [(EventStream, b":keepalive\n\n"), (LineStream, b'{"keepalive":true}\n')]
)
async def test_signs_of_life_only_in_silence(
    kind: Any, sign: bytes, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inner = request()
    stream: FramedStream = kind(inner, 30.0)
    nursery.start_soon(stream.keep_alive)
    await trio.sleep(20)
    await stream.send(FRAME)
    await inner.read()
    await trio.sleep(29)
    assert inner.outbox_bytes == 0
    await trio.sleep(1.5)
    assert await inner.read() == sign
    await trio.sleep(30)
    assert await inner.read() == sign
    await trio.sleep(300)
    # A client that reads none of them is not sent more.
    assert inner.outbox_bytes == len(sign)
    nursery.cancel_scope.cancel()


async def test_a_client_fed_by_posts_that_leaves_is_noticed() -> None:
    inner = request()
    stream = EventStream(inner, 30.0, Upstream())
    lost = False
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            nonlocal lost
            try:
                await stream.keep_alive()
            except* StreamLostError:
                lost = True

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert not lost
        inner.lose()
    assert lost


# WebSocket


def server_frames(data: bytes) -> list[tuple[int, bytes]]:
    frames = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        frames.append((data[0], data[start : start + size]))
        data = data[start + size :]
    return frames


async def received(inner: MemoryConnectStream, *frames: bytes) -> tuple[bytes, WebSocketStream]:
    """Everything the stream gives until the client's end."""
    stream = WebSocketStream(inner)
    inner.write(b"".join(frames))
    inner.close()
    data = b""
    while more := await stream.receive():
        data += more
    return data, stream


async def test_messages_of_both_kinds_form_one_stream() -> None:
    data, _ = await received(
        request(),
        ws_frame(2, b"one"),
        ws_frame(1, b" " + base64.b64encode(b"two\xff") + b"\n"),
        ws_frame(2, b"th", fin=False),
        ws_frame(9, b"ping between"),
        ws_frame(0, b"ree"),
        ws_frame(1, base64.b64encode(b"four")[:3], fin=False),
        ws_frame(0, base64.b64encode(b"four")[3:]),
        ws_frame(1, b"no base64"),
        ws_frame(2, b""),
        ws_frame(2, b"five"),
    )
    assert data == b"onetwo\xffthreefourfive"


async def test_every_byte_alone_is_understood(nursery: trio.Nursery) -> None:
    inner = request()
    stream = WebSocketStream(inner)
    data = b""

    async def read() -> None:
        nonlocal data
        while more := await stream.receive():
            data += more

    nursery.start_soon(read)
    for byte in ws_frame(2, b"x" * 300) + ws_frame(8, b""):
        inner.write(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()
    assert data == b"x" * 300


async def test_pings_are_answered() -> None:
    inner = request()
    await received(inner, ws_frame(9, b"are you there"))
    assert server_frames(await inner.read()) == [(0x8A, b"are you there")]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([ws_frame(2, bytes(1024 * 1024 + 1))], 1009),
        ([ws_frame(1, b"A" * 600_000, fin=False), ws_frame(0, b"A" * 600_000)], 1009),
        ([b"\x82\x01x"], 1002),
        ([ws_frame(0, b"continues nothing")], 1002),
        ([ws_frame(1, b"\xff\xfe")], 1007),
        ([ws_frame(9, bytes(126))], 1002),
        ([ws_frame(8, (1000).to_bytes(2, "big"))], 1000),
        ([ws_frame(8, b"")], None),
        ([], None),
    ],
)
async def test_the_close_frame_says_why(frames: list[bytes], code: int | None) -> None:
    inner = request()
    _, stream = await received(inner, *frames)
    await stream.end()
    await stream.end()
    [(opcode, payload)] = server_frames(await inner.read())
    assert opcode == 0x88
    assert payload[:2] == (b"" if code is None else code.to_bytes(2, "big"))
    assert inner.ended


async def test_what_the_client_sends_after_close_is_not_read() -> None:
    data, _ = await received(request(), ws_frame(2, b"a"), ws_frame(8, b""), ws_frame(2, b"b"))
    assert data == b"a"


async def test_only_the_pong_behind_the_bytes_confirms(nursery: trio.Nursery) -> None:
    inner = request()
    stream = WebSocketStream(inner)
    nursery.start_soon(drain, stream)
    done: list[str] = []

    async def confirm(name: str) -> None:
        await stream.confirm()
        done.append(name)

    await stream.send(FRAME)
    nursery.start_soon(confirm, "first")
    await trio.testing.wait_all_tasks_blocked()
    [_, (opcode, first)] = server_frames(await inner.read())
    assert opcode == 0x89
    await stream.send(FRAME)
    nursery.start_soon(confirm, "second")
    await trio.testing.wait_all_tasks_blocked()
    for forged in (b"", b"x" * 8, (99).to_bytes(8, "big")):
        inner.write(ws_frame(10, forged))
    await trio.testing.wait_all_tasks_blocked()
    assert done == []
    inner.write(ws_frame(10, first))
    await trio.testing.wait_all_tasks_blocked()
    assert done == ["first"]
    [_, (opcode, second)] = server_frames(await inner.read())
    assert opcode == 0x89
    inner.write(ws_frame(10, second))
    await trio.testing.wait_all_tasks_blocked()
    assert done == ["first", "second"]
    nursery.cancel_scope.cancel()


async def drain(stream: WebSocketStream) -> None:
    while await stream.receive():
        pass


async def test_three_missed_pongs_are_the_end(autojump_clock: trio.testing.MockClock) -> None:
    inner = request()
    stream = WebSocketStream(inner)
    with pytest.raises(StreamLostError):
        await stream.keep_alive()
    assert trio.current_time() == pytest.approx(120.0)
    assert inner.lost


async def test_an_answered_ping_starts_the_count_anew(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inner = request()
    stream = WebSocketStream(inner)
    nursery.start_soon(stream.keep_alive)
    nursery.start_soon(drain, stream)
    for number in range(1, 10):
        await trio.sleep(35)
        data = await inner.read()
        if number % 3 == 0:
            inner.write(ws_frame(10, server_frames(data)[-1][1]))
    assert not inner.lost
    nursery.cancel_scope.cancel()


async def test_signs_of_life_and_violations_are_counted() -> None:
    inner = request()
    counters = SocketCounters()
    stream = WebSocketStream(inner, counters)
    inner.write(
        ws_frame(9, b"a") + ws_frame(10, b"unasked") + ws_frame(9, b"b") + ws_frame(3, b"no such opcode")
    )
    inner.close()
    while await stream.receive():
        pass

    assert counters == SocketCounters(pings_received=2, pongs_sent=2, pongs_received=1, errors=1)
