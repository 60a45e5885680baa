"""Updates of a running call about its media, between a server and clients with the capability
``call-media`` (docs/protocol.md, "Media in a call").
"""

import enum
from collections.abc import Iterable
from typing import ClassVar, Final

import attrs

from commucat_proto.calls.media_profile import AudioCodec, VideoCodec
from commucat_proto.calls.wire_struct import (
    BOOL,
    TEXT,
    U8,
    U32,
    Shape,
    WireStruct,
    array,
    checked,
    choice,
    optional,
    struct,
    wire,
)

HIGHEST_LAYER: Final = 2
"""Simulcast layers count from 0, the lowest."""
MAX_SPEAKERS: Final = 3
"""Devices in one word about who speaks."""
MAX_SELECTED: Final = 256
"""Devices that one selection names; more than any call has."""
MAX_STREAMS: Final = 64
"""Streams of one device in one word about them."""
_MAX_DEVICE_LEN: Final = 128


class StreamKind(enum.Enum):
    """Which frames carry a stream: VoiceFrame or VideoFrame."""

    AUDIO = "audio"
    VIDEO = "video"


def _check_layer(value: object) -> None:
    if type(value) is not int or not 0 <= value <= HIGHEST_LAYER:
        raise ValueError(f"no layer from 0 to {HIGHEST_LAYER}")


def _check_device(value: object) -> None:
    TEXT.check(value)
    if not (isinstance(value, str) and 0 < len(value) <= _MAX_DEVICE_LEN and value.isprintable()):
        raise ValueError(f"not 1 to {_MAX_DEVICE_LEN} printable characters")


def _at_most(count: int, shape: Shape) -> Shape:
    """An array of so many at most. Longer ones are refused before their elements are read."""

    def measure(value: object) -> None:
        if isinstance(value, list | tuple) and len(value) > count:
            raise ValueError(f"more than {count}")

    def check(value: object) -> None:
        measure(value)
        shape.check(value)

    def read(value: object) -> object:
        measure(value)
        return shape.read(value)

    return Shape(check, read=read, write=shape.write)


def _differ(name: str, values: Iterable[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{name}: {value!r} given twice")
        seen.add(value)


_LAYER = Shape(_check_layer)
_DEVICE = Shape(_check_device)


@attrs.frozen(kw_only=True, field_transformer=checked)
class SelectedVideo(WireStruct):
    """The video of one device, at most at this layer."""

    device: str = attrs.field(metadata=wire(_DEVICE))
    layer: int = attrs.field(default=HIGHEST_LAYER, metadata=wire(_LAYER))


@attrs.frozen(kw_only=True, field_transformer=checked)
class ReceiveSelection(WireStruct):
    """What a client wants to be sent; to the server, which passes it to nobody.

    ``speakers``: at most so many audio streams, the loudest; None means all. ``audio`` false: no audio.
    ``video``: only that of these devices; None means that of all at the highest layer. ``transcode_*``:
    media that is not end-to-end encrypted, in this codec.
    """

    name: ClassVar[str] = "receive"

    speakers: int | None = attrs.field(default=None, metadata=wire(optional(U8)))
    audio: bool = attrs.field(default=True, metadata=wire(BOOL))
    video: tuple[SelectedVideo, ...] | None = attrs.field(
        default=None, metadata=wire(optional(_at_most(MAX_SELECTED, array(struct(SelectedVideo)))))
    )
    transcode_audio: AudioCodec | None = attrs.field(
        default=None, metadata=wire(optional(choice(AudioCodec)))
    )
    transcode_video: VideoCodec | None = attrs.field(
        default=None, metadata=wire(optional(choice(VideoCodec)))
    )

    def __attrs_post_init__(self) -> None:
        _differ("video", (each.device for each in self.video or ()))


@attrs.frozen(kw_only=True, field_transformer=checked)
class KeyFrameRequest(WireStruct):
    """``device`` is asked for key frames of its video streams."""

    name: ClassVar[str] = "key_frame"

    device: str = attrs.field(metadata=wire(_DEVICE))


@attrs.frozen(kw_only=True, field_transformer=checked)
class ActiveSpeakers(WireStruct):
    """Who speaks, the loudest first; from the server."""

    name: ClassVar[str] = "speakers"

    devices: tuple[str, ...] = attrs.field(metadata=wire(_at_most(MAX_SPEAKERS, array(_DEVICE))))

    def __attrs_post_init__(self) -> None:
        _differ("devices", self.devices)


@attrs.frozen(kw_only=True, field_transformer=checked)
class MediaStream(WireStruct):
    """One stream: the number that its packets carry, and what they are."""

    stream: int = attrs.field(metadata=wire(U32))
    kind: StreamKind = attrs.field(metadata=wire(choice(StreamKind)))
    layer: int = attrs.field(default=0, metadata=wire(_LAYER))


@attrs.frozen(kw_only=True, field_transformer=checked)
class DeviceStreams(WireStruct):
    """Whose streams these are; from the server, before their first packet."""

    name: ClassVar[str] = "streams"

    device: str = attrs.field(metadata=wire(_DEVICE))
    streams: tuple[MediaStream, ...] = attrs.field(
        metadata=wire(_at_most(MAX_STREAMS, array(struct(MediaStream))))
    )

    def __attrs_post_init__(self) -> None:
        _differ("streams", (each.stream for each in self.streams))


@attrs.frozen(kw_only=True, field_transformer=checked)
class CongestionReport(WireStruct):
    """Packets of ``device``'s media that the server dropped for receivers that are too slow since the last
    report, and the ``bitrate`` (bit/s) that it suggests. From the server, to that device."""

    name: ClassVar[str] = "congestion"

    device: str = attrs.field(metadata=wire(_DEVICE))
    dropped: int = attrs.field(metadata=wire(U32))
    bitrate: int | None = attrs.field(default=None, metadata=wire(optional(U32)))
