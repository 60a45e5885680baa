import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_media import VideoCodec
from commucat_media.errors import MediaCodecError, MediaFormatError
from commucat_media.picture import MAX_PIXELS, Picture, black
from commucat_media.video import LONGEST_DATA, EncodedPicture, VideoDecoder, VideoEncoder, VideoFormat
from commucat_media.vp8_header import is_vp8_key_frame, vp8_size
from media.pictures import grain, psnr, scene

CODECS = [
    VideoCodec.VP8,
    VideoCodec.VP9,
    VideoCodec.H264_BASELINE,
    VideoCodec.H264_MAIN,
    VideoCodec.AV1_MAIN,
]
# Every picture costs some ten thousand bytes here: enough to be good, little enough to be compressed.
SMALL = {"width": 320, "height": 180, "bitrate": 600_000}


GRAIN = [grain(index) for index in range(72)]


def encoded(encoder: VideoEncoder, pictures: list[Picture]) -> list[EncodedPicture]:
    return [encoder.encode(picture) for picture in pictures]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_each_picture_back_at_once(codec: VideoCodec) -> None:
    encoder, decoder = VideoEncoder(VideoFormat(codec=codec, **SMALL)), VideoDecoder(codec)
    pictures = [scene(index) for index in range(12)]
    for index, picture in enumerate(pictures):
        packet = encoder.encode(picture)
        assert packet.key_frame == (index == 0)
        shown = decoder.decode(packet.data)
        assert shown is not None
        assert psnr(shown, picture) > 28
    encoder.close()
    decoder.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_key_frame_can_be_asked_for_and_needs_nothing_before_it(codec: VideoCodec) -> None:
    encoder = VideoEncoder(VideoFormat(codec=codec, **SMALL))
    encoded(encoder, [scene(index) for index in range(5)])
    encoder.request_key_frame()
    packet = encoder.encode(scene(5))
    assert packet.key_frame
    shown = VideoDecoder(codec).decode(packet.data)
    assert shown is not None
    assert psnr(shown, scene(5)) > 28
    assert not encoder.encode(scene(6)).key_frame
    encoder.close()


@pytest.mark.parametrize("codec", [VideoCodec.VP8, VideoCodec.VP9])
def test_odd_sizes_come_back_without_padding(codec: VideoCodec) -> None:
    encoder, decoder = VideoEncoder(VideoFormat(codec=codec, width=101, height=57)), VideoDecoder(codec)
    picture = scene(0, 101, 57)
    shown = decoder.decode(encoder.encode(picture).data)
    assert shown is not None
    assert psnr(shown, picture) > 28


def bits_per_second(packets: list[EncodedPicture], frame_rate: int = 24) -> float:
    return 8 * sum(len(packet.data) for packet in packets) * frame_rate / len(packets)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bitrate", [300_000, 1_500_000])
def test_the_bitrate_counts_bits_per_second_and_holds(codec: VideoCodec, bitrate: int) -> None:
    encoder = VideoEncoder(VideoFormat(codec=codec, width=320, height=180, bitrate=bitrate))
    packets = encoded(encoder, GRAIN[:72])
    # The first second pays for the key frame.
    for second in (packets[24:48], packets[48:72]):
        assert bits_per_second(second) == pytest.approx(bitrate, rel=0.3)
    encoder.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_much_lower_bitrate_holds_soon(codec: VideoCodec) -> None:
    encoder = VideoEncoder(VideoFormat(codec=codec, width=320, height=180, bitrate=1_500_000))
    decoder = VideoDecoder(codec)
    before = encoded(encoder, GRAIN[:24])
    encoder.set_bitrate(300_000)
    assert encoder.bitrate == 300_000
    after = encoded(encoder, GRAIN[24:72])
    assert [packet.key_frame for packet in after] == [True] + 47 * [False]
    assert bits_per_second(before) > 1_000_000
    assert bits_per_second(after[24:]) < 400_000
    assert None not in [decoder.decode(packet.data) for packet in before + after]
    encoder.close()


