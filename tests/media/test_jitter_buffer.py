import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_media.errors import MediaFormatError
from commucat_media.jitter_buffer import LONGEST_DATA, Arrival, JitterBuffer, PlayoutKind
from media.networks import FRAME, Network, index_of, listen, played


def put(buffer: JitterBuffer, index: int, now: float, *, number: int | None = None) -> Arrival:
    number = index if number is None else number
    return buffer.put(number=number, timestamp=index * 960, data=index.to_bytes(4, "big"), now=now)


def test_a_good_network_is_played_whole_and_in_time() -> None:
    heard = played(Network())
    # One frame is left out while the delay falls from what was assumed to what is needed.
    assert len(heard.indexes()) == 499
    assert heard.indexes() == sorted(heard.indexes())
    assert heard.delays()[-1] < 0.05 + 3 * FRAME
    assert heard.buffer.counts.late == heard.buffer.counts.recovered == 0


@pytest.mark.parametrize("loss", [0.05, 0.2])
@pytest.mark.parametrize("jitter", [0.0, 0.06])
@pytest.mark.parametrize("seed", range(3))
def test_lost_frames_are_recovered_where_the_next_one_came(loss: float, jitter: float, seed: int) -> None:
    network = Network(loss=loss, jitter=jitter, seed=seed)
    heard = played(network)
    arrived = {index for _, index in network.arrivals(index * FRAME for index in range(500))}
    heard_frames = heard.indexes()
    assert heard_frames == sorted(set(heard_frames))
    # Hardly anything that came is thrown away.
    assert len(heard_frames) >= len(arrived) - 10
    recoverable = {index for index in range(499) if index not in arrived and index + 1 in arrived}
    recovered = {
        index_of(playout.data) - 1 for _, playout in heard.playouts if playout.kind is PlayoutKind.RECOVER
    }
    assert recovered <= recoverable
    assert len(recovered) > 0.5 * len(recoverable)
    # A frame is heard at every moment between the first and the last.
    kinds = heard.kinds()
    assert "SILENCE" not in kinds[kinds.index("FRAME") :]


def test_what_is_overtaken_is_put_in_order() -> None:
    # Delays differ by up to four frames, so that packets arrive in any order.
    network = Network(jitter=0.08)
    order = [index for _, index in network.arrivals(index * FRAME for index in range(500))]
    assert order != sorted(order)
    heard = played(network)
    assert heard.indexes() == sorted(heard.indexes())
    assert len(heard.indexes()) > 490


def test_the_delay_follows_the_network() -> None:
    calm, rough = played(Network()), played(Network(jitter=0.1))
    assert rough.buffer.target_delay > calm.buffer.target_delay + 0.05
    assert calm.buffer.target_delay == pytest.approx(FRAME)
    assert rough.buffer.target_delay < 0.15


def test_repeats_are_played_once() -> None:
    heard = played(Network(repeats=0.5))
    assert len(heard.indexes()) == len(set(heard.indexes())) == 499
    assert heard.buffer.counts.repeated > 200


def test_numbers_and_timestamps_wrap() -> None:
    heard = played(Network(jitter=0.03), first_number=2**32 - 50, first_timestamp=2**32 - 48_000)
    assert len(heard.indexes()) >= 499
    assert heard.buffer.report().lost == 0


def test_a_pause_of_the_speaker_is_no_loss() -> None:
    # As Opus does it with DTX: in a pause a packet every 400 ms.
    heard = played(Network(), spoken=lambda index: index % 100 < 60 or index % 20 == 0)
    report = heard.buffer.report()
    assert report.lost == 0
    assert report.expected == len([index for index in range(500) if index % 100 < 60 or index % 20 == 0])
    assert "RECOVER" not in heard.kinds()
    assert len(heard.indexes()) >= report.expected - 2
    # Each pause is as long as it was when spoken, up to the frame by which the delay changes.
    last_before, first_after = 59, 100
    times = {index_of(p.data): now for now, p in heard.playouts if p.kind is PlayoutKind.FRAME}
    assert times[first_after] - times[last_before] == pytest.approx(41 * FRAME, abs=2.5 * FRAME)


def test_a_long_pause_becomes_silence_and_ends() -> None:
    heard = played(Network(), frames=400, spoken=lambda index: index < 100 or index >= 300)
    kinds = heard.kinds()
    pause = kinds[kinds.index("FRAME") + 110 : 290]
    assert pause.count("SILENCE") > 100
    assert heard.indexes()[-1] == 399


