"""Raw sound: interleaved signed 16-bit little-endian samples, their loudness, and what is made into them.

The form is that of the codec ``raw_pcm`` (as CCP-1 has it).
"""

import math
import sys
from array import array
from collections.abc import Iterable
from typing import Final

import attrs

from commucat_media.errors import MediaFormatError
from commucat_media.packet import AUDIO_TICKS, SILENCE_LEVEL

SAMPLE_BYTES: Final = 2
FULL_SCALE: Final = 32_767
"""The sample that counts as the loudest, 0 dBov."""
SAMPLE_RATES: Final = (8_000, 12_000, 16_000, 24_000, 48_000)
"""What a call's sound may have, in Hz (those of Opus, RFC 6716, section 2)."""
FRAME_LENGTHS: Final = (5, 10, 20, 40, 60)
"""Milliseconds that one packet may hold."""
_PIECE: Final = 4_096


@attrs.frozen(kw_only=True)
class AudioFormat:
    """Rate, channels and frame length of a call's sound.

    Raises:
        MediaFormatError: a rate, number of channels or frame length that no call can have.
    """

    sample_rate: int = 48_000
    """Samples per second and channel, one of :data:`SAMPLE_RATES`."""
    channels: int = 1
    """1 or 2; samples of both alternate, left first."""
    frame_ms: int = 20
    """Milliseconds in a frame, one of :data:`FRAME_LENGTHS`."""

    def __attrs_post_init__(self) -> None:
        if self.sample_rate not in SAMPLE_RATES:
            raise MediaFormatError(f"sample rate {self.sample_rate} Hz; known are {_listed(SAMPLE_RATES)}")
        if self.channels not in (1, 2):
            raise MediaFormatError(f"{self.channels} channels; sound has 1 or 2")
        if self.frame_ms not in FRAME_LENGTHS:
            raise MediaFormatError(f"frames of {self.frame_ms} ms; known are {_listed(FRAME_LENGTHS)}")

    @property
    def frame_samples(self) -> int:
        """Samples of each channel in a frame."""
        return self.sample_rate * self.frame_ms // 1000

    @property
    def frame_bytes(self) -> int:
        return self.frame_samples * self.channels * SAMPLE_BYTES

    @property
    def frame_ticks(self) -> int:
        """Length of a frame in units of a packet's timestamp."""
        return AUDIO_TICKS * self.frame_ms // 1000

    @property
    def silence(self) -> bytes:
        """A frame in which nothing is heard."""
        return bytes(self.frame_bytes)

    def check_frame(self, pcm: bytes) -> None:
        """Raise :class:`MediaFormatError` unless this is exactly one frame."""
        if len(pcm) != self.frame_bytes:
            raise MediaFormatError(
                f"{len(pcm)} bytes of sound; a frame of {self.frame_ms} ms, {self.sample_rate} Hz and "
                f"{self.channels} channels has {self.frame_bytes}"
            )


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in values)


def samples_of(pcm: bytes) -> "array[int]":
    """Return the samples of raw sound, all channels as they lie.

    Raises:
        MediaFormatError: half a sample is left over.
    """
    if len(pcm) % SAMPLE_BYTES:
        raise MediaFormatError(f"{len(pcm)} bytes of sound; a sample has {SAMPLE_BYTES}")
    samples = array("h", pcm)
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def pcm_of(samples: "array[int]") -> bytes:
    """The reverse of :func:`samples_of`."""
    if sys.byteorder == "big":
        samples = array("h", samples)
        samples.byteswap()
    return samples.tobytes()


@attrs.frozen
class Level:
    """Loudness of some sound; both from 0 (silence) to 1 (full scale)."""

    peak: float
    rms: float

    @property
    def dbov(self) -> int:
        """What a packet tells: 0 (as loud as can be) to 127 (silence), in -dBov (RFC 6464, section 3)."""
        if self.rms <= 0:
            return SILENCE_LEVEL
        return min(max(round(-20 * math.log10(self.rms)), 0), SILENCE_LEVEL)


def level_of(pcm: bytes) -> Level:
    """Return the loudness of raw sound, all channels together. No sound at all is silence."""
    samples = samples_of(pcm)
    if not samples:
        return Level(0.0, 0.0)
    peak = max(max(samples), -min(samples)) / FULL_SCALE
    # The root of the sum of squares, twice as fast as a sum in Python; in pieces, as arguments take memory.
    pieces = (samples[at : at + _PIECE] for at in range(0, len(samples), _PIECE))
    rms = math.hypot(*(math.hypot(*piece) for piece in pieces)) / math.sqrt(len(samples)) / FULL_SCALE
    return Level(min(peak, 1.0), min(rms, 1.0))


def pcm_from_float(samples: Iterable[float]) -> bytes:
    """Make raw sound of samples from -1 to 1; what lies outside is cut off, what is no number is silence."""
    return pcm_of(array("h", [_scaled(sample) for sample in samples]))


def _scaled(sample: float) -> int:
    if math.isnan(sample):
        return 0
    return round(min(max(sample, -1.0), 1.0) * FULL_SCALE)


def pcm_from_unsigned(samples: Iterable[int]) -> bytes:
    """Make raw sound of unsigned 16-bit samples, whose silence is 32768.

    Raises:
        MediaFormatError: a sample is no unsigned 16-bit number.
    """
    try:
        return pcm_of(array("h", [sample - 32_768 for sample in samples]))
    except OverflowError as exc:
        raise MediaFormatError("an unsigned 16-bit sample is below 0 or above 65535") from exc


def with_channels(pcm: bytes, *, have: int, want: int) -> bytes:
    """Make stereo of mono (the same on both sides) or mono of stereo (the mean of both).

    Raises:
        MediaFormatError: other numbers of channels, or half a sample is left over.
    """
    if have not in (1, 2) or want not in (1, 2):
        raise MediaFormatError(f"{have} to {want} channels; sound has 1 or 2")
    if len(pcm) % (have * SAMPLE_BYTES):
        raise MediaFormatError(
            f"{len(pcm)} bytes of sound; a sample of {have} channels has {have * SAMPLE_BYTES}"
        )
    if have == want:
        return pcm
    samples = samples_of(pcm)
    if want == 2:
        both = array("h", bytes(2 * len(pcm)))
        both[0::2] = samples
        both[1::2] = samples
        return pcm_of(both)
    # Not by way of a list, in which a sample takes 36 bytes.
    return pcm_of(array("h", (sum(pair) // 2 for pair in zip(samples[0::2], samples[1::2], strict=True))))