def test_a_little_lower_or_higher_bitrate_waits_for_the_next_key_frame() -> None:
    encoder = VideoEncoder(VideoFormat(**SMALL))
    encoder.encode(scene(0))
    for bitrate in (590_000, 900_000):
        encoder.set_bitrate(bitrate)
        assert not encoder.encode(scene(1)).key_frame
    encoder.request_key_frame()
    assert encoder.encode(scene(2)).key_frame
    assert encoder.bitrate == 900_000


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"bitrate": 0}, "bitrate 0"),
        ({"bitrate": 2**31}, "bitrate 2147483648"),
        ({"frame_rate": 0}, "0 pictures per second"),
        ({"frame_rate": 121}, "121 pictures"),
        ({"width": 0}, "0x360"),
        ({"width": 16_000, "height": 16_000}, "at most"),
    ],
)
def test_impossible_formats_are_refused(values: dict[str, int], match: str) -> None:
    with pytest.raises(MediaFormatError, match=match):
        VideoFormat(**values)


def test_an_impossible_bitrate_changes_nothing() -> None:
    encoder = VideoEncoder(VideoFormat(**SMALL))
    with pytest.raises(MediaFormatError, match="bitrate 0"):
        encoder.set_bitrate(0)
    assert encoder.bitrate == 600_000


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(MediaFormatError, match="a picture of 2x2; the encoder takes 320x180"):
        VideoEncoder(VideoFormat(**SMALL)).encode(black(2, 2))


@pytest.mark.parametrize("codec", [VideoCodec.H265_MAIN, VideoCodec.RAW_I420])
def test_h265_and_raw_pictures_are_no_codec_here(codec: VideoCodec) -> None:
    with pytest.raises(MediaCodecError, match=f"{codec.name} is not encoded here"):
        VideoEncoder(VideoFormat(codec=codec))
    with pytest.raises(MediaCodecError, match=f"{codec.name} is not decoded here"):
        VideoDecoder(codec)


@pytest.mark.parametrize("codec", CODECS)
def test_a_picture_too_large_is_refused_by_the_decoder(codec: VideoCodec) -> None:
    packet = VideoEncoder(VideoFormat(codec=codec, **SMALL)).encode(scene(0))
    assert VideoDecoder(codec, max_pixels=320 * 192).decode(packet.data) is not None
    with pytest.raises(MediaCodecError, match=f"{320 * 180 - 1} pixels"):
        VideoDecoder(codec, max_pixels=320 * 180 - 1).decode(packet.data)


def test_a_vp8_bomb_is_refused_by_its_header() -> None:
    packet = VideoEncoder(VideoFormat(**SMALL)).encode(scene(0))
    bomb = packet.data[:6] + b"\xff\x3f\xff\x3f" + packet.data[10:]
    assert vp8_size(bomb) == (16_383, 16_383)
    decoder = VideoDecoder(VideoCodec.VP8)
    with pytest.raises(MediaCodecError, match=f"16383x16383; at most {MAX_PIXELS} pixels"):
        decoder.decode(bomb)
    # It was never given to the codec: the stream goes on.
    assert decoder.decode(packet.data) is not None


