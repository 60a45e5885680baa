import attrs
import pytest

from commucat_media import AudioCodec, AudioPacket, MediaSource, StreamPacket, VideoCodec, VideoPacket
from commucat_media.errors import MediaCodecError, MediaFormatError
from commucat_media.opus import OpusDecoder, OpusEncoder
from commucat_media.pcm import AudioFormat
from commucat_media.picture import Picture
from commucat_media.transcode import AudioTranscoder, VideoTranscoder, video_target
from commucat_media.video import VideoDecoder, VideoEncoder, VideoFormat
from media.pictures import psnr, scene
from media.sounds import best_match, frames_of, warble

SIZE = {"width": 320, "height": 180, "bitrate": 600_000}
VP8 = VideoFormat(codec=VideoCodec.VP8, **SIZE)


def raw_audio(data: bytes) -> AudioPacket:
    return AudioPacket(source=MediaSource.RAW, codec=AudioCodec.RAW_PCM, data=data)


def raw_video(picture: Picture) -> VideoPacket:
    return VideoPacket(source=MediaSource.RAW, codec=VideoCodec.RAW_I420, data=picture.data)


def numbered(packet: AudioPacket | VideoPacket, number: int, *, encrypted: bool = False) -> StreamPacket:
    return StreamPacket(
        source=packet.source,
        codec=packet.codec,
        data=packet.data,
        stream=9,
        number=number,
        timestamp=number * 3_750,
        layer=1 if isinstance(packet, VideoPacket) else 0,
        encrypted=encrypted,
    )


def test_raw_sound_becomes_opus_with_the_profile_of_the_call() -> None:
    audio_format = AudioFormat(sample_rate=16_000)
    spoken = warble(1, sample_rate=16_000)
    transcoder = AudioTranscoder(audio_format=audio_format, bitrate=24_000, dtx=False)
    packets = [transcoder.transcode(raw_audio(frame)) for frame in frames_of(spoken, audio_format)]
    assert {(packet.source, packet.codec) for packet in packets} == {(MediaSource.ENCODED, AudioCodec.OPUS)}
    assert 8 * sum(len(packet.data) for packet in packets) == pytest.approx(24_000, rel=0.4)
    decoder = OpusDecoder(audio_format)
    heard = b"".join(decoder.decode(packet.data) for packet in packets)
    assert best_match(heard, spoken[:-1_000], longest_delay=320, sample_rate=16_000)[0] > 0.9
    transcoder.close()


def test_opus_becomes_raw_sound_where_that_is_asked_for() -> None:
    spoken = warble(0.5)
    encoder, transcoder = OpusEncoder(bitrate=32_000), AudioTranscoder(AudioCodec.RAW_PCM)
    heard = b""
    for number, frame in enumerate(frames_of(spoken)):
        data = encoder.encode(frame)
        spoken_packet = AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=data)
        packet = transcoder.transcode(numbered(spoken_packet, number))
        assert (packet.source, packet.codec, packet.number) == (MediaSource.RAW, AudioCodec.RAW_PCM, number)
        heard += packet.data
    assert best_match(heard, spoken[:-2_000], longest_delay=960)[0] > 0.9
    transcoder.close()


@pytest.mark.parametrize(
    ("target", "source", "codec"),
    [
        (AudioCodec.OPUS, MediaSource.ENCODED, AudioCodec.OPUS),
        (AudioCodec.OPUS, MediaSource.HYBRID, AudioCodec.OPUS),
        (AudioCodec.OPUS, MediaSource.ENCODED, AudioCodec.RAW_PCM),
        (AudioCodec.RAW_PCM, MediaSource.HYBRID, AudioCodec.OPUS),
        (AudioCodec.RAW_PCM, MediaSource.ENCODED, AudioCodec.RAW_PCM),
    ],
)
def test_other_sound_passes_unchanged(target: AudioCodec, source: MediaSource, codec: AudioCodec) -> None:
    packet = AudioPacket(source=source, codec=codec, data=b"whatever it is")
    assert AudioTranscoder(target).transcode(packet) is packet


def test_raw_sound_passes_a_target_of_raw_sound() -> None:
    packet = raw_audio(AudioFormat().silence)
    assert AudioTranscoder(AudioCodec.RAW_PCM).transcode(packet) is packet


