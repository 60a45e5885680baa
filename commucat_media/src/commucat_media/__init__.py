"""Media packets of CommuCat calls.

The header that stands before the voice or the picture in every VoiceFrame and VideoFrame, in its two
versions, with the codes of sources and codecs. Bytes in, values out: no codec runs here and nothing is sent.
"""

from commucat_media.errors import MediaError, MediaPacketError
from commucat_media.packet import (
    AUDIO_TICKS,
    HEADER_BYTES,
    PACKET_VERSION,
    SILENCE_LEVEL,
    STREAM_HEADER_BYTES,
    STREAM_PACKET_VERSION,
    TOP_LAYER,
    VIDEO_TICKS,
    AudioCodec,
    AudioPacket,
    MediaSource,
    StreamPacket,
    VideoCodec,
    VideoPacket,
    decode_audio,
    decode_audio_any,
    decode_video,
    decode_video_any,
    encode_packet,
    encode_stream_packet,
    stream_header,
    to_version_1,
)

__all__ = [
    "AUDIO_TICKS",
    "HEADER_BYTES",
    "PACKET_VERSION",
    "SILENCE_LEVEL",
    "STREAM_HEADER_BYTES",
    "STREAM_PACKET_VERSION",
    "TOP_LAYER",
    "VIDEO_TICKS",
    "AudioCodec",
    "AudioPacket",
    "MediaError",
    "MediaPacketError",
    "MediaSource",
    "StreamPacket",
    "VideoCodec",
    "VideoPacket",
    "decode_audio",
    "decode_audio_any",
    "decode_video",
    "decode_video_any",
    "encode_packet",
    "encode_stream_packet",
    "stream_header",
    "to_version_1",
]