def test_what_is_late_is_played_late_and_the_delay_shrinks_again() -> None:
    heard = played(Network(stalls=((3.0, 3.3),)), levels=lambda index: 60 if index % 50 < 10 else 20)
    times = dict(zip(heard.indexes(), heard.delays(), strict=True))
    longest = max(times.values())
    assert 0.3 < longest < 0.45
    # What was said while the network stood still is heard, but for the pause in it and one frame.
    said = {*range(145, 150), *range(160, 165)}
    assert len(said - times.keys()) <= 1
    assert heard.delays()[-1] < 0.15


def test_after_a_long_stall_the_oldest_is_given_up() -> None:
    heard = played(Network(stalls=((3.0, 4.5),)))
    assert max(heard.delays()) < 0.4 + 1.6
    assert heard.delays()[-1] < 0.5
    assert heard.indexes() == sorted(set(heard.indexes()))


def test_quiet_frames_are_left_out_first() -> None:
    def quiet(index: int) -> int:
        return 90 if index % 10 == 0 else 10

    heard = played(Network(stalls=((3.0, 3.2),)), levels=quiet)
    missing = set(range(499)) - set(heard.indexes())
    assert missing
    # Two changes cannot wait: the first delay is more than needed, and the stall leaves a long one.
    assert len([index for index in missing if quiet(index) == 10]) <= 2 < len(missing)


def test_a_skipped_frame_is_given_to_the_decoder() -> None:
    heard = played(Network(stalls=((3.0, 3.2),)))
    skipped = [index_of(playout.skipped.data) for _, playout in heard.playouts if playout.skipped is not None]
    assert len(skipped) == heard.buffer.counts.skipped > 0
    assert not set(skipped) & set(heard.indexes())


def test_nothing_is_played_before_anything_came() -> None:
    buffer = JitterBuffer()
    assert [buffer.take(index * FRAME).kind for index in range(5)] == [PlayoutKind.SILENCE] * 5


def test_a_packet_after_its_time_is_late() -> None:
    buffer = JitterBuffer()
    for index in (0, 1, 2, 4, 5):
        assert put(buffer, index, 0.0) is Arrival.KEPT
    while buffer:
        buffer.take(0.2)
    assert put(buffer, 3, 0.3) is Arrival.LATE
    assert buffer.counts.late == 1


@pytest.mark.parametrize("ahead", [1, 2_000, 2**31])
def test_a_flood_stays_within_bounds(ahead: int) -> None:
    buffer = JitterBuffer(longest_delay=0.4)
    for index in range(20_000):
        buffer.put(
            number=index * ahead % 2**32, timestamp=index * 960 % 2**32, data=bytes(100), now=index * 1e-5
        )
        assert len(buffer) <= 40
    assert buffer.take(1.0).kind is not None


def test_a_packet_too_large_is_refused() -> None:
    with pytest.raises(MediaFormatError, match="16385 bytes"):
        JitterBuffer().put(number=0, timestamp=0, data=bytes(LONGEST_DATA + 1), now=0.0)


def test_a_single_strange_number_is_ignored_and_two_begin_anew() -> None:
    buffer = JitterBuffer()
    for index in range(50):
        put(buffer, index, index * FRAME)
        buffer.take(index * FRAME)
    assert put(buffer, 50, 1.0, number=5_000_000) is Arrival.REPEATED
    assert put(buffer, 51, 1.02) is Arrival.KEPT
    assert put(buffer, 52, 1.04, number=7_000_000) is Arrival.REPEATED
    assert put(buffer, 53, 1.06, number=7_000_001) is Arrival.KEPT


def test_another_clock_begins_anew() -> None:
    buffer = JitterBuffer()
    for index in range(50):
        put(buffer, index, index * FRAME)
        buffer.take(index * FRAME)
    kinds = []
    for index in range(50, 100):
        # The same numbers go on, and the timestamps are an hour ahead.
        buffer.put(number=index, timestamp=index * 960 + 172_800_000, data=b"\x01", now=index * FRAME)
        kinds.append(buffer.take(index * FRAME).kind)
    assert kinds.count(PlayoutKind.FRAME) > 40


