"""POSTs that bring a stream's bytes: repeated, overtaken, cut off, and never with a gap."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from commucat_server.connect.modes import GONE, Upstreams, feed_upstream
from commucat_server.connect.modes.refusal import Refusal
from commucat_server.connect.modes.upstream import MAX_POST, MAX_POSTS, MAX_WAITING, Upstream
from commucat_server.listener import StreamLostError
from server.connect_builders import MemoryConnectStream

STREAM = bytes(range(256)) * 2


def post(data: bytes, *, end: bool = True) -> MemoryConnectStream:
    stream = MemoryConnectStream()
    stream.write(data)
    if end:
        stream.close()
    return stream


@given(st.lists(st.tuples(st.integers(0, 512), st.integers(0, 512)), max_size=30))
def test_any_order_and_repetition_gives_a_prefix_of_the_stream(spans: list[tuple[int, int]]) -> None:
    async def run() -> None:
        upstream = Upstream()
        known = 0
        for start, size in spans:
            answer = await upstream.feed(start, post(STREAM[start : start + size]), 30.0)
            if start > known:
                assert answer == Refusal(409, "Conflict", "bytes before this offset are missing", known)
            else:
                assert answer is None
                known = max(known, min(start + size, len(STREAM)))
        assert upstream.expected == known
        if known:
            assert await upstream.take() == STREAM[:known]

    trio.run(run)


async def test_a_post_overtaken_by_its_own_repetition(nursery: trio.Nursery) -> None:
    upstream = Upstream()
    slow = post(b"ab", end=False)
    nursery.start_soon(upstream.feed, 0, slow, 30.0)
    await trio.testing.wait_all_tasks_blocked()
    assert await upstream.feed(0, post(b"abcdef"), 30.0) is None
    slow.write(b"cdefgh")
    slow.close()
    await trio.testing.wait_all_tasks_blocked()
    assert await upstream.take() == b"abcdefgh"


async def test_what_came_before_a_post_broke_off_is_kept() -> None:
    upstream = Upstream()
    broken = post(b"abc", end=False)
    async with trio.open_nursery() as nursery:

        async def feed() -> None:
            with pytest.raises(StreamLostError):
                await upstream.feed(0, broken, 30.0)

        nursery.start_soon(feed)
        await trio.testing.wait_all_tasks_blocked()
        broken.lose()
    assert await upstream.feed(0, post(b"abcdef"), 30.0) is None
    assert await upstream.take() == b"abcdef"


async def test_a_session_that_takes_nothing_stops_posts(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream()
    assert await upstream.feed(0, post(bytes(MAX_WAITING)), 30.0) is None
    refusal = await upstream.feed(MAX_WAITING, post(b"more"), 30.0)
    assert refusal is not None
    assert (refusal.status, refusal.expected) == (408, MAX_WAITING)
    assert trio.current_time() == 30.0
    assert len(await upstream.take()) == MAX_WAITING
    assert await upstream.feed(MAX_WAITING, post(b"more"), 30.0) is None


async def test_the_end_of_the_stream_ends_posts(nursery: trio.Nursery) -> None:
    upstreams = Upstreams()
    upstream = upstreams.open()
    answers: list[Refusal | None] = []
    await upstream.feed(0, post(bytes(MAX_WAITING)), 30.0)

    async def feed() -> None:
        answers.append(await upstream.feed(MAX_WAITING, post(b"more"), 30.0))

    nursery.start_soon(feed)
    await trio.testing.wait_all_tasks_blocked()
    assert upstreams.find(upstream.id) is upstream
    upstreams.close(upstream)
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [GONE]
    assert upstreams.find(upstream.id) is None


@pytest.mark.parametrize("offset", ["", "-1", "1.0", "0x1", "\u0661", "9" * 20])
async def test_an_offset_is_a_number(offset: str) -> None:
    refusal = await feed_upstream(Upstream(), offset, post(b"x"), 30.0)
    assert refusal is not None
    assert refusal.status == 400


async def test_one_post_has_a_limit() -> None:
    refusal = await feed_upstream(Upstream(), "0", post(bytes(MAX_POST + 1)), 30.0)
    assert refusal is not None
    assert (refusal.status, refusal.expected) == (413, 0)


async def test_posts_at_once_have_a_limit(nursery: trio.Nursery) -> None:
    upstream = Upstream()
    for _ in range(MAX_POSTS):
        nursery.start_soon(feed_upstream, upstream, "0", post(b"", end=False), 30.0)
    await trio.testing.wait_all_tasks_blocked()
    refusal = await feed_upstream(upstream, "0", post(b"x"), 30.0)
    assert refusal is not None
    assert refusal.status == 429
    nursery.cancel_scope.cancel()


async def test_bytes_come_by_post() -> None:
    stream = MemoryConnectStream(method="GET")
    refusal = await feed_upstream(Upstream(), "0", stream, 30.0)
    assert refusal is not None
    assert (refusal.status, refusal.allow) == (405, "POST")
