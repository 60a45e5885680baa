import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_media import (
    HEADER_BYTES,
    AudioCodec,
    AudioPacket,
    MediaPacketError,
    MediaSource,
    VideoCodec,
    VideoPacket,
    decode_audio,
    decode_video,
    encode_packet,
)

SOURCES = {"ENCODED": 0, "RAW": 1, "HYBRID": 2}
AUDIO_CODECS = {"OPUS": 0, "RAW_PCM": 1}
VIDEO_CODECS = {
    "RAW_I420": 0,
    "VP8": 1,
    "VP9": 2,
    "H264_BASELINE": 3,
    "H264_MAIN": 4,
    "H265_MAIN": 5,
    "AV1_MAIN": 6,
}


@pytest.mark.parametrize(
    ("members", "codes"), [(MediaSource, SOURCES), (AudioCodec, AUDIO_CODECS), (VideoCodec, VIDEO_CODECS)]
)
def test_byte_codes_are_those_of_the_specification(
    members: type[MediaSource | AudioCodec | VideoCodec], codes: dict[str, int]
) -> None:
    assert {member.name: member.value for member in members} == codes


def test_layout_is_version_source_codec_data() -> None:
    video = VideoPacket(source=MediaSource.HYBRID, codec=VideoCodec.AV1_MAIN, data=b"\xaa\xbb")
    audio = AudioPacket(source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=b"\xcc")

    assert encode_packet(video) == bytes.fromhex("010206aabb")
    assert encode_packet(audio) == bytes.fromhex("010101cc")


@given(st.sampled_from(MediaSource), st.sampled_from(AudioCodec), st.binary(max_size=64))
def test_audio_round_trip(source: MediaSource, codec: AudioCodec, data: bytes) -> None:
    packet = AudioPacket(source=source, codec=codec, data=data)
    assert decode_audio(encode_packet(packet)) == packet


@given(st.sampled_from(MediaSource), st.sampled_from(VideoCodec), st.binary(max_size=64))
def test_video_round_trip(source: MediaSource, codec: VideoCodec, data: bytes) -> None:
    packet = VideoPacket(source=source, codec=codec, data=data)
    assert decode_video(encode_packet(packet)) == packet


@given(st.binary(max_size=8))
def test_any_bytes_are_a_packet_or_a_packet_error(payload: bytes) -> None:
    for decode in (decode_audio, decode_video):
        try:
            packet = decode(payload)
        except MediaPacketError:
            continue
        assert encode_packet(packet) == payload


def test_header_alone_is_a_packet_without_data() -> None:
    # An empty Opus packet means: conceal a loss.
    assert decode_audio(b"\x01\x00\x00").data == b""


@pytest.mark.parametrize("size", range(HEADER_BYTES))
def test_less_than_a_header_is_refused(size: int) -> None:
    with pytest.raises(MediaPacketError, match=f"of {size} bytes"):
        decode_audio(b"\x01\x00\x00"[:size])


@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions_are_refused(version: int) -> None:
    with pytest.raises(MediaPacketError, match=f"version {version}"):
        decode_video(bytes((version, 0, 0, 1)))


def test_unknown_source_is_refused() -> None:
    with pytest.raises(MediaPacketError, match="MediaSource"):
        decode_audio(b"\x01\x03\x00")


def test_a_video_codec_in_a_voice_frame_is_refused() -> None:
    payload = b"\x01\x00\x06data"
    assert decode_video(payload).codec is VideoCodec.AV1_MAIN
    with pytest.raises(MediaPacketError, match="AudioCodec"):
        decode_audio(payload)


def test_unknown_video_codec_is_refused() -> None:
    with pytest.raises(MediaPacketError, match="VideoCodec"):
        decode_video(b"\x01\x00\x07")


def test_data_never_shows_in_a_representation_or_an_error() -> None:
    packet = AudioPacket(source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=b"spoken words")
    assert "spoken" not in repr(packet)
    with pytest.raises(MediaPacketError) as caught:
        decode_audio(b"\x01\x09\x00spoken words")
    assert "spoken" not in str(caught.value)


def test_bare_numbers_are_not_codecs() -> None:
    with pytest.raises(TypeError, match="codec"):
        AudioPacket(source=MediaSource.RAW, codec=1, data=b"")  # type: ignore[arg-type]  # the point of the test
