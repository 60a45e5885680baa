"""The benchmark's receivers see every fault."""

import pytest

from cli.bench_builders import RUN, load_of
from commucat_cli.bench.jobs import Load
from commucat_cli.bench.payload import HEADER_LEN, Arrivals, Tally, make_payloads


def payloads_of(load: Load) -> list[bytes]:
    return list(make_payloads(load))


def tally_of(payloads: list[bytes], messages: int = 5, size: int = 64) -> Tally:
    tally = Tally(load_of(messages, size))
    for payload in payloads:
        tally.take(payload)
    return tally


def counts(tally: Tally) -> tuple[int, int, int, int]:
    return tally.received, tally.duplicates, tally.out_of_order, tally.damaged


def test_all_messages_in_order_are_whole() -> None:
    payloads = payloads_of(load_of(5))
    assert {len(payload) for payload in payloads} == {64}
    assert len(set(payloads)) == 5
    tally = tally_of(payloads)
    assert counts(tally) == (5, 0, 0, 0)
    assert tally.complete


def test_a_new_message_is_told_by_its_number_and_others_by_none() -> None:
    payloads = payloads_of(load_of(5))
    tally = Tally(load_of(5))
    assert [tally.take(payloads[number]) for number in (3, 0, 3)] == [3, 0, None]
    assert tally.take(b"short") is None


def test_the_smallest_payload_is_the_header_alone() -> None:
    payloads = payloads_of(load_of(5, HEADER_LEN))
    assert counts(tally_of(payloads, size=HEADER_LEN)) == (5, 0, 0, 0)


def test_a_missing_message_is_seen() -> None:
    payloads = payloads_of(load_of(5))
    tally = tally_of(payloads[:2] + payloads[3:])
    assert counts(tally) == (4, 0, 0, 0)
    assert not tally.complete


def test_a_message_that_comes_twice_does_not_stand_in_for_a_missing_one() -> None:
    payloads = payloads_of(load_of(5))
    tally = tally_of([*payloads[:4], payloads[3]])
    assert counts(tally) == (4, 1, 0, 0)
    assert not tally.complete


def test_messages_that_change_places_are_seen() -> None:
    payloads = payloads_of(load_of(5))
    payloads[1], payloads[2] = payloads[2], payloads[1]
    assert counts(tally_of(payloads)) == (5, 0, 1, 0)


@pytest.mark.parametrize("position", [0, 7, 8, 16, 63])
def test_one_changed_bit_is_seen_wherever_it_is(position: int) -> None:
    payloads = payloads_of(load_of(5))
    changed = bytearray(payloads[2])
    changed[position] ^= 0x80
    assert counts(tally_of([*payloads[:2], bytes(changed), *payloads[3:]])) == (4, 0, 0, 1)


@pytest.mark.parametrize("payload", [b"", b"short", payloads_of(load_of(1, run="ff" * 8))[0]])
def test_what_nobody_sent_is_damaged(payload: bytes) -> None:
    assert RUN != "ff" * 8
    assert counts(tally_of([payload])) == (0, 0, 0, 1)


def test_a_message_has_arrived_when_the_last_device_has_it() -> None:
    arrivals = Arrivals(messages=3, devices=2)
    arrivals.note(0, 1.0)
    arrivals.note(1, 2.0)
    arrivals.note(0, 5.0)
    assert list(arrivals.times) == [5.0, 0.0, 0.0]


def test_the_last_device_is_not_the_one_that_was_read_last() -> None:
    arrivals = Arrivals(messages=1, devices=3)
    for when in (2.0, 5.0, 3.0):
        arrivals.note(0, when)
    assert list(arrivals.times) == [5.0]


def test_every_message_after_a_later_one_is_out_of_order() -> None:
    payloads = payloads_of(load_of(5))
    assert counts(tally_of([payloads[number] for number in (0, 4, 1, 2, 3)])) == (5, 0, 3, 0)
