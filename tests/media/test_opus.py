import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_media.errors import MediaCodecError, MediaFormatError
from commucat_media.opus import DTX_BYTES, PACKET_BYTES, OpusDecoder, OpusEncoder
from commucat_media.pcm import SAMPLE_RATES, AudioFormat, level_of, samples_of
from media.sounds import MONO_48K, best_match, correlation, frames_of, loudest, tone, warble

EVERY_FORMAT = [
    AudioFormat(sample_rate=rate, channels=channels) for rate in SAMPLE_RATES for channels in (1, 2)
]


@pytest.mark.parametrize("audio_format", EVERY_FORMAT, ids=str)
def test_every_rate_and_channel_comes_back_as_it_was(audio_format: AudioFormat) -> None:
    rate, channels = audio_format.sample_rate, audio_format.channels
    mono = samples_of(warble(0.5, sample_rate=rate))
    both = mono[:0]
    for sample in mono:
        both.extend([sample] * channels)
    spoken = both.tobytes()
    with OpusEncoder(audio_format, bitrate=32_000) as encoder, OpusDecoder(audio_format) as decoder:
        packets = [encoder.encode(frame) for frame in frames_of(spoken, audio_format)]
        played = b"".join(decoder.decode(packet) for packet in packets)

    assert len(played) == len(packets) * audio_format.frame_bytes
    one_side = samples_of(played)[::channels].tobytes()
    match, _ = best_match(one_side, mono.tobytes(), longest_delay=rate // 50, sample_rate=rate)
    assert match > 0.9


@pytest.mark.parametrize("bitrate", [12_000, 24_000, 48_000])
def test_the_bitrate_holds(bitrate: int) -> None:
    encoder = OpusEncoder(bitrate=bitrate, dtx=False)
    sizes = [len(encoder.encode(frame)) for frame in frames_of(warble(2))]
    assert 8 * sum(sizes) / 2 == pytest.approx(bitrate, rel=0.35)


def test_the_bitrate_changes_while_running() -> None:
    encoder = OpusEncoder(bitrate=64_000, dtx=False)
    frames = frames_of(warble(2))
    before = sum(len(encoder.encode(frame)) for frame in frames[:50])
    encoder.set_bitrate(12_000)
    after = sum(len(encoder.encode(frame)) for frame in frames[50:])
    assert encoder.bitrate == 12_000
    assert after < before / 3


def test_silence_needs_no_packets_with_dtx() -> None:
    frames = [MONO_48K.silence] * 60
    with_dtx, without = OpusEncoder(dtx=True), OpusEncoder(dtx=False)
    small = [frame for frame in frames if len(with_dtx.encode(frame)) <= DTX_BYTES]
    assert len(small) > 40
    assert [frame for frame in frames if len(without.encode(frame)) <= DTX_BYTES] == []


def lost_and_recovered(*, fec: bool) -> tuple[float, float]:
    """Correlation of every fifth frame, lost, with what was said: by error correction, and concealed."""
    encoder = OpusEncoder(bitrate=32_000, fec=fec, dtx=False, expected_loss=20)
    packets = [encoder.encode(frame) for frame in frames_of(warble(2))]
    whole, with_next, without = OpusDecoder(), OpusDecoder(), OpusDecoder()
    said: list[int] = []
    recovered: list[int] = []
    concealed: list[int] = []
    for index, packet in enumerate(packets[:-1]):
        original = whole.decode(packet)
        if index % 5 == 4:
            said += samples_of(original)
            recovered += samples_of(with_next.recover(packets[index + 1]))
            concealed += samples_of(without.conceal())
        else:
            with_next.decode(packet)
            without.decode(packet)
    return correlation(recovered, said), correlation(concealed, said)


def test_a_lost_frame_is_recovered_from_the_next_packet() -> None:
    recovered, concealed = lost_and_recovered(fec=True)
    assert recovered > 0.85
    assert recovered > concealed + 0.1


def test_without_error_correction_the_next_packet_helps_no_more_than_concealment() -> None:
    recovered, concealed = lost_and_recovered(fec=False)
    assert recovered == pytest.approx(concealed, abs=0.05)


def test_concealment_goes_on_and_fades() -> None:
    encoder, decoder = OpusEncoder(), OpusDecoder()
    for frame in frames_of(tone(300, 0.4)):
        heard = decoder.decode(encoder.encode(frame))
    first = decoder.conceal()
    assert level_of(first).rms > level_of(heard).rms / 2
    for _ in range(40):
        last = decoder.conceal()
    assert loudest(last) < 100


def test_an_empty_packet_asks_for_concealment() -> None:
    encoder, one, other = OpusEncoder(), OpusDecoder(), OpusDecoder()
    for frame in frames_of(tone(300, 0.2)):
        packet = encoder.encode(frame)
        one.decode(packet)
        other.decode(packet)
    assert one.decode(b"") == other.conceal()
    assert one.recover(b"") == other.conceal()


@pytest.mark.parametrize("bitrate", [0, -1, 2**31])
def test_an_impossible_bitrate_is_refused(bitrate: int) -> None:
    with pytest.raises(MediaFormatError, match=f"bitrate {bitrate};"):
        OpusEncoder(bitrate=bitrate)
    encoder = OpusEncoder()
    with pytest.raises(MediaFormatError, match=f"bitrate {bitrate};"):
        encoder.set_bitrate(bitrate)
    assert encoder.bitrate == 16_000


def test_the_highest_bitrate_is_taken_and_kept_in_the_range_of_the_library() -> None:
    encoder = OpusEncoder(bitrate=2**31 - 1)
    assert len(encoder.encode(tone(440, 0.02))) <= PACKET_BYTES


def test_complexity_is_capped_and_never_negative() -> None:
    assert OpusEncoder(complexity=99).encode(MONO_48K.silence)
    with pytest.raises(MediaFormatError, match="complexity -1"):
        OpusEncoder(complexity=-1)


@pytest.mark.parametrize("percent", [-1, 101])
def test_an_impossible_loss_is_refused(percent: int) -> None:
    with pytest.raises(MediaFormatError, match=f"loss of {percent} percent"):
        OpusEncoder(expected_loss=percent)


@pytest.mark.parametrize("size", [0, 1918, 1922])
def test_only_a_whole_frame_is_encoded(size: int) -> None:
    with pytest.raises(MediaFormatError, match="a frame of 20 ms"):
        OpusEncoder().encode(bytes(size))


def test_a_packet_of_another_length_is_refused_and_the_decoder_goes_on() -> None:
    long = OpusEncoder(AudioFormat(frame_ms=60))
    packet = long.encode(AudioFormat(frame_ms=60).silence)
    decoder = OpusDecoder()
    with pytest.raises(MediaCodecError, match="packet of 60 ms; frames here have 20"):
        decoder.decode(packet)
    assert len(decoder.decode(OpusEncoder().encode(MONO_48K.silence))) == MONO_48K.frame_bytes


@given(st.binary(max_size=200))
def test_any_bytes_give_a_frame_or_a_codec_error(data: bytes) -> None:
    with OpusDecoder() as decoder:
        for decode in (decoder.decode, decoder.recover):
            try:
                assert len(decode(data)) == MONO_48K.frame_bytes
            except MediaCodecError:
                continue


def test_a_packet_beyond_every_size_is_refused() -> None:
    with pytest.raises(MediaCodecError, match=f"packet of {PACKET_BYTES + 1} bytes"):
        OpusDecoder().decode(bytes(PACKET_BYTES + 1))


@pytest.mark.parametrize("kind", [OpusEncoder, OpusDecoder])
def test_a_closed_codec_says_so(kind: Callable[[], OpusEncoder | OpusDecoder]) -> None:
    codec = kind()
    codec.close()
    codec.close()
    with pytest.raises(MediaCodecError, match="closed"):
        codec.encode(MONO_48K.silence) if isinstance(codec, OpusEncoder) else codec.decode(b"\xf8\xff\xfe")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_native_memory_goes_with_the_object() -> None:
    encoder = OpusEncoder()
    gone = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
    for _ in range(50):
        OpusEncoder(), OpusDecoder()
    before = resident_bytes()
    for _ in range(1_000):
        OpusEncoder(), OpusDecoder()
    # Each pair has some 50 KB: kept, they would be 50 MB.
    assert resident_bytes() - before < 10_000_000


@pytest.mark.parametrize(
    ("library", "named"),
    [("libopus.so.0", "libopus"), ("libopusfile.so.0", "libopusfile"), ("libogg.so.0", "libogg")],
)
def test_a_missing_library_is_told_with_its_package(tmp_path: Path, library: str, named: str) -> None:
    # The loader looks here first, and what it finds is no library.
    (tmp_path / library).touch()
    program = (
        "from commucat_media.opus import OpusEncoder\n"
        "from commucat_media.errors import MediaLibraryMissingError\n"
        "try:\n"
        "    OpusEncoder()\n"
        "except MediaLibraryMissingError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.startswith("Opus needs ")
    assert named in done.stdout
    assert done.stdout.endswith("on Debian: apt-get install libopus0 libogg0 libopusfile0\n")


@pytest.mark.parametrize("path", [None, "/usr/local/bin:/usr/bin:/bin"])
def test_loading_leaves_the_search_path_of_programs_alone(path: str | None) -> None:
    program = (
        "import os\n"
        "from commucat_media.opus import OpusEncoder\n"
        "OpusEncoder()\n"
        "print(os.environ.get('PATH'))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PATH"}
    if path is not None:
        environment["PATH"] = path
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{path}\n", "")
