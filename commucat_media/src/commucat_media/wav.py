"""WAV files: read into raw sound, and written from it."""

import array
import wave
from pathlib import Path
from typing import Final

import attrs

from commucat_media.errors import MediaFormatError
from commucat_media.pcm import SAMPLE_BYTES, AudioFormat, pcm_of, with_channels
from commucat_media.resample import resample

LONGEST_SECONDS: Final = 3_600
"""A longer file is refused: it is held in memory, where an hour of stereo at 48 kHz takes 660 MiB."""


@attrs.frozen(kw_only=True)
class Sound:
    """Some raw sound of any rate, in one or two channels."""

    pcm: bytes = attrs.field(repr=False)
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return len(self.pcm) / (SAMPLE_BYTES * self.channels * self.sample_rate)

    def converted(self, audio_format: AudioFormat) -> bytes:
        """Return the sound at the rate and with the channels of a call.

        Raises:
            MediaFormatError: the rate cannot be converted.
        """
        pcm = with_channels(self.pcm, have=self.channels, want=audio_format.channels)
        return resample(
            pcm, have=self.sample_rate, want=audio_format.sample_rate, channels=audio_format.channels
        )


def read_wav(path: Path) -> Sound:
    """Read a WAV file with integer samples of 8, 16, 24 or 32 bits; of deeper ones the upper 16 bits count.

    Raises:
        MediaFormatError: it is no such file, has more than two channels, or lasts longer than an hour.
        OSError: it cannot be read.
    """
    try:
        with wave.open(str(path), "rb") as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            if channels not in (1, 2):
                raise MediaFormatError(f"{path}: {channels} channels; sound has 1 or 2")
            if rate <= 0 or file.getnframes() > LONGEST_SECONDS * rate:
                raise MediaFormatError(f"{path}: longer than {LONGEST_SECONDS} seconds")
            raw = file.readframes(file.getnframes())
    except wave.Error as exc:
        raise MediaFormatError(f"{path}: no WAV file that can be read: {exc}") from exc
    except EOFError as exc:
        raise MediaFormatError(f"{path}: the WAV file ends within its header") from exc
    # A file that was cut off may end within a sample.
    raw = raw[: len(raw) - len(raw) % (width * channels)]
    return Sound(pcm=_as_16_bit(raw, width, path), sample_rate=rate, channels=channels)


def _as_16_bit(raw: bytes, width: int, path: Path) -> bytes:
    if width == SAMPLE_BYTES:
        return raw
    if width == 1:
        # The only width whose samples are unsigned.
        return pcm_of(array.array("h", [(byte - 128) << 8 for byte in raw]))
    if width in (3, 4):
        upper = bytearray(len(raw) // width * SAMPLE_BYTES)
        upper[0::2] = raw[width - 2 :: width]
        upper[1::2] = raw[width - 1 :: width]
        return bytes(upper)
    raise MediaFormatError(f"{path}: samples of {8 * width} bits; 8, 16, 24 and 32 can be read")


def write_wav(path: Path, sound: Sound) -> None:
    """Write a WAV file with 16-bit samples; a file that is there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound.channels)
        file.setsampwidth(SAMPLE_BYTES)
        file.setframerate(sound.sample_rate)
        file.writeframes(sound.pcm)
