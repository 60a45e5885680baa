"""The media packet: what a VoiceFrame or a VideoFrame carries (docs/protocol.md, "Media packet").

Version 1 is the one of CCP-1:

=======  ======  ==========================================================
offset   size    meaning
=======  ======  ==========================================================
0        1       version, 1
1        1       source: encoded 0, raw 1, hybrid 2
2        1       codec; audio and video count from 0 each, so that only the
                 type of the frame tells which table the byte belongs to
3        rest    data as the codec left it; may be empty (an empty Opus
                 packet asks the receiver to conceal a loss)
=======  ======  ==========================================================

There is no timestamp and no number in it: channel and sequence of the frame serve for both.

Version 2 is for sessions with the capability ``call-media``. Its packets belong to a stream, are numbered
and timed, so that a receiver can put them in order and a server can choose among them unopened:

=======  ======  ==========================================================
offset   size    meaning
=======  ======  ==========================================================
0        1       version, 2
1, 2     2       source and codec, as in version 1
3        1       flags: bit 0 key frame, bit 1 end-to-end encrypted, bits
                 2-3 simulcast layer 0 (lowest) to 2, bits 4-7 zero; sound
                 has neither key frames nor layers
4        1       level: loudness of the sound, 0 (loudest) to 127 (silence)
                 in -dBov (RFC 6464, section 3); zero in a VideoFrame
5        4       stream, big-endian: chosen at random by the sender for each
                 call, kind and layer
9        4       number, big-endian: counts the packets of the stream from 0
13       4       timestamp, big-endian: of the first sample in 48 kHz, or of
                 the picture in 90 kHz; wraps
17       rest    data
=======  ======  ==========================================================
"""

import enum
import struct
from typing import Final, TypeVar

import attrs

from commucat_media.errors import MediaPacketError

PACKET_VERSION: Final = 1
HEADER_BYTES: Final = 3
STREAM_PACKET_VERSION: Final = 2
STREAM_HEADER_BYTES: Final = 17

AUDIO_TICKS: Final = 48_000
"""Timestamp units per second of sound, whatever its sample rate is (as RTP has it for Opus, RFC 7587)."""
VIDEO_TICKS: Final = 90_000
"""Timestamp units per second of video (as RTP has it for VP8, RFC 7741)."""
SILENCE_LEVEL: Final = 127
"""The lowest loudness that a packet can tell, in -dBov (RFC 6464)."""
TOP_LAYER: Final = 2
"""The highest simulcast layer."""
U32_MASK: Final = 0xFFFF_FFFF

_STREAM_HEADER: Final = struct.Struct(">BBBBBIII")
_KEY_FRAME: Final = 0x01
_ENCRYPTED: Final = 0x02
_LAYER_SHIFT: Final = 2
_LAYER_BITS: Final = 0x03
_RESERVED: Final = 0xF0


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


def _u32(instance: "StreamPacket", attribute: "attrs.Attribute[int]", value: int) -> None:
    if not 0 <= value <= U32_MASK:
        raise ValueError(f"{attribute.name} {value} does not fit 32 bits")


@attrs.frozen(kw_only=True)
class StreamPacket:
    """Payload of one VoiceFrame or VideoFrame, version 2. The codec's type tells which of the two.

    ``stream``, ``number`` and ``timestamp`` are unsigned 32-bit; ``timestamp`` in :data:`AUDIO_TICKS` or
    :data:`VIDEO_TICKS`, ``level`` in -dBov from 0 to :data:`SILENCE_LEVEL`, ``layer`` from 0 to
    :data:`TOP_LAYER`. With ``encrypted`` the data is a ciphertext, whose associated data is
    :func:`stream_header` (docs/protocol.md, "Media packet").

    Raises:
        ValueError: a number is out of range, a picture has a loudness, or a sound a layer or key frame.
    """

    source: MediaSource = attrs.field(validator=attrs.validators.instance_of(MediaSource))
    codec: AudioCodec | VideoCodec = attrs.field(
        validator=attrs.validators.instance_of((AudioCodec, VideoCodec))
    )
    data: bytes = attrs.field(repr=False, validator=attrs.validators.instance_of(bytes))
    stream: int = attrs.field(validator=_u32)
    number: int = attrs.field(validator=_u32)
    timestamp: int = attrs.field(validator=_u32)
    key_frame: bool = False
    encrypted: bool = False
    layer: int = 0
    level: int = 0

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.layer <= TOP_LAYER:
            raise ValueError(f"layer {self.layer}; layers are 0 to {TOP_LAYER}")
        if not 0 <= self.level <= SILENCE_LEVEL:
            raise ValueError(f"level {self.level}; levels are 0 to {SILENCE_LEVEL}")
        if isinstance(self.codec, VideoCodec):
            if self.level:
                raise ValueError(f"level {self.level} in a video packet, which has none")
        elif self.layer or self.key_frame:
            raise ValueError("layer or key frame in an audio packet, which has none")


