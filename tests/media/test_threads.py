import threading

import pytest
import trio
import trio.testing

from commucat_media.opus import OpusDecoder, OpusEncoder
from commucat_media.threads import WAITING_CALLS, CodecBusyError, CodecLane, CodecThreads
from media.sounds import MONO_48K, frames_of, warble


async def test_a_codec_works_in_a_thread_of_its_own() -> None:
    lane = CodecThreads(2).lane()
    assert await lane.run(threading.get_ident) != threading.get_ident()
    encoder, decoder = OpusEncoder(), OpusDecoder()
    frames = frames_of(warble(0.2))
    packets = [await lane.run(encoder.encode, frame) for frame in frames]
    heard = [await lane.run(decoder.decode, packet) for packet in packets]
    assert [len(frame) for frame in heard] == [MONO_48K.frame_bytes] * len(frames)


async def test_calls_of_one_codec_come_one_after_another_in_their_order(nursery: trio.Nursery) -> None:
    lane = CodecThreads(4).lane()
    inside = threading.Semaphore(1)
    order: list[int] = []

    def call(index: int) -> None:
        # Fails at once when another call is inside.
        assert inside.acquire(blocking=False)
        order.append(index)
        inside.release()

    async with trio.open_nursery() as calls:
        for index in range(10):
            calls.start_soon(lane.run, call, index)
            # The order of tasks that start is not the order of the calls; wait until this one stands in line.
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(10))


async def test_codecs_work_side_by_side() -> None:
    threads = CodecThreads(2)
    both = threading.Barrier(2, timeout=60)
    async with trio.open_nursery() as calls:
        for lane in (threads.lane(), threads.lane()):
            # Neither returns before the other is there.
            calls.start_soon(lane.run, both.wait)


async def test_too_many_calls_are_refused_and_none_is_kept(nursery: trio.Nursery) -> None:
    lane = CodecThreads(1).lane()
    go_on = threading.Event()

    async def call() -> None:
        await lane.run(go_on.wait)

    for _ in range(WAITING_CALLS):
        nursery.start_soon(call)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(CodecBusyError, match=f"{WAITING_CALLS} calls wait"):
        await lane.run(int)
    go_on.set()
    assert await finished(lane) == 0


async def finished(lane: CodecLane) -> int:
    """Ask until there is room again; each answer lets the others move on."""
    while True:
        try:
            return await lane.run(int)
        except CodecBusyError:
            await trio.lowlevel.checkpoint()


async def test_what_a_codec_raises_is_raised_and_the_next_call_works() -> None:
    lane = CodecThreads(1).lane()
    with pytest.raises(ZeroDivisionError):
        await lane.run(divmod, 1, 0)
    assert await lane.run(divmod, 7, 2) == (3, 1)


async def test_who_is_cancelled_while_waiting_leaves_the_line(nursery: trio.Nursery) -> None:
    lane = CodecThreads(1).lane()
    go_on = threading.Event()
    nursery.start_soon(lane.run, go_on.wait)
    await trio.testing.wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await lane.run(int)
    assert scope.cancelled_caught
    go_on.set()
    assert await lane.run(int) == 0
