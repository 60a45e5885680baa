"""Voice of a call without a network: what is said becomes packets, and packets become sound again."""

from array import array

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.call_builders import speech_like
from commucat_cli.calls.hearing import FORMAT, MAX_STREAMS, Hearing, mixed
from commucat_cli.calls.likeness import RATE, compare, to_rate
from commucat_cli.calls.party_keys import PartyKeys
from commucat_cli.calls.quality import LONGEST, Delays, StreamQuality
from commucat_cli.calls.speaking import Speaking, format_for
from commucat_cli.profile import ProfileKeys
from commucat_media import (
    AudioCodec,
    AudioPacket,
    MediaSource,
    StreamPacket,
    decode_audio_any,
    encode_packet,
    encode_stream_packet,
)
from commucat_media.pcm import AudioFormat, pcm_of, samples_of
from commucat_media.wav import Sound

FRAME = 0.02


def speaking(seconds: float = 1.0, rate: int = 48_000, drop: float = 0.0, seed: int | None = 1) -> Speaking:
    speaker = Speaking(
        pcm_of(speech_like(seconds, rate)),
        AudioFormat(sample_rate=rate),
        bitrate=24_000,
        drop=drop,
        seed=seed,
    )
    speaker.open()
    return speaker


def said(
    speaker: Speaking, keys: PartyKeys | None = None, *, numbered: bool = True
) -> list[tuple[int, bytes]]:
    """Frame and payload of everything that is sent until nothing is left to say."""
    sent: list[tuple[int, bytes]] = []
    frame = 0
    while not speaker.over:
        for packet in speaker.encode():
            payload = speaker.payload(packet, keys, numbered=numbered)
            if payload is not None:
                sent.append((frame, payload))
        frame += 1
    return sent


def heard(hearing: Hearing, sent: list[tuple[int, bytes]], frames: int) -> "array[int]":
    """What is heard when every packet comes at its time."""
    samples = array("h")
    for frame in range(frames):
        for number, payload in sent:
            if number == frame:
                hearing.take(payload, frame * FRAME)
        samples += Hearing.decode(hearing.due(frame * FRAME))
    return samples


def likeness(samples: "array[int]", seconds: float) -> float:
    played = to_rate(speech_like(seconds), 48_000)
    found = compare(played, to_rate(samples, 48_000, RATE), max_delay=0.5)
    assert found is not None
    return found.correlation


@pytest.mark.parametrize("drop", [0.0, 20.0])
def test_what_is_said_is_heard(drop: float) -> None:
    speaker = speaking(2.0, drop=drop)
    sent = said(speaker)
    hearing = Hearing(None, sole="bob")
    samples = heard(hearing, sent, 110)
    figures = hearing.figures()
    assert speaker.packets - speaker.dropped == len(sent) == figures.packets
    assert (speaker.dropped > 0) == (drop > 0)
    assert figures.lost <= speaker.dropped
    assert (figures.recovered > 0) == (drop > 0)
    assert figures.unreadable == figures.late == figures.repeated == 0
    assert likeness(samples, 2.0) > (0.75 if drop else 0.85)


def test_the_same_seed_drops_the_same_packets() -> None:
    frames = [[frame for frame, _ in said(speaking(drop=30.0, seed=seed))] for seed in (5, 5, 6)]
    assert frames[0] == frames[1] != frames[2]


def test_silence_is_not_sent() -> None:
    speaker = Speaking(FORMAT.silence * 100, FORMAT, bitrate=24_000, drop=0.0, seed=None)
    speaker.open()
    assert len(said(speaker)) < 50


def test_sound_at_a_rate_of_opus_is_not_converted() -> None:
    assert format_for(Sound(pcm=b"", sample_rate=8_000, channels=1)).sample_rate == 8_000
    assert format_for(Sound(pcm=b"", sample_rate=44_100, channels=2)).sample_rate == 48_000
    hearing = Hearing(None, sole="bob")
    speaker = speaking(2.0, rate=16_000)
    assert likeness(heard(hearing, said(speaker), 110), 2.0) > 0.7


def test_packets_of_version_1_of_the_only_other_device_are_heard() -> None:
    sent = said(speaking(2.0), numbered=False)
    assert isinstance(decode_audio_any(sent[0][1]), AudioPacket)
    hearing = Hearing(None, sole="bob")
    assert likeness(heard(hearing, sent, 110), 2.0) > 0.6
    among_several = Hearing(None, sole=None)
    among_several.take(sent[0][1], 0.0)
    assert among_several.figures().unreadable == 1


def test_a_time_without_running_is_a_pause() -> None:
    speaker = speaking()
    first = speaker.encode()[0]
    later = speaker.encode(missed=50)[-1]
    assert later.timestamp - first.timestamp == 51 * 960


# -- encryption ---------------------------------------------------------------------------------------


def party(call_id: str = "c1") -> PartyKeys:
    return PartyKeys(call_id, 7, ProfileKeys.generate())


def introduced(speaker: PartyKeys, listener: PartyKeys, name: str) -> None:
    """As if an offer had brought the key; the exchange itself is tested with real clients."""
    listener.accept_key(name, speaker.own_key)


