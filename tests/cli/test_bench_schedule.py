"""An open loop asks for exactly its rate, whatever the server does."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from commucat_cli.bench.scenarios.latency import waits
from commucat_cli.bench.scenarios.offline import segment_rates
from commucat_cli.bench.schedule import AWAKE, AWAKE_SHARE, Schedule

rates = st.floats(0.01, 100_000)
schedules = st.builds(Schedule, rates, st.integers(0, 5000))
moments = st.floats(-1, 10_000)


@given(schedules, moments)
def test_exactly_the_messages_whose_time_has_come_are_due(schedule: Schedule, elapsed: float) -> None:
    due = schedule.due_by(elapsed)
    assert 0 <= due <= schedule.count
    assert due == 0 or schedule.due(due - 1) <= elapsed
    assert due == schedule.count or schedule.due(due) > elapsed


@given(schedules, st.integers(0, 5000))
def test_a_message_is_due_at_its_own_moment(schedule: Schedule, number: int) -> None:
    assume(number < schedule.count)
    assert schedule.due_by(schedule.due(number)) == number + 1


@given(schedules, moments, moments)
def test_a_span_holds_the_messages_due_in_it(schedule: Schedule, first: float, last: float) -> None:
    inside = schedule.between(first, last)
    expected = [number for number in range(schedule.count) if first <= schedule.due(number) < last]
    assert list(inside) == expected


@given(schedules, st.lists(st.floats(0, 10_000), min_size=2, max_size=5))
def test_spans_that_meet_leave_nothing_out_and_take_nothing_twice(
    schedule: Schedule, cuts: list[float]
) -> None:
    cuts.sort()
    pieces = [number for one, other in pairwise(cuts) for number in schedule.between(one, other)]
    assert pieces == list(schedule.between(cuts[0], cuts[-1]))


def test_a_wait_counts_from_when_a_message_was_due_not_from_when_it_left() -> None:
    schedule = Schedule(10.0, 4)
    # The server stood still for a second: all four arrive at once, and have waited differently.
    times = [101.0, 101.0, 101.0, 0.0]
    assert waits(schedule, 100.0, times, range(4)) == [1.0, 0.9, 0.8]


@given(st.integers(1, 100_000), st.integers(1, 12))
def test_segments_hold_every_message(messages: int, parts: int) -> None:
    assume(parts <= messages)
    ends = [float(part + 1) for part in range(parts)]
    assert sum(segment_rates(messages, 0.0, ends, parts)) == messages


@given(schedules, st.floats(-1, 10))
def test_a_sender_is_awake_before_a_message_is_due_but_not_for_long(schedule: Schedule, left: float) -> None:
    rest = schedule.rest(left)
    assert 0 <= rest < max(left, 1e-9)
    awake = left - rest
    assert left <= 0 or awake <= AWAKE + 1e-9
    # Of the time between two messages.
    assert left <= 0 or awake * schedule.rate <= AWAKE_SHARE + 1e-9


def test_a_sender_sleeps_most_of_the_time() -> None:
    assert Schedule(100.0, 5).rest(0.01) == 0.01 - AWAKE
    assert Schedule(100.0, 5).rest(AWAKE) == 0
    assert Schedule(2000.0, 5).rest(0.0005) == 0.00045


def test_of_a_load_that_came_in_part_the_parts_keep_their_size() -> None:
    assert segment_rates(1000, 0.0, [1.0, 3.0], 4) == [250.0, 125.0]
    assert segment_rates(1000, 0.0, [], 4) == []


def test_a_client_is_woken_when_it_asked_for_it() -> None:
    """In a process of its own: the kernel keeps what was set. A system without the setting needs none."""
    setting = Path("/proc/self/timerslack_ns")
    program = (
        "import pathlib; from commucat_cli.bench.schedule import wake_in_time; wake_in_time(); "
        f"setting = pathlib.Path({str(setting)!r}); "
        "print(setting.read_text() if setting.exists() else 'no such setting')"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ("1" if setting.exists() else "no such setting")
