"""A spoken message: sound that is recorded whole, encoded, and played whole."""

import attrs

from commucat_media.opus import OpusDecoder, OpusEncoder
from commucat_media.packet import AudioCodec
from commucat_media.pcm import AudioFormat


@attrs.frozen(kw_only=True)
class VoiceMessage:
    """The frames of a message (as CCP-1 has it). How they travel is the sender's choice."""

    format: AudioFormat
    codec: AudioCodec
    frames: tuple[bytes, ...] = attrs.field(repr=False)
    """At least one, each with the data of a packet."""
    duration_ms: int
    """Length of all frames; 0 when nothing was said, though there is a frame."""


def encode_voice_message(
    pcm: bytes, *, encoder: OpusEncoder | None, audio_format: AudioFormat | None = None
) -> VoiceMessage:
    """Cut raw sound into frames, the last one filled up with silence, and encode them.

    Without an encoder they stay raw. The encoder should be new, and without DTX: every frame is kept.

    Raises:
        MediaCodecError: libopus failed, or the encoder is closed.
    """
    if encoder is not None:
        audio_format = encoder.format
    audio_format = audio_format or AudioFormat()
    size = audio_format.frame_bytes
    cut = [pcm[at : at + size].ljust(size, b"\0") for at in range(0, len(pcm), size)]
    duration = len(cut) * audio_format.frame_ms
    frames = cut or [audio_format.silence]
    return VoiceMessage(
        format=audio_format,
        codec=AudioCodec.RAW_PCM if encoder is None else AudioCodec.OPUS,
        frames=tuple(frames if encoder is None else map(encoder.encode, frames)),
        duration_ms=duration,
    )


def decode_voice_message(message: VoiceMessage) -> bytes:
    """Return the sound of all frames.

    Raises:
        MediaCodecError: a frame is damaged.
        MediaFormatError: a raw frame has not the length of one.
        MediaLibraryMissingError: it is Opus, and libopus is not installed.
    """
    if message.codec is AudioCodec.RAW_PCM:
        for frame in message.frames:
            message.format.check_frame(frame)
        return b"".join(message.frames)
    with OpusDecoder(message.format) as decoder:
        return b"".join(map(decoder.decode, message.frames))
