"""What clients send in each mode, cut anywhere, out of order, in several requests, or plain garbage."""

import base64
from itertools import pairwise
from typing import Any

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_server.connect.modes.refusal import Refusal
from commucat_server.connect.modes.upstream import MAX_WAITING, Upstream
from commucat_server.connect.modes.websocket import WebSocketStream
from commucat_server.listener import StreamLostError
from end_to_end.mode_transports import ws_frame
from server.connect_builders import MemoryConnectStream

BINARY, TEXT, CONTINUED, PING, PONG = 2, 1, 0, 9, 10
STREAM = bytes(range(256)) * 4

pieces = st.lists(st.binary(max_size=40), min_size=1, max_size=4)
control = st.lists(st.tuples(st.sampled_from((PING, PONG)), st.binary(max_size=125)), max_size=2)
messages = st.lists(st.tuples(st.sampled_from((BINARY, TEXT)), pieces, control), max_size=6)


def on_the_wire(kind: int, parts: list[bytes], between: list[tuple[int, bytes]]) -> tuple[bytes, bytes]:
    """A message in so many fragments, with control frames between them; the bytes it means."""
    meant = b"".join(parts)
    if kind == TEXT:
        text = base64.b64encode(meant)
        size = len(text) // len(parts) + 1
        parts = [text[start : start + size] for start in range(0, len(text), size)] or [b""]
    frames = []
    for place, part in enumerate(parts):
        fin = place == len(parts) - 1
        frames.append(ws_frame(kind if place == 0 else CONTINUED, part, fin=fin))
        if not fin:
            frames += [ws_frame(opcode, payload) for opcode, payload in between]
    return b"".join(frames), meant


async def read_websocket(chunks: list[bytes]) -> tuple[bytes, bytes]:
    """(what the session was given, what the client was sent) when the client writes these chunks and ends."""
    inner = MemoryConnectStream()
    stream = WebSocketStream(inner)
    data = bytearray()

    async def read() -> None:
        while more := await stream.receive():
            data.extend(more)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for chunk in chunks:
            inner.write(chunk)
            await trio.testing.wait_all_tasks_blocked()
        inner.close()
    await stream.end()
    return bytes(data), await inner.read()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


@settings(max_examples=60)
@given(messages, st.lists(st.integers(0, 2**16), max_size=8))
def test_websocket_messages_are_one_stream_however_they_are_cut(sent: Any, places: list[int]) -> None:
    frames = [on_the_wire(*message) for message in sent]
    wire = b"".join(frame for frame, _ in frames)

    data, answered = trio.run(read_websocket, cut(wire, places))

    assert data == b"".join(meant for _, meant in frames)
    pings = [
        payload
        for _, parts, between in sent
        for _ in parts[1:]
        for opcode, payload in between
        if opcode == PING
    ]
    if all(kind == BINARY for kind, _, _ in sent):
        assert answered.startswith(b"".join(bytes([0x8A, len(ping)]) + ping for ping in pings))


@settings(max_examples=150)
@given(messages, st.binary(max_size=200), st.lists(st.integers(0, 2**16), max_size=4))
def test_websocket_garbage_spoils_nothing_that_came_before(
    sent: Any, garbage: bytes, places: list[int]
) -> None:
    good = b"".join(on_the_wire(*message)[0] for message in sent)
    meant = b"".join(on_the_wire(*message)[1] for message in sent)

    data, _ = trio.run(read_websocket, cut(good + garbage, places))

    assert data.startswith(meant)


spans = st.lists(
    st.tuples(st.integers(0, 300), st.lists(st.integers(0, 200), min_size=1, max_size=4), st.booleans()),
    min_size=1,
    max_size=7,
)


async def feed_at_once(posts: list[tuple[int, list[int], bool]]) -> None:
    """Each POST has an offset, the sizes of the pieces in which it arrives, and whether it breaks off."""
    upstream = Upstream()
    taken = bytearray()
    answers: dict[int, Refusal | str | None] = {}
    streams = [MemoryConnectStream() for _ in posts]

    async def feed(place: int) -> None:
        try:
            answers[place] = await upstream.feed(posts[place][0], streams[place], 30.0)
        except StreamLostError:
            answers[place] = "lost"

    async def take() -> None:
        while True:
            taken.extend(await upstream.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        for place in range(len(posts)):
            nursery.start_soon(feed, place)
        for turn in range(4):
            for (offset, sizes, _), stream in zip(posts, streams, strict=True):
                if turn < len(sizes):
                    start = offset + sum(sizes[:turn])
                    stream.write(STREAM[start : start + sizes[turn]])
            await trio.testing.wait_all_tasks_blocked()
        for (_, _, breaks_off), stream in zip(posts, streams, strict=True):
            stream.lose() if breaks_off else stream.close()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert bytes(taken) == STREAM[: upstream.expected]
    for place, (offset, sizes, _) in enumerate(posts):
        if answers[place] is None:
            assert upstream.expected >= min(offset + sum(sizes), len(STREAM))
        elif isinstance(answer := answers[place], Refusal):
            assert answer.status == 409
            assert answer.expected is not None
            assert answer.expected < offset


@settings(max_examples=100)
@given(spans)
def test_posts_at_once_give_a_prefix_of_the_stream(posts: list[tuple[int, list[int], bool]]) -> None:
    trio.run(feed_at_once, posts)


async def test_posts_at_once_do_not_pass_the_bound(nursery: trio.Nursery) -> None:
    """Eight that wait for room come in one by one, not all at once."""
    upstream = Upstream()
    size = MAX_WAITING + 1
    whole = bytes(size)
    streams = [MemoryConnectStream() for _ in range(8)]
    for stream in streams:
        stream.write(whole)
        nursery.start_soon(upstream.feed, 0, stream, 30.0)
    await trio.testing.wait_all_tasks_blocked()

    assert upstream.expected == size
    for stream in streams:
        stream.write(bytes(1000))
    await trio.testing.wait_all_tasks_blocked()
    assert upstream.expected == size
    assert len(await upstream.take()) == size
    await trio.testing.wait_all_tasks_blocked()
    assert upstream.expected == size + 1000
    nursery.cancel_scope.cancel()
