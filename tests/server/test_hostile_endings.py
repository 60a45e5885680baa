"""What a client does while its session ends, and what must not become of it."""

import pytest
import trio
import trio.testing

from commucat_server.connect.modes.text import EventStream, LineStream, TextStream
from commucat_server.connect.modes.websocket import PING_INTERVAL, WebSocketStream
from end_to_end.mode_transports import ws_frame
from server.connect_builders import MemoryConnectStream

PING, PONG = 9, 10


def ws_opcodes(data: bytes) -> list[int]:
    """Of the server's frames, which are short here."""
    opcodes = []
    while data:
        opcodes.append(data[0] & 0x0F)
        data = data[2 + data[1] :]
    return opcodes


async def test_a_ping_behind_the_close_frame_is_not_answered() -> None:
    """The client could not know yet; an answer would have broken the session off before its last bytes."""
    inner = MemoryConnectStream()
    stream = WebSocketStream(inner)
    await stream.end()

    inner.write(ws_frame(PING, b"are you there") + ws_frame(2, b"more"))

    assert await stream.receive() == b"more"
    assert (await inner.read())[0] & 0x0F == 8
    assert await inner.read() == b""


async def test_a_pong_that_waits_for_room_when_the_end_comes_breaks_nothing() -> None:
    """In whatever order the two come to write."""
    for _ in range(20):
        inner = MemoryConnectStream(room=1)
        stream = WebSocketStream(inner)
        await inner.send(b"x")
        inner.write(ws_frame(PING, b"") + ws_frame(2, b"more"))
        received: list[bytes] = []

        async def receive(stream: WebSocketStream = stream, received: list[bytes] = received) -> None:
            received.append(await stream.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(stream.end)
            await trio.testing.wait_all_tasks_blocked()
            assert received == []
            sent = b""
            while more := await inner.read():
                sent += more
        assert received == [b"more"]
        assert sent.startswith(b"x")
        assert ws_opcodes(sent[1:]) in ([8], [PONG, 8], [8, PONG])


@pytest.mark.parametrize("kind", [EventStream, LineStream])
async def test_no_sign_of_life_follows_the_end(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, kind: type[TextStream]
) -> None:
    """A client may take its time over the last bytes; the session waits for it."""
    inner = MemoryConnectStream()
    stream = kind(inner, 30.0)
    nursery.start_soon(stream.keep_alive)

    await stream.end()
    await trio.sleep(100.0)

    assert await inner.read() == b""
    nursery.cancel_scope.cancel()


async def test_no_ping_follows_the_close_frame(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inner = MemoryConnectStream()
    stream = WebSocketStream(inner)
    nursery.start_soon(stream.keep_alive)

    await stream.end()
    await trio.sleep(3.5 * PING_INTERVAL)

    assert ws_opcodes(await inner.read()) == [8]
    nursery.cancel_scope.cancel()
