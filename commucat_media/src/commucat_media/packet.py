"""The media packet: what a VoiceFrame or a VideoFrame carries (CCP-1 specification, "Media packet").

=======  ======  ==========================================================
offset   size    meaning
=======  ======  ==========================================================
0        1       version, always 1
1        1       source: encoded 0, raw 1, hybrid 2
2        1       codec; audio and video count from 0 each, so that only the
                 type of the frame tells which table the byte belongs to
3        rest    data as the codec left it; may be empty (an empty Opus
                 packet asks the receiver to conceal a loss)
=======  ======  ==========================================================

There is no timestamp and no number in it: channel and sequence of the frame serve for both.
"""

import enum
from typing import Final, TypeVar

import attrs

from commucat_media.errors import MediaPacketError

PACKET_VERSION: Final = 1
HEADER_BYTES: Final = 3


class MediaSource(enum.IntEnum):
    """How far the sender has taken the samples or pictures."""

    ENCODED = 0
    RAW = 1
    HYBRID = 2


class AudioCodec(enum.IntEnum):
    """Codec byte of a VoiceFrame."""

    OPUS = 0
    RAW_PCM = 1


class VideoCodec(enum.IntEnum):
    """Codec byte of a VideoFrame."""

    RAW_I420 = 0
    VP8 = 1
    VP9 = 2
    H264_BASELINE = 3
    H264_MAIN = 4
    H265_MAIN = 5
    AV1_MAIN = 6


@attrs.frozen(kw_only=True)
class AudioPacket:
    """Payload of one VoiceFrame."""

    source: MediaSource = attrs.field(validator=attrs.validators.instance_of(MediaSource))
    codec: AudioCodec = attrs.field(validator=attrs.validators.instance_of(AudioCodec))
    data: bytes = attrs.field(repr=False, validator=attrs.validators.instance_of(bytes))


@attrs.frozen(kw_only=True)
class VideoPacket:
    """Payload of one VideoFrame."""

    source: MediaSource = attrs.field(validator=attrs.validators.instance_of(MediaSource))
    codec: VideoCodec = attrs.field(validator=attrs.validators.instance_of(VideoCodec))
    data: bytes = attrs.field(repr=False, validator=attrs.validators.instance_of(bytes))


def encode_packet(packet: AudioPacket | VideoPacket) -> bytes:
    """Return the payload of the frame: three bytes of header and the data.

    The size limit is that of the frame, which its encoder checks.
    """
    return bytes((PACKET_VERSION, packet.source, packet.codec)) + packet.data


def decode_audio(payload: bytes) -> AudioPacket:
    """Read the payload of a VoiceFrame.

    Raises:
        MediaPacketError: under three bytes, another version, or an unknown source or codec.
    """
    source, codec = _header(payload, AudioCodec)
    return AudioPacket(source=source, codec=codec, data=payload[HEADER_BYTES:])


def decode_video(payload: bytes) -> VideoPacket:
    """Read the payload of a VideoFrame.

    Raises:
        MediaPacketError: under three bytes, another version, or an unknown source or codec.
    """
    source, codec = _header(payload, VideoCodec)
    return VideoPacket(source=source, codec=codec, data=payload[HEADER_BYTES:])


Codec = TypeVar("Codec", AudioCodec, VideoCodec)


def _header(payload: bytes, codecs: type[Codec]) -> tuple[MediaSource, Codec]:
    if len(payload) < HEADER_BYTES:
        raise MediaPacketError(f"media packet of {len(payload)} bytes; the header alone has {HEADER_BYTES}")
    version, source, codec = payload[:HEADER_BYTES]
    if version != PACKET_VERSION:
        raise MediaPacketError(f"media packet version {version}; only {PACKET_VERSION} is known")
    try:
        return MediaSource(source), codecs(codec)
    except ValueError as exc:
        raise MediaPacketError(f"media packet: {exc}") from exc
