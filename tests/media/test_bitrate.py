import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_media.bitrate import MOST_RECEIVERS, BitrateController

MEGABIT = 1_000_000


def over_link(
    controller: BitrateController,
    capacity: Callable[[int], float],
    *,
    seconds: int,
    own_loss: float = 0.0,
    server_tells: bool = False,
    seed: int = 1,
) -> list[int]:
    """Send over a link that queues a quarter of a second and drops the rest; return each second's bitrate."""
    chance = random.Random(seed)
    queued = 0.0
    bitrates = []
    for second in range(seconds):
        bitrates.append(controller.bitrate)
        sent = controller.bitrate
        room = capacity(second) + 0.25 * capacity(second) - queued
        passed = min(sent, room)
        queued = max(queued + passed - capacity(second), 0.0)
        dropped = (sent - passed) / sent
        lost = dropped + (1 - dropped) * own_loss * chance.uniform(0.5, 1.5)
        if server_tells and dropped:
            controller.congested(second + 0.5)
        controller.report("bob", lost, float(second + 1))
    return bitrates


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("capacity", [100_000, 300_000, 900_000])
@pytest.mark.parametrize("start", [50_000, 2 * MEGABIT])
def test_it_finds_the_capacity_from_both_sides(capacity: int, start: int) -> None:
    controller = BitrateController(lowest=30_000, highest=2 * MEGABIT, start=start)
    bitrates = over_link(controller, lambda _: capacity, seconds=120)
    # It may stay where up to a tenth is lost: nothing tells this from a loss of the network's own.
    assert 0.8 * capacity < mean(bitrates[60:]) < 1.12 * capacity
    assert max(bitrates[60:]) < 1.3 * capacity


def test_it_stays_below_the_capacity_where_the_server_tells_of_drops() -> None:
    controller = BitrateController(lowest=30_000, highest=2 * MEGABIT)
    bitrates = over_link(controller, lambda _: 500_000, seconds=180, server_tells=True)
    assert 0.75 * 500_000 < mean(bitrates[60:]) < 500_000


def test_it_falls_within_seconds_and_recovers() -> None:
    def capacity(second: int) -> float:
        return 200_000 if 60 <= second < 90 else MEGABIT

    controller = BitrateController(lowest=30_000, highest=1_500_000)
    bitrates = over_link(controller, capacity, seconds=160)
    assert min(bitrates[50:60]) > 800_000
    assert max(bitrates[70:90]) < 1.15 * 200_000
    assert max(bitrates[125:160]) > 900_000


@pytest.mark.parametrize("own_loss", [0.03, 0.06])
def test_a_loss_that_no_lower_bitrate_mends_does_not_push_it_down(own_loss: float) -> None:
    controller = BitrateController(lowest=30_000, highest=MEGABIT, start=500_000)
    bitrates = over_link(controller, lambda _: 10 * MEGABIT, seconds=120, own_loss=own_loss)
    assert min(bitrates) >= 500_000


def test_nothing_lost_raises_it_by_five_to_eight_percent_a_second() -> None:
    controller = BitrateController(lowest=100_000, highest=10 * MEGABIT, start=100_000)
    rates = [controller.report("bob", 0.0, float(second)) for second in range(10)]
    steps = [later / earlier for earlier, later in itertools.pairwise(rates)]
    assert all(1.05 <= round(step, 3) <= 1.08 for step in steps)


def test_much_lost_lowers_it_by_half_of_that() -> None:
    controller = BitrateController(lowest=1_000, highest=100_000)
    assert controller.report("bob", 0.5, 0.0) == 75_000
    assert controller.report("bob", 0.2, 1.0) == 67_500


@pytest.mark.parametrize("loss", [0.02, 0.05, 0.1])
def test_between_them_it_stays(loss: float) -> None:
    controller = BitrateController(lowest=1_000, highest=200_000, start=100_000)
    assert {controller.report("bob", loss, float(second)) for second in range(20)} == {100_000}


def test_drops_of_the_server_lower_it_once_a_second() -> None:
    controller = BitrateController(lowest=1_000, highest=100_000)
    assert [controller.congested(0.3 * step) for step in range(5)] == [85_000] * 4 + [72_250]


def test_the_server_may_name_a_lower_bitrate() -> None:
    controller = BitrateController(lowest=10_000, highest=100_000)
    assert controller.congested(0.0, 40_000) == 40_000
    assert controller.congested(0.1, 50_000) == 40_000
    assert controller.congested(0.2, 1) == 10_000


def test_the_worst_receiver_decides_until_it_is_silent() -> None:
    controller = BitrateController(lowest=1_000, highest=100_000, start=50_000)
    assert controller.report("bad", 0.05, 0.0) == 50_000
    for second in range(1, 5):
        assert controller.report("good", 0.0, float(second)) == 50_000
    assert controller.loss(4.0) == 0.05
    assert controller.report("good", 0.0, 6.0) == 54_000
    assert controller.loss(6.0) == 0.0


def test_many_receivers_raise_it_no_faster_than_one() -> None:
    one, many = (BitrateController(lowest=1_000, highest=MEGABIT, start=10_000) for _ in range(2))
    for second in range(20):
        one.report("bob", 0.0, float(second))
        for index in range(7):
            many.report(f"device-{index}", 0.0, second + index / 10)
    assert many.bitrate == one.bitrate


def test_an_old_report_of_loss_does_not_lower_it_again() -> None:
    controller = BitrateController(lowest=1_000, highest=100_000)
    controller.report("bad", 0.4, 0.0)
    assert controller.bitrate == 80_000
    for second in (1.0, 2.0, 3.0):
        assert controller.report("good", 0.0, second) == 80_000


def test_reports_of_any_number_of_receivers_are_bounded() -> None:
    controller = BitrateController(lowest=1_000, highest=100_000)
    controller.report("first", 1.0, 0.0)
    for index in range(MOST_RECEIVERS):
        controller.report(f"device-{index}", 0.0, 0.1)
    assert controller.loss(0.1) == 0.0


@given(st.lists(st.tuples(st.floats(), st.floats(0, 3), st.sampled_from(["a", "b", "!"])), max_size=60))
def test_it_keeps_its_bounds_whatever_is_reported(reports: list[tuple[float, float, str]]) -> None:
    controller = BitrateController(lowest=10_000, highest=100_000, start=40_000)
    now = 0.0
    for loss, pause, receiver in reports:
        now += pause
        bitrate = controller.congested(now) if receiver == "!" else controller.report(receiver, loss, now)
        assert 10_000 <= bitrate <= 100_000
        assert not math.isnan(controller.loss(now))


@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (2, 1), (-1, 5)])
def test_impossible_bounds_are_refused(lowest: int, highest: int) -> None:
    with pytest.raises(ValueError, match="bitrates from"):
        BitrateController(lowest=lowest, highest=highest)


@pytest.mark.parametrize(("start", "first"), [(1, 10_000), (10**9, 100_000), (None, 100_000)])
def test_the_start_is_within_the_bounds(start: int | None, first: int) -> None:
    assert BitrateController(lowest=10_000, highest=100_000, start=start).bitrate == first
