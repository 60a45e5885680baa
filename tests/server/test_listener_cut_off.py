"""Ending a stream whose peer gives no more room for what is queued, and what its answers confirm."""

import h2.events
import h2.settings
import trio
import trio.testing

from commucat_server.listener import ConnectStream, ListenerSettings, StreamLostError
from server.listener_builders import served

WINDOW = 65_535


async def test_a_stuck_stream_is_ended_and_not_reset() -> None:
    positions: list[int] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 100_000)
        positions.append(stream.sent_bytes)
        await trio.testing.wait_all_tasks_blocked()
        stream.cut_off()
        positions.append(stream.sent_bytes)
        stream.cut_off()
        while await stream.receive():
            pass

    async with served(handler) as test:
        test.peer.reads_bodies = False
        stream_id = await test.peer.request()
        await test.peer.until(lambda: test.peer.ended(stream_id))
        assert len(test.peer.body(stream_id)) == WINDOW
        assert not test.peer.reset(stream_id)
        await test.peer.send(stream_id, b"", end=True)
    assert positions == [100_000, WINDOW]


async def test_an_end_that_was_asked_for_before_is_not_held_back_by_what_is_dropped() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 100_000)
        await stream.end()
        await trio.testing.wait_all_tasks_blocked()
        stream.cut_off()
        await stream.wait_closed()

    async with served(handler) as test:
        test.peer.reads_bodies = False
        stream_id = await test.peer.request(end=True)
        await test.peer.until(lambda: test.peer.ended(stream_id))
        assert len(test.peer.body(stream_id)) == WINDOW


async def test_nothing_is_dropped_that_the_peer_has_room_for() -> None:
    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 1000)
        await stream.flushed()
        stream.cut_off()

    async with served(handler) as test:
        stream_id = await test.peer.request(end=True)
        assert (await test.peer.answer(stream_id))[2] == b"x" * 1000


async def test_a_window_below_zero_holds_the_end_back_until_it_opens() -> None:
    go = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 1000)
        await go.wait()
        await stream.end()

    async with served(handler) as test:
        stream_id = await test.peer.request(end=True)
        test.peer.reads_bodies = False
        await test.peer.until(lambda: len(test.peer.body(stream_id)) == 1000)
        # RFC 9113, section 6.9.2: what was sent before makes the window negative.
        test.peer.protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        await test.peer.flush()
        await test.peer.until(lambda: test.peer.count(h2.events.SettingsAcknowledged) > 0)
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert test.connection._lost is None
        test.peer.protocol.increment_flow_control_window(1000, stream_id)
        await test.peer.flush()
        assert (await test.peer.answer(stream_id))[2] == b"x" * 1000


async def test_a_ping_answers_for_what_the_window_let_out_and_for_no_more(
    mock_clock: trio.testing.MockClock,
) -> None:
    answered: list[int] = []
    lost: list[str] = []

    async def handler(stream: ConnectStream) -> None:
        await stream.start(200, [])
        await stream.send(b"x" * 10_000)
        answered.append(await stream.confirm(0))
        await stream.send(b"x" * 100_000)
        answered.append(await stream.confirm(answered[-1]))
        with trio.move_on_after(60) as patience:
            answered.append(await stream.confirm(answered[-1]))
        assert patience.cancelled_caught
        try:
            await stream.confirm()
        except StreamLostError as exc:
            lost.append(str(exc))

    async with served(handler, settings=ListenerSettings(drain_timeout=1)) as test:
        test.peer.reads_bodies = False
        stream_id = await test.peer.request()
        await test.peer.until(lambda: len(test.peer.body(stream_id)) == WINDOW)
        await test.peer.until(lambda: test.peer.count(h2.events.PingReceived) == 2)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(60)
        await trio.testing.wait_all_tasks_blocked()
        test.peer.protocol.reset_stream(stream_id)
        await test.peer.flush()
        await trio.testing.wait_all_tasks_blocked()
    assert answered == [10_000, WINDOW]
    assert lost == ["reset by the peer"]