def test_a_sender_whose_clock_runs_fast_does_not_fill_the_buffer() -> None:
    buffer = JitterBuffer()
    waiting = []
    for index in range(20_000):
        now = index * FRAME * 0.999
        put(buffer, index, now)
        waiting.append(len(buffer))
        if index * 0.999 % 1 < 0.999:
            buffer.take(now)
    assert max(waiting[1_000:]) <= 6


def test_packets_without_numbers_are_played_as_they_come() -> None:
    buffer = JitterBuffer()
    arrivals = Network(jitter=0.015).arrivals(index * FRAME for index in range(200))
    heard = [
        index_of(playout.data)  # type: ignore[attr-defined]  # what take gives
        for _, playout in listen(
            arrivals,
            lambda index, now: buffer.put_unnumbered(index.to_bytes(4, "big"), now),
            buffer.take,
            frames=220,
        )
        if playout.kind is PlayoutKind.FRAME  # type: ignore[attr-defined]
    ]
    assert len(heard) >= 198
    assert heard == sorted(heard)
    assert buffer.report().lost == 0


def test_a_pause_between_packets_without_numbers_adds_no_delay() -> None:
    buffer = JitterBuffer()
    sent = [index * FRAME for index in range(300) if not 100 <= index < 200]
    delays = {}
    for now, playout in listen(
        Network().arrivals(sent),
        lambda index, at: buffer.put_unnumbered(index.to_bytes(4, "big"), at),
        buffer.take,
        frames=330,
    ):
        if playout.kind is PlayoutKind.FRAME:  # type: ignore[attr-defined]  # what take gives
            index = index_of(playout.data)  # type: ignore[attr-defined]
            delays[index] = now - sent[index]
    assert len(delays) >= 198
    assert max(delays.values()) < 0.16


@given(st.floats(0, 0.5), st.floats(0, 0.3), st.floats(0, 0.5), st.integers(0, 2**32 - 1), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_over_any_network_frames_come_once_in_order_and_bounded(
    loss: float, jitter: float, repeats: float, start: int, seed: int
) -> None:
    network = Network(loss=loss, jitter=jitter, repeats=repeats, seed=seed)
    heard = played(network, frames=150, first_number=start, first_timestamp=start)
    indexes = heard.indexes()
    assert indexes == sorted(set(indexes))
    assert len(heard.buffer) <= 40
    counts = heard.buffer.counts
    arrived = {index for _, index in network.arrivals(index * FRAME for index in range(150))}
    # Each packet that came is played, skipped, late, thrown away, or still waits.
    assert len(arrived) == (
        counts.frames + counts.skipped + counts.late + counts.overflowed + len(heard.buffer)
    )
    if not counts.overflowed and arrived:
        assert heard.buffer.report().expected == max(arrived) - network_first(network) + 1


def network_first(network: Network) -> int:
    """The packet from which numbers are counted: the first that arrives."""
    return network.arrivals(index * FRAME for index in range(150))[0][1]


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.floats(0, 0.1), st.booleans()),
        max_size=100,
    )
)
def test_any_packets_at_all_leave_the_buffer_working(packets: list[tuple[int, int, float, bool]]) -> None:
    buffer = JitterBuffer()
    now = 0.0
    for number, timestamp, pause, takes in packets:
        now += pause
        buffer.put(number=number, timestamp=timestamp, data=b"\x01", now=now)
        if takes:
            buffer.take(now)
        assert len(buffer) <= 40
        report = buffer.report()
        assert 0 <= report.loss <= 1


def test_the_report_counts_losses_since_the_one_before() -> None:
    buffer = JitterBuffer()
    for index in (0, 1, 2, 3, 5, 6, 7, 9):
        put(buffer, index, index * FRAME)
    report = buffer.report()
    assert (report.expected, report.lost, report.loss) == (10, 2, 0.2)
    assert buffer.report().expected == 0
    assert buffer.report().loss == 0.0
    for index in range(10, 20):
        put(buffer, index, index * FRAME)
    assert buffer.report().loss == 0.0


def test_jitter_is_that_of_the_arrivals() -> None:
    even, uneven = played(Network()), played(Network(jitter=0.04))
    assert even.buffer.report().jitter == pytest.approx(0, abs=1e-6)
    # Differences of two even spreads of 40 ms are 13 ms on average.
    assert 0.005 < uneven.buffer.report().jitter < 0.025


def test_a_longest_delay_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        JitterBuffer(longest_delay=0.03)
