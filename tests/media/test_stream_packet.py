"""Version 2 of the media packet: numbered packets of a stream."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_media import (
    STREAM_HEADER_BYTES,
    AudioCodec,
    AudioPacket,
    MediaPacketError,
    MediaSource,
    StreamPacket,
    VideoCodec,
    VideoPacket,
    decode_audio,
    decode_audio_any,
    decode_video,
    decode_video_any,
    encode_packet,
    encode_stream_packet,
    stream_header,
    to_version_1,
)

U32 = st.integers(0, 2**32 - 1)
COMMON = {
    "source": st.sampled_from(MediaSource),
    "data": st.binary(max_size=64),
    "stream": U32,
    "number": U32,
    "timestamp": U32,
    "encrypted": st.booleans(),
}
VOICE = st.builds(StreamPacket, codec=st.sampled_from(AudioCodec), level=st.integers(0, 127), **COMMON)
PICTURES = st.builds(
    StreamPacket,
    codec=st.sampled_from(VideoCodec),
    key_frame=st.booleans(),
    layer=st.integers(0, 2),
    **COMMON,
)
SPOKEN = StreamPacket(
    source=MediaSource.ENCODED,
    codec=AudioCodec.OPUS,
    data=b"spoken words",
    stream=0x01020304,
    number=0x05060708,
    timestamp=0x090A0B0C,
    level=30,
)
SHOWN = StreamPacket(
    source=MediaSource.ENCODED,
    codec=VideoCodec.VP8,
    data=b"\xaa\xbb",
    stream=0xFFFFFFFF,
    number=0,
    timestamp=1,
    key_frame=True,
    encrypted=True,
    layer=2,
)


def test_layout_is_that_of_the_protocol() -> None:
    assert (
        encode_stream_packet(SPOKEN) == bytes.fromhex("020000001e0102030405060708090a0b0c") + b"spoken words"
    )
    assert encode_stream_packet(SHOWN) == bytes.fromhex("0200010b00ffffffff0000000000000001aabb")


@given(VOICE)
def test_voice_round_trip(packet: StreamPacket) -> None:
    assert decode_audio_any(encode_stream_packet(packet)) == packet


@given(PICTURES)
def test_picture_round_trip(packet: StreamPacket) -> None:
    assert decode_video_any(encode_stream_packet(packet)) == packet


@given(VOICE | PICTURES)
def test_version_1_has_the_same_source_codec_and_data(packet: StreamPacket) -> None:
    payload = to_version_1(encode_stream_packet(packet))
    if isinstance(packet.codec, AudioCodec):
        voice = AudioPacket(source=packet.source, codec=packet.codec, data=packet.data)
        assert decode_audio(payload) == decode_audio_any(payload) == voice
    else:
        picture = VideoPacket(source=packet.source, codec=packet.codec, data=packet.data)
        assert decode_video(payload) == decode_video_any(payload) == picture


def test_version_1_stays_as_it_is() -> None:
    payload = encode_packet(AudioPacket(source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=b"\x01\x02"))
    assert to_version_1(payload) == payload


@given(st.binary(max_size=20) | st.binary(max_size=20).map(lambda rest: b"\x02" + rest))
def test_any_bytes_are_a_packet_or_a_packet_error(payload: bytes) -> None:
    for decode in (decode_audio_any, decode_video_any):
        try:
            packet = decode(payload)
        except MediaPacketError:
            continue
        again = encode_stream_packet if isinstance(packet, StreamPacket) else encode_packet
        assert again(packet) == payload  # type: ignore[arg-type]  # the type was asked for just now


def test_the_header_is_what_stands_before_the_data() -> None:
    assert encode_stream_packet(SHOWN) == stream_header(SHOWN) + SHOWN.data
    assert len(stream_header(SHOWN)) == STREAM_HEADER_BYTES


@pytest.mark.parametrize("size", range(3, STREAM_HEADER_BYTES))
def test_less_than_a_header_is_refused(size: int) -> None:
    payload = encode_stream_packet(SPOKEN)[:size]
    for read in (decode_audio_any, to_version_1):
        with pytest.raises(MediaPacketError, match=f"of {size} bytes; the header alone has 17"):
            read(payload)


@pytest.mark.parametrize("payload", [b"", b"\x02", b"\x02\x00"])
def test_less_than_any_header_is_refused(payload: bytes) -> None:
    for read in (decode_audio_any, decode_video_any, to_version_1):
        with pytest.raises(MediaPacketError, match=f"of {len(payload)} bytes"):
            read(payload)


@pytest.mark.parametrize("version", [0, 3, 255])
def test_other_versions_are_refused(version: int) -> None:
    payload = bytes((version,)) + bytes(STREAM_HEADER_BYTES)
    for read in (decode_audio_any, decode_video_any, to_version_1):
        with pytest.raises(MediaPacketError, match=f"version {version}; only 1 and 2"):
            read(payload)


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (1, 3, "MediaSource"),
        (2, 2, "AudioCodec"),
        (3, 0x10, "bits 4 to 7"),
        (3, 0x80, "bits 4 to 7"),
        (3, 0x0C, "layer 3"),
        (3, 0x01, "layer or key frame"),
        (3, 0x04, "layer or key frame"),
        (4, 128, "level 128"),
    ],
)
def test_voice_with_a_wrong_byte_is_refused(offset: int, value: int, match: str) -> None:
    payload = bytearray(encode_stream_packet(SPOKEN))
    payload[offset] = value
    with pytest.raises(MediaPacketError, match=match):
        decode_audio_any(bytes(payload))


@pytest.mark.parametrize(
    ("offset", "value", "match"), [(2, 7, "VideoCodec"), (3, 0x0C, "layer 3"), (4, 1, "level 1")]
)
def test_a_picture_with_a_wrong_byte_is_refused(offset: int, value: int, match: str) -> None:
    payload = bytearray(encode_stream_packet(SHOWN))
    payload[offset] = value
    with pytest.raises(MediaPacketError, match=match):
        decode_video_any(bytes(payload))


@pytest.mark.parametrize("member", ["stream", "number", "timestamp"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_numbers_have_32_bits(member: str, value: int) -> None:
    with pytest.raises(ValueError, match=member):
        StreamPacket(**(attrs.asdict(SPOKEN) | {member: value}))


def test_the_old_readers_know_version_1_only() -> None:
    with pytest.raises(MediaPacketError, match="version 2; only 1 is known"):
        decode_audio(encode_stream_packet(SPOKEN))


def test_data_never_shows_in_a_representation_or_an_error() -> None:
    assert "spoken" not in repr(SPOKEN)
    with pytest.raises(MediaPacketError) as caught:
        decode_video_any(encode_stream_packet(SPOKEN))
    assert "spoken" not in str(caught.value)