@pytest.mark.parametrize("target", AudioCodec)
def test_raw_sound_is_exactly_one_frame(target: AudioCodec) -> None:
    with pytest.raises(MediaFormatError, match="1918 bytes of sound"):
        AudioTranscoder(target).transcode(raw_audio(bytes(1918)))


def test_damaged_sound_is_an_error_of_the_codec() -> None:
    packet = AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=b"\x03")
    with pytest.raises(MediaCodecError, match="Opus packet"):
        AudioTranscoder(AudioCodec.RAW_PCM).transcode(packet)


@pytest.mark.parametrize("target", [VideoCodec.VP8, VideoCodec.VP9])
def test_raw_pictures_are_encoded_and_the_first_is_a_key_frame(target: VideoCodec) -> None:
    transcoder = VideoTranscoder(VideoFormat(codec=target, **SIZE))
    decoder = VideoDecoder(target)
    for number in range(5):
        packet = transcoder.transcode(numbered(raw_video(scene(number)), number))
        assert packet is not None
        assert (packet.source, packet.codec, packet.key_frame) == (MediaSource.ENCODED, target, number == 0)
        assert (packet.stream, packet.number, packet.timestamp, packet.layer) == (
            9,
            number,
            number * 3_750,
            1,
        )
        shown = decoder.decode(packet.data)
        assert shown is not None
        assert psnr(shown, scene(number)) > 28
    transcoder.close()


@pytest.mark.parametrize("codec", [VideoCodec.VP9, VideoCodec.H264_MAIN, VideoCodec.AV1_MAIN])
def test_another_codec_is_decoded_and_encoded_again(codec: VideoCodec) -> None:
    encoder, transcoder = VideoEncoder(VideoFormat(codec=codec, **SIZE)), VideoTranscoder(VP8)
    decoder = VideoDecoder(VideoCodec.VP8)
    for number in range(5):
        data = encoder.encode(scene(number)).data
        packet = transcoder.transcode(VideoPacket(source=MediaSource.ENCODED, codec=codec, data=data))
        assert packet is not None
        assert packet.codec is VideoCodec.VP8
        shown = decoder.decode(packet.data)
        assert shown is not None
        assert psnr(shown, scene(number)) > 26
    encoder.close()
    transcoder.close()


def test_the_sender_may_change_its_codec() -> None:
    transcoder = VideoTranscoder(VP8)
    for codec in (VideoCodec.VP9, VideoCodec.H264_BASELINE, VideoCodec.VP9):
        data = VideoEncoder(VideoFormat(codec=codec, **SIZE)).encode(scene(0)).data
        packet = VideoPacket(source=MediaSource.ENCODED, codec=codec, data=data)
        assert transcoder.transcode(packet) is not None


def test_a_picture_of_another_size_is_an_error_of_the_codec() -> None:
    small = VideoEncoder(VideoFormat(codec=VideoCodec.VP9, width=160, height=90)).encode(scene(0, 160, 90))
    packet = VideoPacket(source=MediaSource.ENCODED, codec=VideoCodec.VP9, data=small.data)
    with pytest.raises(MediaCodecError, match="160x90; only 320x180 is transcoded"):
        VideoTranscoder(VP8).transcode(packet)


def test_smaller_pictures_keep_their_size_where_that_is_wanted() -> None:
    transcoder, decoder = VideoTranscoder(VP8, follow_size=True), VideoDecoder(VideoCodec.VP8)
    shapes: list[tuple[int, int]] = []
    flags: list[bool] = []
    number = 0
    for width, height in ((320, 180), (160, 90), (320, 180)):
        encoder = VideoEncoder(VideoFormat(codec=VideoCodec.VP9, width=width, height=height))
        for _ in range(2):
            data = encoder.encode(scene(number, width, height)).data
            packet = VideoPacket(source=MediaSource.ENCODED, codec=VideoCodec.VP9, data=data)
            made = transcoder.transcode(numbered(packet, number))
            assert made is not None
            shown = decoder.decode(made.data)
            assert shown is not None
            shapes.append((shown.width, shown.height))
            flags.append(made.key_frame)
            number += 1

    assert shapes == [(320, 180)] * 2 + [(160, 90)] * 2 + [(320, 180)] * 2
    assert flags == [True, False] * 3
    small = VideoEncoder(VideoFormat(codec=VideoCodec.VP9, width=160, height=90)).encode(scene(0, 160, 90))
    transcoder.transcode(VideoPacket(source=MediaSource.ENCODED, codec=VideoCodec.VP9, data=small.data))
    # Raw pictures tell no size: they have the largest.
    made = transcoder.transcode(numbered(raw_video(scene(number)), number))
    assert made is not None
    assert made.key_frame
    large = VideoEncoder(VideoFormat(codec=VideoCodec.VP9, width=640, height=360)).encode(scene(0, 640, 360))
    with pytest.raises(MediaCodecError, match="more than"):
        transcoder.transcode(VideoPacket(source=MediaSource.ENCODED, codec=VideoCodec.VP9, data=large.data))


