"""Rounds in which media goes out, and how much of it a busy server leaves out."""

from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import FrameTemplate, FrameType
from commucat_server.calls.forwarding.pressure import (
    HIGH,
    LOOK_INTERVAL,
    LOW,
    SPIKES,
    VIDEO_MEMORY,
    Pressure,
)
from commucat_server.calls.rounds import LONGEST, SLICE, MediaRounds, Pace
from commucat_server.listener.outflow import MANY, Outflow
from commucat_server.routing.live import LiveSession
from commucat_server.routing.media_queue import MediaPacket


class _Stream:
    gated = False


class _Receiver:
    """A session whose writer takes all media when it is woken."""

    def __init__(self, device_id: str, outflow: Outflow) -> None:
        self._outflow = outflow
        self._count = 0
        self.sent: list[tuple[float, int]] = []
        self.live = LiveSession(
            device_id=device_id,
            user_id="user",
            token_hash="",
            epoch="e",
            confirmed=0,
            receives=True,
            delivery_ack=True,
            wake=self._wake,
            next_sequence=self._next,
            call_media=True,
        )
        self.live.know_head(0)

    def give(self) -> None:
        packet = MediaPacket(
            FrameTemplate(FrameType.VOICE_FRAME, 1, b"sound"),
            5,
            _Stream(),
            rank=0,
            key_frame=False,
            arrived=trio.current_time(),
        )
        assert self.live.media(packet, trio.current_time, lambda *_: None)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _wake(self) -> None:
        assert self._outflow.add(self._flush)

    def _flush(self) -> None:
        self.sent.append((trio.current_time(), len(self.live.take_media())))


async def test_a_round_sends_everything_at_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    outflow, late = Outflow(), list[float]()
    rounds = MediaRounds(outflow, late.append)
    nursery.start_soon(rounds.run)
    receivers = [_Receiver(str(number), outflow) for number in range(3 * MANY)]
    for _ in range(4):
        for each in receivers:
            each.give()
            rounds.add([each.live], trio.current_time())
    await trio.testing.wait_all_tasks_blocked()
    assert all([count for _, count in each.sent] == [4] for each in receivers)
    assert len(late) == 1


class _Passes(trio.abc.Instrument):
    """Counts the passes of the event loop: in each of them everybody who can run has a turn."""

    count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_long_round_gives_others_their_turn(
    mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    passes, sent = _Passes(), list[int]()

    class Slow(_Receiver):
        def _flush(self) -> None:
            super()._flush()
            sent.append(passes.count)
            mock_clock.jump(SLICE / 2)

    outflow = Outflow()
    rounds = MediaRounds(outflow, lambda _: None)
    nursery.start_soon(rounds.run)
    for number in range(6):
        receiver = Slow(str(number), outflow)
        receiver.give()
        rounds.add([receiver.live], trio.current_time())
    trio.lowlevel.add_instrument(passes)
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.remove_instrument(passes)
    assert [sent.count(each) for each in sorted(set(sent))] == [2, 2, 2]


async def test_many_packets_wait_for_company(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    outflow = Outflow()
    rounds = MediaRounds(outflow, lambda _: None)
    nursery.start_soon(rounds.run)
    receiver = _Receiver("a", outflow)
    begin = trio.current_time()
    for _ in range(1000):
        receiver.give()
        rounds.add([receiver.live] * 8, trio.current_time())
        await trio.sleep(0.001)
    packets = sum(count for _, count in receiver.sent)
    assert packets >= 1000 - 1000 * LONGEST
    later = [when for when, _ in receiver.sent if when > begin + 0.5]
    # 8,000 packets a second: fifty rounds in each second, not a thousand.
    assert len(later) <= 0.5 / LONGEST + 1
    assert max(b - a for a, b in pairwise(later)) < 1.5 * LONGEST


async def test_a_session_that_has_closed_is_passed_over(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    outflow = Outflow()
    rounds = MediaRounds(outflow, lambda _: None)
    gone, here = _Receiver("a", outflow), _Receiver("b", outflow)
    for each in (gone, here):
        each.give()
        rounds.add([each.live], trio.current_time())
    gone.live.close()
    nursery.start_soon(rounds.run)
    await trio.testing.wait_all_tasks_blocked()
    assert not gone.sent
    assert [count for _, count in here.sent] == [1]


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0.0, 2.0)), max_size=50))
def test_the_pause_has_bounds(steps: list[tuple[int, float]]) -> None:
    pace, now = Pace(), 0.0
    for packets, seconds in steps:
        now += seconds
        pace.count(packets, now)
        assert 0.0 <= pace.pause <= LONGEST


