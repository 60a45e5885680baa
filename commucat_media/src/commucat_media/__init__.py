"""Media packets of CommuCat calls.

The three-byte header that stands before the voice or the picture in every VoiceFrame and VideoFrame,
with the codes of sources and codecs. Bytes in, values out: no codec runs here and nothing is sent.
"""

from commucat_media.errors import MediaError, MediaPacketError
from commucat_media.packet import (
    HEADER_BYTES,
    PACKET_VERSION,
    AudioCodec,
    AudioPacket,
    MediaSource,
    VideoCodec,
    VideoPacket,
    decode_audio,
    decode_video,
    encode_packet,
)

__all__ = [
    "HEADER_BYTES",
    "PACKET_VERSION",
    "AudioCodec",
    "AudioPacket",
    "MediaError",
    "MediaPacketError",
    "MediaSource",
    "VideoCodec",
    "VideoPacket",
    "decode_audio",
    "decode_video",
    "encode_packet",
]
