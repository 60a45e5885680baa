"""A stream of packets, and the device that sends and receives such streams."""

from typing import Final

import attrs

from commucat_proto.calls import HIGHEST_LAYER, ReceiveSelection, StreamKind
from commucat_server.calls.forwarding.conversion import Codec, targets_of
from commucat_server.calls.forwarding.limits import Flow, ForwardingLimits

SILENT_AFTER: Final = 1.0
"""Seconds without a packet after which a stream counts as stopped: nobody waits for it, or switches to it."""
EVERYTHING: Final = ReceiveSelection()


@attrs.define(eq=False, slots=True)
class Stream:
    """The packets of one sender that carry one number, or that carry none (version 1)."""

    number: int | None
    owner: "Participant"
    kind: StreamKind
    layer: int
    since: int
    """Counts the streams of a call in the order of their first packets."""
    heard: float
    """When the last packet came."""
    readers: "tuple[Participant, ...]" = ()
    """Those who get its packets as they are."""
    plain_readers: "tuple[Participant, ...]" = ()
    """Those who get its packets in version 1."""
    asking: "dict[Codec, tuple[Participant, ...]]" = attrs.Factory(dict)
    """Those who get its packets in a codec of their choice, by that."""
    entered: int = 0
    """Counts how often somebody came in: a picture that is encoded for them is a key frame then."""
    waiting: "list[Participant]" = attrs.Factory(list)
    """Those who get it from its next key frame on."""

    @property
    def gated(self) -> bool:
        """Whether somebody can come in at a key frame only. Packets of version 1 do not tell theirs, and
        whoever sends them cannot be asked for one: they go to everybody as they come."""
        return self.kind is StreamKind.VIDEO and self.number is not None

    def goes_to(self, receivers: "list[Participant]") -> None:
        """From now on to exactly these."""
        self.plain_readers = tuple(each for each in receivers if not each.reads_streams)
        readers: list[Participant] = []
        asking: dict[Codec, list[Participant]] = {}
        for each in receivers:
            if each.reads_streams:
                codec = each.targets.get(self.kind)
                (readers if codec is None else asking.setdefault(codec, [])).append(each)
        self.readers = tuple(readers)
        self.asking = {codec: tuple(found) for codec, found in asking.items()}

    @property
    def receivers(self) -> "list[Participant]":
        """All who get it, in whichever form."""
        found = [*self.readers, *self.plain_readers]
        for each in self.asking.values():
            found += each
        return found

    def loses(self, receiver: "Participant") -> None:
        """Not to this one any more."""
        self.goes_to([each for each in self.receivers if each is not receiver])


class Participant:
    """One device in a call: what it sends, and what it wants to be sent."""

    __slots__ = (
        "_flows",
        "device_id",
        "dropped",
        "key_frame_due",
        "key_frame_wanted",
        "next_aim",
        "next_report",
        "present",
        "reads_streams",
        "selection",
        "streams",
        "targets",
        "unnumbered",
        "used",
        "video_layers",
        "views",
    )

    def __init__(self, device_id: str, limits: ForwardingLimits) -> None:
        self.device_id = device_id
        self.present = False
        """It has a session here: packets can be sent to it."""
        self.reads_streams = False
        """Its session has the capability ``call-media``."""
        self.selection = EVERYTHING
        self.targets: dict[StreamKind, Codec] = {}
        """The codecs that it asks for."""
        self.video_layers: dict[str, int] | None = None
        self.views: dict[str, Stream] = {}
        """Of each sender the video stream that it gets."""
        self.streams: dict[int, Stream] = {}
        """What it sends, by number."""
        self.unnumbered: dict[StreamKind, Stream] = {}
        """What it sends in version 1."""
        self.used = 0
        """Numbers that it has used in this call."""
        self.key_frame_due = 0.0
        """It is asked for key frames from then on."""
        self.key_frame_wanted = False
        self.next_aim = 0.0
        self.dropped = 0
        """Packets that receivers were too slow for, since it was told."""
        self.next_report = 0.0
        self._flows = {kind: Flow(kind, limits) for kind in StreamKind}

    def select(self, selection: ReceiveSelection) -> None:
        targets = targets_of(selection)
        if targets.get(StreamKind.VIDEO) is not self.targets.get(StreamKind.VIDEO):
            # Another codec begins with a key frame: it comes in anew.
            self.views = {}
        self.selection, self.targets = selection, targets
        video = selection.video
        self.video_layers = None if video is None else {each.device: each.layer for each in video}

    def highest_layer_of(self, device_id: str) -> int | None:
        """The highest layer that it wants of a sender's video; None: no video of that sender."""
        return HIGHEST_LAYER if self.video_layers is None else self.video_layers.get(device_id)

    def may_send(self, kind: StreamKind, size: int, now: float) -> bool:
        """Whether a packet is within what a device may send; counts it if it is."""
        return self._flows[kind].take(size, now)

    def sent(self, kind: StreamKind) -> list[Stream]:
        """Its streams of one kind, the older ones first."""
        found = [each for each in self.streams.values() if each.kind is kind]
        return [*found, self.unnumbered[kind]] if kind in self.unnumbered else found