def test_two_who_speak_are_not_kept_waiting() -> None:
    pace = Pace()
    for number in range(1000):
        pace.count(1, number * 0.01)
        assert pace.pause == 0.0


# -- a busy server --------------------------------------------------------------------------------------


def _pressed(looks: int, late: float = HIGH * 1.01) -> Pressure:
    pressure = Pressure()
    for number in range(looks):
        pressure.look(late, number * LOOK_INTERVAL)
    return pressure


def _shed(pressure: Pressure, video: bool, packets: int, now: float = 0.0) -> list[bool]:
    return [pressure.sheds(video, now) for _ in range(packets)]


def test_a_spike_drops_nothing() -> None:
    pressure = _pressed(SPIKES - 1)
    pressure.look(LOW / 2, 1.0)
    pressure.look(2 * HIGH, 2.0)
    assert pressure.share == 0.0
    assert not any(_shed(pressure, True, 100) + _shed(pressure, False, 100))


def test_video_goes_before_sound() -> None:
    pressure = _pressed(SPIKES + 3)
    assert 0.0 < pressure.share < 0.5
    assert any(_shed(pressure, True, 100))
    assert not any(_shed(pressure, False, 100))


def test_without_video_sound_goes_at_once() -> None:
    pressure = _pressed(SPIKES + 3)
    pressure.sheds(True, 0.0)
    assert not any(_shed(pressure, False, 100, VIDEO_MEMORY / 2))
    assert any(_shed(pressure, False, 100, VIDEO_MEMORY))


def test_the_later_the_loop_the_more_is_left_out() -> None:
    shares = [_pressed(SPIKES, HIGH * times).share for times in (1.2, 2.0, 4.0, 40.0)]
    assert shares[0] < shares[1] < shares[2] == shares[3]


@pytest.mark.parametrize("beside_video", [True, False])
def test_sound_never_goes_altogether(beside_video: bool) -> None:
    pressure = _pressed(1000)
    if beside_video:
        assert all(_shed(pressure, True, 100))
    kept = _shed(pressure, False, 1000).count(False)
    assert 40 <= kept <= 150


@pytest.mark.parametrize("video", [True, False])
def test_what_is_dropped_is_an_even_part(video: bool) -> None:
    pressure = _pressed(SPIKES + 2)
    share = min(1.0, 2 * pressure.share) if video else pressure.share
    assert 0.0 < share < 1.0
    dropped = _shed(pressure, video, 1000)
    assert sum(dropped) == pytest.approx(1000 * share, abs=2)
    for start in range(0, 1000, 100):
        assert sum(dropped[start : start + 100]) == pytest.approx(100 * share, abs=2)


def test_it_comes_back_when_there_is_room() -> None:
    pressure, now = _pressed(1000), 1000.0
    while pressure.share > 0.0:
        now += LOOK_INTERVAL
        pressure.look(0.0, now)
    assert now < 1010.0


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 1.0)), max_size=100))
def test_the_share_has_bounds(looks: list[tuple[float, float]]) -> None:
    pressure, now = Pressure(), 0.0
    for late, seconds in looks:
        now += seconds
        pressure.look(late, now)
        assert 0.0 <= pressure.share < 1.0