def stream_header(packet: StreamPacket) -> bytes:
    """Return the 17 bytes before the data: what encryption of the data authenticates along."""
    flags = packet.layer << _LAYER_SHIFT
    if packet.key_frame:
        flags |= _KEY_FRAME
    if packet.encrypted:
        flags |= _ENCRYPTED
    return _STREAM_HEADER.pack(
        STREAM_PACKET_VERSION,
        packet.source,
        packet.codec,
        flags,
        packet.level,
        packet.stream,
        packet.number,
        packet.timestamp,
    )


def encode_stream_packet(packet: StreamPacket) -> bytes:
    """Return the payload of the frame in version 2: seventeen bytes of header and the data."""
    return stream_header(packet) + packet.data


def decode_audio_any(payload: bytes) -> AudioPacket | StreamPacket:
    """Read the payload of a VoiceFrame in version 1 or 2.

    Raises:
        MediaPacketError: shorter than its header, another version, an unknown source or codec, reserved
            flags, layer 3, a level above 127, or a layer or key frame.
    """
    if _is_stream_packet(payload):
        return _stream_packet(payload, AudioCodec)
    return decode_audio(payload)


def decode_video_any(payload: bytes) -> VideoPacket | StreamPacket:
    """Read the payload of a VideoFrame in version 1 or 2.

    Raises:
        MediaPacketError: shorter than its header, another version, an unknown source or codec, reserved
            flags, layer 3, or a level other than 0.
    """
    if _is_stream_packet(payload):
        return _stream_packet(payload, VideoCodec)
    return decode_video(payload)


def to_version_1(payload: bytes) -> bytes:
    """Return a packet of version 2 in version 1, its data untouched; one of version 1 is returned as it is.

    Only the length is looked at: whoever passes packets on has read them with :func:`decode_audio_any` or
    :func:`decode_video_any`. An encrypted packet makes no sense in version 1, which cannot tell that it is.

    Raises:
        MediaPacketError: shorter than its header, or another version.
    """
    if not _is_stream_packet(payload):
        _version_1(payload)
        return payload
    if len(payload) < STREAM_HEADER_BYTES:
        raise _too_short(payload, STREAM_HEADER_BYTES)
    return bytes((PACKET_VERSION,)) + payload[1:HEADER_BYTES] + payload[STREAM_HEADER_BYTES:]


Codec = TypeVar("Codec", AudioCodec, VideoCodec)


def _is_stream_packet(payload: bytes) -> bool:
    """Whether it says to be version 2; refuses what neither version can be."""
    if len(payload) < HEADER_BYTES:
        raise _too_short(payload, HEADER_BYTES)
    version = payload[0]
    if version not in (PACKET_VERSION, STREAM_PACKET_VERSION):
        raise MediaPacketError(
            f"media packet version {version}; only {PACKET_VERSION} and {STREAM_PACKET_VERSION} are known"
        )
    return version == STREAM_PACKET_VERSION


def _stream_packet(payload: bytes, codecs: type[Codec]) -> StreamPacket:
    if len(payload) < STREAM_HEADER_BYTES:
        raise _too_short(payload, STREAM_HEADER_BYTES)
    _, source, codec, flags, level, stream, number, timestamp = _STREAM_HEADER.unpack_from(payload)
    if flags & _RESERVED:
        raise MediaPacketError(f"media packet: flags {flags:#04x}; bits 4 to 7 must be zero")
    try:
        return StreamPacket(
            source=MediaSource(source),
            codec=codecs(codec),
            data=payload[STREAM_HEADER_BYTES:],
            stream=stream,
            number=number,
            timestamp=timestamp,
            key_frame=bool(flags & _KEY_FRAME),
            encrypted=bool(flags & _ENCRYPTED),
            layer=flags >> _LAYER_SHIFT & _LAYER_BITS,
            level=level,
        )
    except ValueError as exc:
        raise MediaPacketError(f"media packet: {exc}") from exc


def _header(payload: bytes, codecs: type[Codec]) -> tuple[MediaSource, Codec]:
    _version_1(payload)
    try:
        return MediaSource(payload[1]), codecs(payload[2])
    except ValueError as exc:
        raise MediaPacketError(f"media packet: {exc}") from exc


def _version_1(payload: bytes) -> None:
    if len(payload) < HEADER_BYTES:
        raise _too_short(payload, HEADER_BYTES)
    if payload[0] != PACKET_VERSION:
        raise MediaPacketError(f"media packet version {payload[0]}; only {PACKET_VERSION} is known")


def _too_short(payload: bytes, header: int) -> MediaPacketError:
    return MediaPacketError(f"media packet of {len(payload)} bytes; the header alone has {header}")
