"""Opus (RFC 6716) through libopus: speech of 20 ms into some 40 bytes, and back.

Both classes are plain and block for less than a millisecond; nothing in them is shared, but one object must
not be used by two threads at once. :mod:`commucat_media.threads` runs them beside an event loop.
"""

import ctypes
import weakref
from array import array
from types import ModuleType, TracebackType
from typing import Any, Final, Self

from commucat_media.errors import MediaCodecError, MediaFormatError
from commucat_media.opus_library import opus_library
from commucat_media.pcm import AudioFormat, pcm_of, samples_of

DEFAULT_BITRATE: Final = 16_000
DEFAULT_COMPLEXITY: Final = 9
HIGHEST_COMPLEXITY: Final = 10
HIGHEST_BITRATE: Final = 2**31 - 1
PACKET_BYTES: Final = 4_096
"""An encoded frame is never longer (RFC 6716 allows 1,275 bytes for each of the three frames of 60 ms)."""
DTX_BYTES: Final = 2
"""A packet of so many bytes says only that nobody speaks and need not be sent (libopus, ``opus_encode``)."""
DEFAULT_LOSS_PERCENT: Final = 10
"""Loss that the encoder prepares for until it is told: with 0 it would add no error correction at all."""


class _Codec:
    """What encoder and decoder share: a state of libopus that is freed with the object."""

    def __init__(self, audio_format: AudioFormat, library: ModuleType, state: Any, destroy: Any) -> None:
        self.format = audio_format
        self._opus = library
        self._state: Any = state
        self._release = weakref.finalize(self, destroy, state)

    def close(self) -> None:
        """Free the native memory at once; otherwise it goes with the object. May be called twice."""
        self._release()
        self._state = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_state(self) -> Any:
        # A freed state must not reach libopus, which would read memory of somebody else.
        if self._state is None:
            raise MediaCodecError("the Opus codec is closed")
        return self._state

    def _checked(self, result: int, what: str) -> int:
        if result < 0:
            reason = self._opus.opus_strerror(result).decode("ascii", "replace")
            raise MediaCodecError(f"Opus {what}: {reason}")
        return result


