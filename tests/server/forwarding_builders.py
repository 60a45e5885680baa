"""Packets, and a room whose participants note what they get."""

import attrs

from commucat_media import AudioCodec, AudioPacket, MediaSource, StreamPacket, VideoCodec, VideoPacket
from commucat_proto.calls import StreamKind
from commucat_proto.calls.messages import CallUpdate
from commucat_server.calls.forwarding.limits import ForwardingLimits
from commucat_server.calls.forwarding.room import MediaPacket, Refused, Room
from commucat_server.calls.forwarding.stream import Stream

SILENT, LOUD = 127, 10


def sound(stream: int, number: int = 0, *, level: int = LOUD, encrypted: bool = False) -> StreamPacket:
    return StreamPacket(
        source=MediaSource.ENCODED,
        codec=AudioCodec.OPUS,
        data=b"sound",
        stream=stream,
        number=number,
        timestamp=number * 960,
        level=level,
        encrypted=encrypted,
    )


def picture(
    stream: int, number: int = 0, *, layer: int = 0, key: bool = False, encrypted: bool = False
) -> StreamPacket:
    return StreamPacket(
        source=MediaSource.ENCODED,
        codec=VideoCodec.VP8,
        data=b"picture %d" % number,
        stream=stream,
        number=number,
        timestamp=number * 3000,
        layer=layer,
        key_frame=key,
        encrypted=encrypted,
    )


OLD_SOUND = AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=bytes(40))
OLD_PICTURE = VideoPacket(source=MediaSource.ENCODED, codec=VideoCodec.VP8, data=b"picture")


def kind_of(packet: MediaPacket) -> StreamKind:
    return StreamKind.AUDIO if isinstance(packet.codec, AudioCodec) else StreamKind.VIDEO


@attrs.define
class Scene:
    """A call at a time that tests move."""

    limits: ForwardingLimits = attrs.Factory(ForwardingLimits)
    now: float = 1000.0
    said: list[tuple[str, CallUpdate]] = attrs.Factory(list)
    room: Room = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.room = Room(self.limits)

    def come(self, *devices: str, reads_streams: bool = True) -> None:
        for device_id in devices:
            self.room.join(device_id)
            self.room.arrive(device_id, reads_streams=reads_streams, now=self.now)
        self.hear()

    def send(self, device_id: str, packet: MediaPacket, size: int = 100) -> set[str] | Refused:
        """Who gets it, in whichever version."""
        stream = self.room.receive(device_id, kind_of(packet), packet, size, self.now)
        self.hear()
        if isinstance(stream, Refused):
            return stream
        return readers(stream)

    def hear(self) -> None:
        self.said += [(device_id, word.update) for word in self.room.take_words() for device_id in word.to]

    def told(self, kind: type[CallUpdate]) -> list[tuple[str, CallUpdate]]:
        """Updates of one kind since they were asked for last."""
        found = [each for each in self.said if isinstance(each[1], kind)]
        self.said = [each for each in self.said if not isinstance(each[1], kind)]
        return found


def readers(stream: Stream) -> set[str]:
    return {each.device_id for each in (*stream.readers, *stream.plain_readers)}