def test_a_larger_picture_is_not_even_decoded() -> None:
    large = VideoEncoder(VideoFormat(codec=VideoCodec.VP9, width=640, height=360)).encode(scene(0, 640, 360))
    packet = VideoPacket(source=MediaSource.ENCODED, codec=VideoCodec.VP9, data=large.data)
    with pytest.raises(MediaCodecError, match="more than"):
        VideoTranscoder(VP8).transcode(packet)


@pytest.mark.parametrize(
    ("source", "codec"), [(MediaSource.ENCODED, VideoCodec.VP8), (MediaSource.HYBRID, VideoCodec.VP9)]
)
def test_the_same_codec_and_hybrid_pass_unchanged(source: MediaSource, codec: VideoCodec) -> None:
    packet = VideoPacket(source=source, codec=codec, data=b"whatever it is")
    assert VideoTranscoder(VP8).transcode(packet) is packet


def test_a_raw_picture_has_exactly_the_size_of_the_call() -> None:
    with pytest.raises(MediaFormatError, match="I420 of 320x180 has 86400"):
        VideoTranscoder(VP8).transcode(raw_video(scene(0, 160, 90)))


def test_h265_cannot_be_transcoded() -> None:
    packet = VideoPacket(source=MediaSource.ENCODED, codec=VideoCodec.H265_MAIN, data=b"\x00")
    with pytest.raises(MediaCodecError, match="H265_MAIN is not decoded here"):
        VideoTranscoder(VP8).transcode(packet)


def test_who_begins_to_watch_gets_a_key_frame() -> None:
    transcoder = VideoTranscoder(VP8)
    flags = []
    for number in range(6):
        if number == 3:
            transcoder.request_key_frame()
        packet = transcoder.transcode(numbered(raw_video(scene(number)), number))
        assert packet is not None
        flags.append(packet.key_frame)
    assert flags == [True, False, False, True, False, False]


def test_encrypted_packets_are_refused() -> None:
    sound = numbered(raw_audio(AudioFormat().silence), 0, encrypted=True)
    with pytest.raises(MediaFormatError, match="end-to-end encrypted"):
        AudioTranscoder().transcode(sound)
    picture = attrs.evolve(sound, codec=VideoCodec.VP8)
    with pytest.raises(MediaFormatError, match="end-to-end encrypted"):
        VideoTranscoder(VP8).transcode(picture)


def test_sound_is_no_picture_and_the_reverse() -> None:
    sound = numbered(raw_audio(AudioFormat().silence), 0)
    with pytest.raises(MediaFormatError, match="RAW_PCM is no picture"):
        VideoTranscoder(VP8).transcode(sound)
    with pytest.raises(MediaFormatError, match="VP8 is no sound"):
        AudioTranscoder().transcode(attrs.evolve(sound, codec=VideoCodec.VP8))


@pytest.mark.parametrize(
    ("preferred", "codec", "target"),
    [
        ([], VideoCodec.VP8, VideoCodec.VP8),
        ([], VideoCodec.VP9, VideoCodec.VP9),
        ([VideoCodec.H264_MAIN, VideoCodec.VP9, VideoCodec.VP8], VideoCodec.VP8, VideoCodec.VP9),
        ([VideoCodec.AV1_MAIN], VideoCodec.H265_MAIN, VideoCodec.VP8),
    ],
)
def test_the_target_is_the_first_of_the_profile_that_is_made(
    preferred: list[VideoCodec], codec: VideoCodec, target: VideoCodec
) -> None:
    assert video_target(preferred, codec) is target
