import attrs
import pytest

from commucat_media import AudioCodec
from commucat_media.errors import MediaCodecError, MediaFormatError
from commucat_media.opus import OpusEncoder
from commucat_media.pcm import AudioFormat
from commucat_media.voice_message import decode_voice_message, encode_voice_message
from media.sounds import MONO_48K, best_match, loudest, warble


def test_a_message_is_heard_as_it_was_said() -> None:
    spoken = warble(1.01)
    message = encode_voice_message(spoken, encoder=OpusEncoder(bitrate=32_000, dtx=False))
    assert (len(message.frames), message.duration_ms) == (51, 1020)
    heard = decode_voice_message(message)
    assert len(heard) == 51 * MONO_48K.frame_bytes
    match, _ = best_match(heard, spoken[:-2_000], longest_delay=960)
    assert match > 0.9


def test_raw_messages_end_with_silence() -> None:
    message = encode_voice_message(b"\x01\x02\x03\x04", encoder=None)
    assert message.codec is AudioCodec.RAW_PCM
    assert decode_voice_message(message) == b"\x01\x02\x03\x04" + bytes(1916)
    assert message.duration_ms == 20


@pytest.mark.parametrize("encoded", [False, True])
def test_an_empty_message_has_one_silent_frame_and_no_duration(encoded: bool) -> None:
    message = encode_voice_message(b"", encoder=OpusEncoder() if encoded else None)
    assert (len(message.frames), message.duration_ms) == (1, 0)
    heard = decode_voice_message(message)
    assert len(heard) == MONO_48K.frame_bytes
    assert loudest(heard) <= 2


def test_the_format_is_that_of_the_encoder() -> None:
    audio_format = AudioFormat(sample_rate=16_000, channels=2, frame_ms=40)
    message = encode_voice_message(bytes(10_000), encoder=OpusEncoder(audio_format))
    assert message.format == audio_format
    assert message.duration_ms == 160


def test_a_damaged_frame_is_told() -> None:
    message = encode_voice_message(bytes(1920), encoder=OpusEncoder())
    with pytest.raises(MediaCodecError, match="Opus"):
        decode_voice_message(attrs.evolve(message, frames=(b"\xff\xff",)))
    raw = encode_voice_message(bytes(1920), encoder=None)
    with pytest.raises(MediaFormatError, match="3 bytes of sound"):
        decode_voice_message(attrs.evolve(raw, frames=(b"\x01\x02\x03",)))