class OpusEncoder(_Codec):
    """Encodes frames of raw sound.

    Raises:
        MediaFormatError: a bitrate, complexity or loss out of range.
        MediaLibraryMissingError: libopus is not installed.
    """

    def __init__(
        self,
        audio_format: AudioFormat | None = None,
        *,
        bitrate: int = DEFAULT_BITRATE,
        fec: bool = True,
        dtx: bool = True,
        vbr: bool = True,
        complexity: int = DEFAULT_COMPLEXITY,
        expected_loss: int = DEFAULT_LOSS_PERCENT,
    ) -> None:
        """``bitrate`` in bit/s, ``complexity`` from 0 (fast) to 10, ``expected_loss`` in percent.

        ``fec`` adds to each packet what the next one needs to stand in for it (in-band error correction);
        ``dtx`` makes packets of :data:`DTX_BYTES` while nobody speaks; ``vbr`` lets their size vary.
        """
        audio_format = audio_format or AudioFormat()
        _check_bitrate(bitrate)
        if complexity < 0:
            raise MediaFormatError(f"complexity {complexity}; from 0 to {HIGHEST_COMPLEXITY}")
        library = opus_library()
        error = ctypes.c_int()
        state = library.opus_encoder_create(
            audio_format.sample_rate,
            audio_format.channels,
            library.OPUS_APPLICATION_VOIP,
            ctypes.pointer(error),
        )
        if error.value != library.OPUS_OK:
            raise MediaCodecError(f"Opus encoder: {library.opus_strerror(error.value).decode()}")
        super().__init__(audio_format, library, state, library.opus_encoder_destroy)
        self._out = (ctypes.c_ubyte * PACKET_BYTES)()
        self._set(library.OPUS_SET_VBR_REQUEST, int(vbr))
        self._set(library.OPUS_SET_INBAND_FEC_REQUEST, int(fec))
        self._set(library.OPUS_SET_DTX_REQUEST, int(dtx))
        self._set(library.OPUS_SET_COMPLEXITY_REQUEST, min(complexity, HIGHEST_COMPLEXITY))
        self.set_bitrate(bitrate)
        self.set_expected_loss(expected_loss)

    @property
    def bitrate(self) -> int:
        """Bits per second that the encoder aims at."""
        return self._bitrate

    def set_bitrate(self, bitrate: int) -> None:
        """Aim at another bitrate from the next frame on. libopus itself keeps it from 500 to 512,000 bit/s.

        Raises:
            MediaFormatError: 0, negative, or above 2^31 - 1.
        """
        _check_bitrate(bitrate)
        self._set(self._opus.OPUS_SET_BITRATE_REQUEST, bitrate)
        self._bitrate = bitrate

    def set_expected_loss(self, percent: int) -> None:
        """Say how many packets of a hundred get lost: the more, the more goes into error correction.

        Raises:
            MediaFormatError: not from 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise MediaFormatError(f"a loss of {percent} percent; from 0 to 100")
        self._set(self._opus.OPUS_SET_PACKET_LOSS_PERC_REQUEST, percent)

    def encode(self, pcm: bytes) -> bytes:
        """Encode exactly one frame of raw sound. The result is never empty.

        Raises:
            MediaFormatError: not exactly one frame.
            MediaCodecError: libopus failed, or the encoder is closed.
        """
        self.format.check_frame(pcm)
        state = self._open_state()
        samples = samples_of(pcm)
        size = self._opus.opus_encode(
            state,
            (ctypes.c_int16 * len(samples)).from_buffer(samples),
            self.format.frame_samples,
            self._out,
            PACKET_BYTES,
        )
        return ctypes.string_at(self._out, self._checked(size, "encoder"))

    def _set(self, request: int, value: int) -> None:
        state = self._open_state()
        self._checked(self._opus.opus_encoder_ctl(state, request, ctypes.c_int32(value)), "encoder")


class OpusDecoder(_Codec):
    """Decodes packets of one stream, in their order, and fills in for lost ones.

    Every call gives one frame of raw sound and moves the decoder on by one frame.

    Raises:
        MediaLibraryMissingError: libopus is not installed.
    """

    def __init__(self, audio_format: AudioFormat | None = None) -> None:
        audio_format = audio_format or AudioFormat()
        library = opus_library()
        error = ctypes.c_int()
        state = library.opus_decoder_create(
            audio_format.sample_rate, audio_format.channels, ctypes.pointer(error)
        )
        if error.value != library.OPUS_OK:
            raise MediaCodecError(f"Opus decoder: {library.opus_strerror(error.value).decode()}")
        super().__init__(audio_format, library, state, library.opus_decoder_destroy)
        self._out = (ctypes.c_int16 * (audio_format.frame_samples * audio_format.channels))()

    def decode(self, data: bytes) -> bytes:
        """Decode one packet; an empty one conceals a loss (as CCP-1 has it).

        Raises:
            MediaCodecError: damaged, or not as long as the frames of this stream; the decoder has not moved.
        """
        if not data:
            return self.conceal()
        return self._decode(data, fec=False)

    def recover(self, following: bytes) -> bytes:
        """Decode the frame before ``following``, which is lost, from the error correction in ``following``.

        Where it holds none, the loss is concealed. ``following`` itself is to be decoded next.

        Raises:
            MediaCodecError: damaged, or not as long as the frames of this stream; the decoder has not moved.
        """
        return self._decode(following, fec=True) if following else self.conceal()

    def conceal(self) -> bytes:
        """Return what the frame may have sounded like: more of the same, fading within some frames."""
        return self._frame(None, 0, 0)

    def _decode(self, data: bytes, *, fec: bool) -> bytes:
        if len(data) > PACKET_BYTES:
            raise MediaCodecError(f"Opus packet of {len(data)} bytes; at most {PACKET_BYTES}")
        self._open_state()
        packet = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
        # PyOgg declares the argument of opus_packet_get_nb_samples so that no packet can be passed.
        rate = self.format.sample_rate
        samples = _frames_in(data) * self._opus.opus_packet_get_samples_per_frame(packet, rate)
        if samples != self.format.frame_samples:
            length = samples * 1000 / rate
            raise MediaCodecError(f"Opus packet of {length:g} ms; frames here have {self.format.frame_ms}")
        return self._frame(packet, len(data), int(fec))

    def _frame(self, packet: Any, size: int, fec: int) -> bytes:
        expected = self.format.frame_samples
        state = self._open_state()
        got = self._checked(self._opus.opus_decode(state, packet, size, self._out, expected, fec), "decoder")
        if got != expected:
            raise MediaCodecError(f"Opus decoder gave {got} of {expected} samples")
        return pcm_of(array("h", bytes(self._out)))


def _frames_in(data: bytes) -> int:
    """How many frames of Opus a packet holds (RFC 6716, section 3.2)."""
    code = data[0] & 0x03
    if code == 0:
        return 1
    if code in (1, 2):
        return 2
    if len(data) < 2:
        raise MediaCodecError("Opus packet ends before its number of frames")
    return data[1] & 0x3F


def _check_bitrate(bitrate: int) -> None:
    if not 0 < bitrate <= HIGHEST_BITRATE:
        raise MediaFormatError(f"bitrate {bitrate}; from 1 to {HIGHEST_BITRATE} bit/s")
