import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_media.errors import MediaFormatError
from commucat_media.pcm import (
    AudioFormat,
    level_of,
    pcm_from_float,
    pcm_from_unsigned,
    pcm_of,
    samples_of,
    with_channels,
)
from media.sounds import tone

SAMPLES = st.lists(st.integers(-32_768, 32_767), max_size=50)


def test_the_default_frame_is_that_of_the_specification() -> None:
    audio_format = AudioFormat()
    assert (audio_format.frame_samples, audio_format.frame_bytes, audio_format.frame_ticks) == (
        960,
        1920,
        960,
    )


@pytest.mark.parametrize(
    ("rate", "channels", "ms", "samples"), [(8_000, 1, 20, 160), (12_000, 2, 10, 120), (24_000, 2, 60, 1440)]
)
def test_a_frame_has_whole_samples(rate: int, channels: int, ms: int, samples: int) -> None:
    audio_format = AudioFormat(sample_rate=rate, channels=channels, frame_ms=ms)
    assert audio_format.frame_samples == samples
    assert audio_format.frame_bytes == samples * channels * 2 == len(audio_format.silence)
    # Timestamps count in 48 kHz at every rate.
    assert audio_format.frame_ticks == ms * 48


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"sample_rate": 44_100}, "sample rate 44100 Hz; known are 8000"),
        ({"channels": 0}, "0 channels"),
        ({"channels": 3}, "3 channels"),
        ({"frame_ms": 15}, "frames of 15 ms"),
    ],
)
def test_other_formats_are_refused(values: dict[str, int], match: str) -> None:
    with pytest.raises(MediaFormatError, match=match):
        AudioFormat(**values)


@pytest.mark.parametrize("size", [0, 1919, 1921, 3840])
def test_only_exactly_one_frame_is_a_frame(size: int) -> None:
    AudioFormat().check_frame(bytes(1920))
    with pytest.raises(MediaFormatError, match=f"{size} bytes of sound; .* has 1920"):
        AudioFormat().check_frame(bytes(size))


@given(SAMPLES)
def test_samples_are_little_endian(samples: list[int]) -> None:
    pcm = pcm_of(array("h", samples))
    assert pcm == b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples)
    assert samples_of(pcm).tolist() == samples


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(MediaFormatError, match="3 bytes"):
        samples_of(b"\x00\x00\x00")


def test_floats_are_cut_off_scaled_and_rounded() -> None:
    samples = samples_of(pcm_from_float([0.0, 1.0, -1.0, 2.5, -math.inf, 0.5, math.nan]))
    assert samples.tolist() == [0, 32_767, -32_767, 32_767, -32_767, 16_384, 0]


def test_unsigned_samples_are_centred() -> None:
    assert samples_of(pcm_from_unsigned([0, 32_768, 65_535])).tolist() == [-32_768, 0, 32_767]
    for wrong in (-1, 65_536):
        with pytest.raises(MediaFormatError, match="unsigned"):
            pcm_from_unsigned([wrong])


def test_level_of_silence_full_scale_and_a_tone() -> None:
    assert (level_of(b"").dbov, level_of(bytes(200)).dbov) == (127, 127)
    loud = level_of(pcm_of(array("h", [-32_768] * 100)))
    assert (loud.peak, loud.rms, loud.dbov) == (1.0, 1.0, 0)
    # A sine at half of full scale: 6 dB below, and 3 dB more between peak and effective value.
    half = level_of(tone(1_000, 0.1))
    assert half.peak == pytest.approx(0.5, abs=0.001)
    assert half.rms == pytest.approx(0.5 / math.sqrt(2), abs=0.001)
    assert half.dbov == 9


@given(SAMPLES)
def test_a_level_is_always_one_that_a_packet_can_tell(samples: list[int]) -> None:
    level = level_of(pcm_of(array("h", samples)))
    assert 0 <= level.rms <= 1
    assert 0 <= level.peak <= 1
    assert 0 <= level.dbov <= 127


def test_channels_are_doubled_and_mixed() -> None:
    mono = pcm_of(array("h", [1, -2, 300]))
    stereo = with_channels(mono, have=1, want=2)
    assert samples_of(stereo).tolist() == [1, 1, -2, -2, 300, 300]
    assert with_channels(stereo, have=2, want=1) == mono
    assert with_channels(mono, have=1, want=1) == mono
    extremes = pcm_of(array("h", [-32_768, -32_768, 32_767, 32_767]))
    assert samples_of(with_channels(extremes, have=2, want=1)).tolist() == [-32_768, 32_767]


def test_odd_sound_has_no_channels() -> None:
    with pytest.raises(MediaFormatError, match="2 bytes of sound"):
        with_channels(b"\x00\x00", have=2, want=1)
    with pytest.raises(MediaFormatError, match="1 to 5 channels"):
        with_channels(b"\x00\x00", have=1, want=5)
