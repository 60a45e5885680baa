import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto.errors import LocalProtocolError
from commucat_proto.fec import (
    LOW_LATENCY,
    MAX_PAYLOAD,
    DatagramAssembler,
    FecDecoder,
    FecProfile,
    datagrams_of,
    encode,
    packet_counts,
)
from commucat_proto.fec.datagrams import HELD_BYTES, OPEN_PAYLOADS

profiles = st.builds(FecProfile, st.integers(256, 9000), st.floats(0, 2))
payloads = st.binary(max_size=300) | st.integers(1, 20_000).map(
    lambda size: random.Random(size).randbytes(size)
)


@given(payloads, profiles)
def test_packets_are_as_counted_and_have_the_form_of_the_rfc(payload: bytes, profile: FecProfile) -> None:
    size, packets = encode(payload, profile)
    counts = packet_counts(len(payload), profile)
    assert len(packets) == counts.total
    assert [int.from_bytes(packet[:4], "big") for packet in packets] == list(range(counts.total))
    assert {len(packet) for packet in packets} <= {4 + size}
    assert size <= profile.mtu
    # The code is systematic: the source packets are the payload itself.
    assert b"".join(packet[4:] for packet in packets[: counts.source])[: len(payload)] == payload


@given(payloads.filter(bool), profiles, st.randoms(use_true_random=False))
def test_any_order_and_any_loss_within_the_repair_packets_gives_the_payload(
    payload: bytes, profile: FecProfile, chance: random.Random
) -> None:
    size, packets = encode(payload, profile)
    counts = packet_counts(len(payload), profile)
    chance.shuffle(packets)
    # As many as source packets are enough but for one case in 256; two more: in 16 million.
    kept = packets[: min(counts.source + 2, counts.total)]
    decoder = FecDecoder(len(payload), size)
    found = [found for packet in kept + kept if (found := decoder.add(packet)) is not None]
    assert found == [payload]
    assert decoder.held == 0


def test_twenty_of_a_hundred_packets_lost() -> None:
    chance = random.Random(6330)
    payload = chance.randbytes(30_000)
    profile = FecProfile(512, 0.4)
    whole = 0
    for _ in range(50):
        size, packets = encode(payload, profile)
        decoder = FecDecoder(len(payload), size)
        arrived = [packet for packet in packets if chance.random() >= 0.2]
        whole += any(decoder.add(packet) == payload for packet in arrived)
    assert whole >= 48


@given(st.binary(max_size=80), st.integers(1, 500))
def test_packets_that_are_none_are_ignored(packet: bytes, length: int) -> None:
    size, packets = encode(bytes(length), LOW_LATENCY)
    decoder = FecDecoder(length, size)
    if len(packet) != 4 + size:
        assert decoder.add(packet) is None
        assert decoder.held == 0
    assert decoder.add(b"\x01" + packets[0][1:]) is None  # there is one block only
    assert decoder.held == 0
    assert decoder.add(packets[0]) == bytes(length)


def test_forged_packets_cost_bounded_memory_and_never_another_exception() -> None:
    chance = random.Random(1)
    decoder = FecDecoder(1000, 256)
    for _ in range(500):
        decoder.add(b"\x00" + chance.randbytes(3 + 256))
    assert decoder.held <= 2 * (4 + 32) * 256


@pytest.mark.parametrize(
    "make",
    [
        lambda: FecProfile(255, 0.1),
        lambda: FecProfile(9001, 0.1),
        lambda: FecProfile(1200, -0.1),
        lambda: FecProfile(1200, float("nan")),
        lambda: FecProfile(1200, 2.1),
        lambda: encode(bytes(MAX_PAYLOAD + 1), LOW_LATENCY),
        lambda: FecDecoder(0, 256),
        lambda: FecDecoder(MAX_PAYLOAD + 1, 256),
        lambda: FecDecoder(10, 20),
        lambda: FecDecoder(10, 36),
        lambda: datagrams_of(2**32, b"x", LOW_LATENCY),
    ],
)
def test_our_own_mistakes_are_local_errors(make: Any) -> None:
    with pytest.raises(LocalProtocolError):
        make()


@given(st.lists(payloads.filter(bool), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_mixed_doubled_and_lost_datagrams_give_each_payload_once(
    sent: list[bytes], chance: random.Random
) -> None:
    datagrams: list[bytes] = []
    for number, payload in enumerate(sent):
        made = datagrams_of(number, payload, FecProfile(256, 1.0))
        chance.shuffle(made)
        datagrams += made[: packet_counts(len(payload), FecProfile(256, 1.0)).source + 2]
    datagrams += datagrams
    chance.shuffle(datagrams)
    assembler = DatagramAssembler()
    found = [found for datagram in datagrams if (found := assembler.add(datagram)) is not None]
    assert sorted(found) == list(enumerate(sent))
    assert (assembler.held, assembler.ignored) == (0, 0)


@given(st.lists(st.binary(max_size=60), max_size=30))
def test_any_bytes_are_ignored_or_kept_within_bounds(datagrams: list[bytes]) -> None:
    assembler = DatagramAssembler()
    for datagram in datagrams:
        assembler.add(datagram)
    assert assembler.held <= HELD_BYTES


def test_a_datagram_that_contradicts_the_others_of_its_payload_is_ignored() -> None:
    first, second, *_ = datagrams_of(7, bytes(3000), FecProfile(1024, 0.5))
    assembler = DatagramAssembler()
    assert assembler.add(first) is None
    assert assembler.add(second[:4] + (2999).to_bytes(4, "big") + second[8:]) is None
    assert assembler.ignored == 1


def test_unfinished_payloads_are_given_up_for_newer_ones() -> None:
    assembler = DatagramAssembler()
    profile = FecProfile(9000, 0.25)
    made = [datagrams_of(number, bytes(60_000), profile) for number in range(OPEN_PAYLOADS * 3)]
    for datagrams in made:
        for datagram in datagrams[:3]:
            assembler.add(datagram)
        assert assembler.held <= HELD_BYTES
    assert assembler.abandoned > 0
    assert all(assembler.add(datagram) is None for datagram in made[0])
    assert any(assembler.add(datagram) == (len(made) - 1, bytes(60_000)) for datagram in made[-1])
