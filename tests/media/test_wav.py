import struct
import tracemalloc
import wave
from pathlib import Path

import pytest

from commucat_media.errors import MediaFormatError
from commucat_media.pcm import AudioFormat, samples_of
from commucat_media.resample import resample
from commucat_media.wav import Sound, read_wav, write_wav
from media.sounds import correlation, tone


def write_raw(path: Path, *, width: int, raw: bytes, channels: int = 1, rate: int = 8_000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)


def test_round_trip(tmp_path: Path) -> None:
    sound = Sound(pcm=tone(440, 0.1), sample_rate=48_000, channels=1)
    write_wav(tmp_path / "tone.wav", sound)
    assert read_wav(tmp_path / "tone.wav") == sound
    assert sound.seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("width", "raw", "samples"),
    [
        (1, b"\x00\x80\xff", [-32_768, 0, 32_512]),
        (2, b"\x01\x00\xff\xff", [1, -1]),
        (3, b"\xaa\x01\x00\xaa\xff\xff", [1, -1]),
        (4, b"\xaa\xbb\x01\x00\xaa\xbb\xff\xff", [1, -1]),
    ],
)
def test_every_width_is_read(tmp_path: Path, width: int, raw: bytes, samples: list[int]) -> None:
    write_raw(tmp_path / "sound.wav", width=width, raw=raw)
    assert samples_of(read_wav(tmp_path / "sound.wav").pcm).tolist() == samples


@pytest.mark.parametrize("content", [b"", b"RIFF", b"this is no sound at all, but long enough for a header"])
def test_what_is_no_wav_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "noise.wav"
    path.write_bytes(content)
    with pytest.raises(MediaFormatError, match=r"noise\.wav: .*WAV"):
        read_wav(path)


def test_a_file_that_was_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    write_raw(path, width=2, channels=2, raw=bytes(range(40)))
    path.write_bytes(path.read_bytes()[:-3])
    assert read_wav(path).pcm == bytes(range(36))


def test_more_than_two_channels_and_more_than_an_hour_are_refused(tmp_path: Path) -> None:
    write_raw(tmp_path / "many.wav", width=2, channels=6, raw=bytes(12))
    with pytest.raises(MediaFormatError, match="6 channels"):
        read_wav(tmp_path / "many.wav")
    write_raw(tmp_path / "long.wav", width=1, raw=bytes(7_201), rate=2)
    with pytest.raises(MediaFormatError, match="longer than 3600 seconds"):
        read_wav(tmp_path / "long.wav")


def test_a_missing_file_is_the_callers_business(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_wav(tmp_path / "none.wav")


@pytest.mark.parametrize(
    ("have", "want"), [(44_100, 48_000), (48_000, 8_000), (8_000, 48_000), (22_050, 16_000)]
)
def test_a_tone_is_the_same_tone_at_another_rate(have: int, want: int) -> None:
    converted = samples_of(resample(tone(440, 0.2, sample_rate=have), have=have, want=want))
    expected = samples_of(tone(440, 0.2, sample_rate=want))
    assert len(converted) == len(expected)
    assert correlation(converted, expected) > 0.999
    # Away from the ends, where the tone meets silence, sample for sample.
    middle = slice(len(expected) // 4, -len(expected) // 4)
    assert max(abs(a - b) for a, b in zip(converted[middle], expected[middle], strict=True)) < 100


def test_what_the_lower_rate_cannot_carry_is_gone() -> None:
    high = resample(tone(6_000, 0.2, sample_rate=48_000), have=48_000, want=8_000)
    assert max(abs(sample) for sample in samples_of(high)[200:-200]) < 100


def test_sound_is_converted_to_a_call(tmp_path: Path) -> None:
    sound = Sound(pcm=tone(440, 0.5, sample_rate=44_100), sample_rate=44_100, channels=1)
    stereo = sound.converted(AudioFormat(channels=2))
    samples = samples_of(stereo)
    assert len(samples) == 48_000
    assert samples[0::2] == samples[1::2]


@pytest.mark.parametrize(
    ("have", "want", "match"),
    [
        (0, 48_000, "sample rate 0"),
        (48_000, 10**9, "sample rate 1000000000"),
        (47_999, 48_000, "cannot be made"),
    ],
)
def test_rates_without_a_common_measure_are_refused(have: int, want: int, match: str) -> None:
    with pytest.raises(MediaFormatError, match=match):
        resample(bytes(200), have=have, want=want)


def head_of(*, kind: int = 1, bits: int = 16, rate: int = 8_000, size: int, more: bytes = b"") -> bytes:
    form = struct.pack("<HHIIHH", kind, 1, rate, rate * bits // 8, bits // 8, bits) + more
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"LIST\x03\0\0\0abc\0data"
    return b"RIFF" + struct.pack("<I", 2**32 - 1) + chunks + struct.pack("<I", size)


@pytest.mark.parametrize("size", [2**31, 2**32 - 1])
def test_a_size_that_was_not_known_or_is_not_true_does_no_harm(tmp_path: Path, size: int) -> None:
    (tmp_path / "pipe.wav").write_bytes(head_of(size=size) + bytes(range(8)))
    assert read_wav(tmp_path / "pipe.wav").pcm == bytes(range(8))


def test_24_bits_as_most_programs_write_them(tmp_path: Path) -> None:
    more = struct.pack("<HHI", 22, 24, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
    content = head_of(kind=0xFFFE, bits=24, size=6, more=more) + b"\xaa\x01\x00\xaa\xff\xff"
    (tmp_path / "deep.wav").write_bytes(content)
    assert samples_of(read_wav(tmp_path / "deep.wav").pcm).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (head_of(kind=3, bits=32, size=4) + bytes(4), "format float; convert it"),
        (head_of(rate=0, size=2) + bytes(2), "sample rate 0 Hz"),
        (head_of(bits=0, size=2) + bytes(2), "samples of 0 bits"),
        (head_of(size=2)[:30], "ends within its header"),
    ],
)
def test_what_is_not_read_is_said_by_name(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "other.wav").write_bytes(content)
    with pytest.raises(MediaFormatError, match=match):
        read_wav(tmp_path / "other.wav")


def test_long_sound_takes_little_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    write_raw(tmp_path / "long.wav", width=1, channels=2, raw=bytes(4_000_000), rate=48_000)
    tracemalloc.start()
    try:
        read_wav(tmp_path / "long.wav").converted(AudioFormat())
        assert tracemalloc.get_traced_memory()[1] < 12 * 4_000_000
    finally:
        tracemalloc.stop()
