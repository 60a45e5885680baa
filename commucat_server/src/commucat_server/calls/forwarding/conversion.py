"""Which packets are to be transcoded for a receiver that asks for a codec; it gets all others as they are."""

from typing import Final, TypeAlias

from commucat_media import (
    AudioCodec,
    AudioPacket,
    MediaSource,
    StreamPacket,
    VideoCodec,
    VideoPacket,
    encode_packet,
    encode_stream_packet,
)
from commucat_proto.calls import ReceiveSelection, StreamKind

MediaPacket: TypeAlias = AudioPacket | VideoPacket | StreamPacket
Codec: TypeAlias = AudioCodec | VideoCodec

MADE: Final = frozenset(
    each.name for each in (AudioCodec.OPUS, AudioCodec.RAW_PCM, VideoCodec.VP8, VideoCodec.VP9)
)
"""What a receiver can ask for (VP8 and VP9 as CCP-1 has it), by name: a codec of sound equals that of video
with its number. Raw pictures hardly fit a frame, and the others cost a processor for each stream."""


def targets_of(selection: ReceiveSelection) -> dict[StreamKind, Codec]:
    """The codecs that a selection asks for."""
    found: dict[StreamKind, Codec] = {}
    if selection.transcode_audio is not None:
        found[StreamKind.AUDIO] = AudioCodec[selection.transcode_audio.name]
    if selection.transcode_video is not None:
        found[StreamKind.VIDEO] = VideoCodec[selection.transcode_video.name]
    return found


def needs(packet: MediaPacket, codec: Codec) -> bool:
    """Whether the packet is to be transcoded for those who ask for this codec.

    Not so what is end-to-end encrypted, which nobody here can read, and hybrid, which holds both forms.
    """
    if isinstance(packet, StreamPacket) and packet.encrypted:
        return False
    if packet.source is MediaSource.RAW:
        return codec is not AudioCodec.RAW_PCM
    if packet.source is MediaSource.HYBRID or packet.codec is AudioCodec.RAW_PCM:
        return False
    return packet.codec is not codec


def stands_alone(packet: MediaPacket) -> bool:
    """Whether a packet of video can be decoded without those before it. One of version 1 does not tell."""
    return packet.source is MediaSource.RAW or (isinstance(packet, StreamPacket) and packet.key_frame)


def payload_of(packet: MediaPacket) -> bytes:
    """The packet as a frame carries it, in the version that it has."""
    return encode_stream_packet(packet) if isinstance(packet, StreamPacket) else encode_packet(packet)