def test_a_bomb_takes_no_memory() -> None:
    # Pictures far too large, one after another, in a process of their own that is measured.
    program = (
        "import resource\n"
        "from commucat_media import VideoCodec\n"
        "from commucat_media.errors import MediaCodecError\n"
        "from commucat_media.video import *\n"
        "from commucat_media.picture import black\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for codec in (VideoCodec.VP8, VideoCodec.VP9, VideoCodec.H264_MAIN):\n"
        "    encoder = VideoEncoder(VideoFormat(codec=codec, width=1920, height=1080))\n"
        "    big = encoder.encode(black(1920, 1080)).data\n"
        "    decoder = VideoDecoder(codec, max_pixels=320 * 180)\n"
        "    before = peak()\n"
        "    for _ in range(20):\n"
        "        try:\n"
        "            decoder.decode(big)\n"
        "        except MediaCodecError:\n"
        "            continue\n"
        "        raise SystemExit('decoded')\n"
        "    print(codec.name, peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    grown = {name: int(size) for name, size in (line.split() for line in done.stdout.splitlines())}
    # In KiB: one decoded picture of 1080p has 3,000, a decoder's references several of them.
    assert grown.keys() == {"VP8", "VP9", "H264_MAIN"}
    assert max(grown.values()) < 2_000


@pytest.mark.parametrize("codec", CODECS)
def test_a_stream_cannot_begin_in_the_middle(codec: VideoCodec) -> None:
    encoder = VideoEncoder(VideoFormat(codec=codec, **SMALL))
    _, later = encoded(encoder, [scene(0), scene(1)])
    decoder = VideoDecoder(codec)
    try:
        shown = decoder.decode(later.data)
    except MediaCodecError:
        shown = None
    assert shown is None
    encoder.close()


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(max_size=100))
@settings(max_examples=30, deadline=None)
def test_any_bytes_give_a_picture_nothing_or_a_codec_error(codec: VideoCodec, data: bytes) -> None:
    decoder = VideoDecoder(codec)
    try:
        shown = decoder.decode(data)
    except MediaCodecError:
        return
    assert shown is None or shown.width * shown.height <= MAX_PIXELS


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_damage_never_gives_another_error_or_a_larger_picture(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from([VideoCodec.VP8, VideoCodec.VP9, VideoCodec.H264_BASELINE]))
    packet = bytearray(KEY_FRAMES[codec])
    for _ in range(data.draw(st.integers(1, 10))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    decoder = VideoDecoder(codec, max_pixels=320 * 192)
    try:
        shown = decoder.decode(bytes(packet))
    except MediaCodecError:
        return
    assert shown is None or shown.width * shown.height <= 320 * 192


KEY_FRAMES = {
    codec: VideoEncoder(VideoFormat(codec=codec, **SMALL)).encode(scene(0)).data
    for codec in (VideoCodec.VP8, VideoCodec.VP9, VideoCodec.H264_BASELINE)
}


@pytest.mark.parametrize("size", [0, LONGEST_DATA + 1])
def test_nothing_and_too_much_are_refused(size: int) -> None:
    with pytest.raises(MediaCodecError, match=f"{size} bytes of VP9"):
        VideoDecoder(VideoCodec.VP9).decode(bytes(size))


def test_closed_codecs_say_so() -> None:
    encoder, decoder = VideoEncoder(VideoFormat(**SMALL)), VideoDecoder(VideoCodec.VP8)
    packet = encoder.encode(scene(0))
    for codec in (encoder, decoder):
        codec.close()
        codec.close()
    with pytest.raises(MediaCodecError, match="closed"):
        encoder.encode(scene(0))
    with pytest.raises(MediaCodecError, match="closed"):
        decoder.decode(packet.data)


def test_vp8_headers_tell_size_and_key_frames() -> None:
    packet = KEY_FRAMES[VideoCodec.VP8]
    assert is_vp8_key_frame(packet)
    assert vp8_size(packet) == (320, 180)
    assert vp8_size(b"\x01") is None
    assert not is_vp8_key_frame(b"\x01" * 20)
    for broken in (b"", b"\x00", packet[:9], packet[:3] + b"\x00" + packet[4:]):
        with pytest.raises(MediaCodecError, match="VP8"):
            vp8_size(broken)
    with pytest.raises(MediaCodecError, match="0x180"):
        vp8_size(packet[:6] + b"\x00\x00" + packet[8:])


def test_without_pyav_the_extra_is_named(tmp_path: Path) -> None:
    # Found before the installed one, and as broken as a package whose libraries are missing.
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec.so.62: cannot open shared object file')\n")
    program = (
        "from commucat_media.video import VideoEncoder\n"
        "from commucat_media.errors import MediaLibraryMissingError\n"
        "try:\n"
        "    VideoEncoder()\n"
        "except MediaLibraryMissingError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert (
        done.stdout
        == "video needs PyAV, which is not installed; it comes with the extra: commucat-media[video]\n"
    )


def test_encoding_writes_nothing_to_the_terminal() -> None:
    program = (
        "from commucat_media import VideoCodec\n"
        "from commucat_media.video import *\n"
        "from commucat_media.picture import black\n"
        "for codec in (VideoCodec.AV1_MAIN, VideoCodec.VP9, VideoCodec.H264_MAIN, VideoCodec.VP8):\n"
        "    encoder = VideoEncoder(VideoFormat(codec=codec))\n"
        "    VideoDecoder(codec).decode(encoder.encode(black(640, 360)).data)\n"
        "    encoder.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")
