"""WAV files: read into raw sound, and written from it.

The chunks are read here, because the standard library's reader (Python 3.11) refuses the extensible form, in
which most programs write 24 bits, and takes the size in the head of a file that went through a pipe for true.
"""

import struct
import wave
from pathlib import Path
from typing import IO, Final

import attrs

from commucat_media.errors import MediaFormatError
from commucat_media.pcm import SAMPLE_BYTES, AudioFormat, with_channels
from commucat_media.resample import resample

LONGEST_SECONDS: Final = 3_600
"""A longer file is refused: it is held in memory, where an hour of stereo at 48 kHz takes 660 MiB."""

_CHUNK: Final = struct.Struct("<4sI")
# Format, channels, rate, bytes a second, bytes a frame, bits (RIFF WAVE, Microsoft 1994).
_FORM: Final = struct.Struct("<HHIIHH")
_LONGEST_FORM: Final = 1024
_PCM: Final = 1
_EXTENSIBLE: Final = 0xFFFE
_SUBFORMAT: Final = slice(24, 40)
_PCM_SUBFORMAT: Final = bytes.fromhex("0100000000001000800000aa00389b71")
_FORMATS: Final = {3: "float", 6: "A-law", 7: "mu-law", _EXTENSIBLE: "other than PCM"}
_UNKNOWN_SIZE: Final = 2**32 - 1
"""What programs write that cannot go back to the head of the file."""
_PIECE: Final = 1 << 20
_SIGNED: Final = bytes(byte ^ 0x80 for byte in range(256))


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

    The size that its head tells is the most that is taken: the file may have been cut off, and who writes
    into a pipe cannot know the size, and puts the highest number there.

    Raises:
        MediaFormatError: it is no such file, has more than two channels, or lasts longer than an hour.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            rate, channels, width, raw = _read_chunks(file, path)
        except EOFError as exc:
            raise MediaFormatError(f"{path}: the WAV file ends within its header") from exc
    # A file that was cut off may end within a sample.
    raw = raw[: len(raw) - len(raw) % (width * channels)]
    return Sound(pcm=_as_16_bit(raw, width, path), sample_rate=rate, channels=channels)


def _read_chunks(file: IO[bytes], path: Path) -> tuple[int, int, int, bytes]:
    """Rate, channels, bytes of a sample, and the samples."""
    if (head := _exactly(file, 12))[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise MediaFormatError(f"{path}: no WAV file that can be read")
    form: tuple[int, int, int] | None = None
    while True:
        name, size = _CHUNK.unpack(_exactly(file, _CHUNK.size))
        if name == b"data":
            if form is None:
                raise MediaFormatError(
                    f"{path}: no WAV file that can be read: its form comes after its sound"
                )
            rate, channels, width = form
            longest = LONGEST_SECONDS * rate * channels * width
            raw = _at_most(file, longest + 1 if size == _UNKNOWN_SIZE else min(size, longest + 1))
            if len(raw) > longest:
                raise MediaFormatError(f"{path}: longer than {LONGEST_SECONDS} seconds")
            return rate, channels, width, raw
        if name == b"fmt ":
            if size > _LONGEST_FORM:
                raise MediaFormatError(f"{path}: no WAV file that can be read")
            form = _form_of(_exactly(file, size + size % 2), path)
        else:
            _pass_over(file, size + size % 2)


def _form_of(chunk: bytes, path: Path) -> tuple[int, int, int]:
    if len(chunk) < _FORM.size:
        raise MediaFormatError(f"{path}: no WAV file that can be read: its form is cut off")
    kind, channels, rate, _, _, bits = _FORM.unpack_from(chunk)
    if kind == _EXTENSIBLE and chunk[_SUBFORMAT] == _PCM_SUBFORMAT:
        kind = _PCM  # As most programs write more than 16 bits.
    if kind != _PCM:
        raise MediaFormatError(
            f"{path}: sound of format {_FORMATS.get(kind, kind)}; convert it to 16-bit PCM (integers)"
        )
    if channels not in (1, 2):
        raise MediaFormatError(f"{path}: {channels} channels; sound has 1 or 2")
    if rate == 0:
        raise MediaFormatError(f"{path}: sample rate 0 Hz")
    width = (bits + 7) // 8
    if width not in (1, 2, 3, 4):
        raise MediaFormatError(f"{path}: samples of {bits} bits; 8, 16, 24 and 32 can be read")
    return rate, channels, width


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = _at_most(file, size)
    if len(data) < size:
        raise EOFError
    return data


def _at_most(file: IO[bytes], size: int) -> bytes:
    """In pieces: memory is taken for what is there, not for what was announced."""
    data = bytearray()
    while len(data) < size and (piece := file.read(min(size - len(data), _PIECE))):
        data += piece
    return bytes(data)


def _pass_over(file: IO[bytes], size: int) -> None:
    while size:
        piece = file.read(min(size, _PIECE))
        if not piece:
            raise EOFError
        size -= len(piece)


def _as_16_bit(raw: bytes, width: int, path: Path) -> bytes:
    if width == SAMPLE_BYTES:
        return raw
    if width == 1:
        # The only width whose samples are unsigned.
        upper = bytearray(2 * len(raw))
        upper[1::2] = raw.translate(_SIGNED)
        return bytes(upper)
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