def test_encrypted_voice_is_heard_by_those_who_have_the_key() -> None:
    alice, bob = party(), party()
    introduced(alice, bob, "alice")
    sent = said(speaking(2.0), alice)
    packet = decode_audio_any(sent[0][1])
    assert isinstance(packet, StreamPacket)
    assert packet.encrypted
    hearing = Hearing(bob, sole="alice")
    assert likeness(heard(hearing, sent, 110), 2.0) > 0.85
    for _, payload in sent[-3:]:
        hearing.take(payload, 2.2)
    assert hearing.figures().repeated == 3


def test_an_encrypted_call_takes_nothing_in_clear_and_nothing_of_strangers() -> None:
    alice, bob, mallory = party(), party(), party()
    introduced(alice, bob, "alice")
    hearing = Hearing(bob, sole="alice")
    hearing.take(said(speaking(0.1))[0][1], 0.0)
    hearing.take(said(speaking(0.1), numbered=False)[0][1], 0.0)
    hearing.take(said(speaking(0.1), mallory)[0][1], 0.0)
    assert hearing.figures().unreadable == 3
    assert hearing.figures().packets == 0
    assert Hearing.decode(hearing.due(0.0)) == samples_of(FORMAT.silence)


def test_who_has_left_is_not_heard_any_more() -> None:
    alice, bob = party(), party()
    introduced(alice, bob, "alice")
    sent = said(speaking(0.2), alice)
    hearing = Hearing(bob, sole="alice")
    hearing.take(sent[0][1], 0.0)
    bob.forget("alice")
    hearing.forget("alice")
    hearing.take(sent[1][1], 0.02)
    figures = hearing.figures()
    assert (figures.packets, figures.unreadable) == (1, 1)


# -- bad input ----------------------------------------------------------------------------------------


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: b"\x02\x00\x00" + rest))
def test_any_bytes_are_heard_or_counted(payload: bytes) -> None:
    hearing = Hearing(None, sole="bob")
    hearing.take(payload, 0.0)
    for frame in range(8):
        assert len(Hearing.decode(hearing.due(frame * FRAME))) == FORMAT.frame_samples
    figures = hearing.figures()
    assert figures.packets + figures.unreadable + figures.repeated >= 1


def test_streams_without_end_are_not_kept() -> None:
    hearing = Hearing(None, sole=None)
    for stream in range(MAX_STREAMS + 10):
        packet = StreamPacket(
            source=MediaSource.ENCODED,
            codec=AudioCodec.OPUS,
            data=b"\xf8\xff\xfe",
            stream=stream,
            number=0,
            timestamp=0,
        )
        hearing.take(encode_stream_packet(packet), 0.0)
    assert len(hearing.due(0.0)) == MAX_STREAMS
    assert hearing.figures().unreadable == 10


def test_raw_sound_is_heard_too() -> None:
    frame = pcm_of(speech_like(FRAME))
    payload = encode_packet(AudioPacket(source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=frame))
    hearing = Hearing(None, sole="bob")
    assert samples_of(frame) in [samples for _, samples in _frames(hearing, [payload])]


def _frames(hearing: Hearing, payloads: list[bytes]) -> "list[tuple[int, array[int]]]":
    for payload in payloads:
        hearing.take(payload, 0.0)
    return [(frame, Hearing.decode(hearing.due(frame * FRAME))) for frame in range(10)]


# -- mixing and figures -------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(-32_768, 32_767), min_size=4, max_size=4), min_size=1, max_size=9))
def test_mixing_is_a_sum_that_does_not_overflow(frames: list[list[int]]) -> None:
    expected = [min(max(sum(column), -32_768), 32_767) for column in zip(*frames, strict=True)]
    assert list(mixed([array("h", frame) for frame in frames])) == expected


def test_nothing_mixed_is_silence() -> None:
    assert mixed([]) == samples_of(FORMAT.silence)


def test_delays_are_counted_in_bounded_memory() -> None:
    delays = Delays()
    assert (delays.mean, delays.percentile(99)) == (None, None)
    for value in range(1, 101):
        delays.note(value)
    assert delays.mean == 50.5
    assert (delays.percentile(50), delays.percentile(99), delays.percentile(100)) == (50, 99, 100)
    delays.note(1e9)
    assert delays.percentile(100) == LONGEST
    more = Delays()
    more.note(3.0)
    delays.add(more)
    assert delays.count == 102


@given(
    start=st.integers(0, 2**32 - 1),
    lost=st.sets(st.integers(1, 98), max_size=60),
    swap=st.booleans(),
)
def test_loss_and_lateness_of_a_stream_wherever_its_numbers_wrap(
    start: int, lost: set[int], swap: bool
) -> None:
    quality = StreamQuality()
    numbers = [number for number in range(100) if number not in lost]
    if swap:
        numbers[0], numbers[1] = numbers[1], numbers[0]
    for number in numbers:
        late = 0.03 if number == 99 else 0.0
        quality.note((start + number) % 2**32, (number * 960 + start) % 2**32, 50, number * FRAME + late)
    assert quality.received == 100 - len(lost)
    assert quality.lost == len(lost)
    assert quality.bytes == 50 * quality.received
    assert quality.delays.percentile(100) == 30


def test_figures_tell_of_streams_that_have_ended_as_well() -> None:
    hearing = Hearing(None, sole="bob")
    sent = said(speaking(0.4))
    heard(hearing, sent, 25)
    before = attrs.evolve(hearing.figures())
    hearing.forget("bob")
    after = hearing.figures()
    assert (after.packets, after.bytes) == (before.packets, before.bytes)
    assert hearing.due(1.0) == []
