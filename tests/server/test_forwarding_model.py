"""Whatever the participants of a call do, in any order: what each of them gets makes sense."""

from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from commucat_proto.calls import (
    CongestionReport,
    DeviceStreams,
    KeyFrameRequest,
    ReceiveSelection,
    SelectedVideo,
)
from commucat_server.calls.forwarding.room import Refused
from commucat_server.calls.forwarding.stream import Stream
from server.forwarding_builders import Scene, kind_of, picture, readers, sound

DEVICES = ("alice", "bob", "carol", "dave")
devices = st.sampled_from(DEVICES)
pauses = st.sampled_from([0.0, 0.02, 0.3, 1.5])
selections = st.builds(
    ReceiveSelection,
    speakers=st.none() | st.integers(0, 3),
    audio=st.booleans(),
    video=st.none()
    | st.dictionaries(devices, st.integers(0, 2)).map(
        lambda found: tuple(SelectedVideo(device=name, layer=layer) for name, layer in found.items())
    ),
)


@attrs.define
class View:
    """What a receiver has of one sender's video: the stream that it decodes, or none."""

    stream: int | None = None


class Calls(RuleBasedStateMachine):
    """The same call as its participants see it."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.here: set[str] = set()
        self.wants: dict[str, ReceiveSelection] = {}
        self.views: dict[tuple[str, str], View] = {}
        self.known: dict[str, set[int]] = {}
        self.numbers: dict[str, int] = {}
        self.last: dict[tuple[str, int], int] = {}
        self.owners: dict[int, str] = {}
        self.streams: dict[int, Stream] = {}
        # Of devices that have left: whoever comes again begins anew.
        self.over: set[int] = set()
        self.requests: dict[str, float] = {}
        self.lost = 0
        self.reported = 0

    @initialize()
    def begin(self) -> None:
        for name in DEVICES[:3]:
            self.arrive(name)

    @rule(name=devices)
    def arrive(self, name: str) -> None:
        self.scene.come(name)
        self.here.add(name)
        self.wants[name] = ReceiveSelection()
        self.known[name] = set()
        for sender in DEVICES:
            self.views[name, sender] = View()
        self.read()

    @rule(name=devices)
    def depart(self, name: str) -> None:
        self.scene.room.depart(name, self.scene.now)
        self.here.discard(name)
        self.scene.hear()
        self.read()

    @rule(name=devices)
    def leave(self, name: str) -> None:
        self.scene.room.leave(name, self.scene.now)
        self.over |= {number for number, each in self.streams.items() if each.owner.device_id == name}
        self.here.discard(name)
        self.requests.pop(name, None)
        self.scene.hear()
        self.read()

    @rule(name=devices, selection=selections)
    def select(self, name: str, selection: ReceiveSelection) -> None:
        if name in self.scene.room:
            self.scene.room.select(name, selection, self.scene.now)
            self.scene.hear()
            self.wants[name] = selection
            self.read()

    @rule(name=devices, pause=pauses, layer=st.integers(0, 2), key=st.booleans(), again=st.booleans())
    def show(self, name: str, pause: float, layer: int, key: bool, again: bool) -> None:
        stream = DEVICES.index(name) * 100 + layer + (10 if again else 0)
        self.send(name, pause, picture(stream, self.count(stream), layer=layer, key=key))

    @rule(name=devices, pause=pauses, level=st.sampled_from([5, 40, 127]))
    def talk(self, name: str, pause: float, level: int) -> None:
        stream = DEVICES.index(name) * 100 + 50
        self.send(name, pause, sound(stream, self.count(stream), level=level))

    @rule(name=devices, other=devices)
    def forge(self, name: str, other: str) -> None:
        stream = DEVICES.index(other) * 100 + 50
        if name != other and self.owners.get(stream) == other and name in self.scene.room:
            assert self.scene.send(name, sound(stream)) is Refused.FORGED

    @rule(name=devices, stream=st.integers(0, 312), packets=st.integers(1, 3))
    def lose(self, name: str, stream: int, packets: int) -> None:
        found = self.streams.get(stream)
        if found is None or name not in self.scene.room:
            return
        self.scene.room.lost(name, found, packets, True, self.scene.now)
        self.lost += packets
        view = self.views[name, found.owner.device_id]
        if view.stream == stream:
            view.stream = None
        self.scene.hear()
        self.read()

    def count(self, stream: int) -> int:
        self.numbers[str(stream)] = self.numbers.get(str(stream), -1) + 1
        return self.numbers[str(stream)]

    def send(self, name: str, pause: float, packet: Any) -> None:
        self.scene.now += pause
        found = self.scene.room.receive(name, kind_of(packet), packet, 100, self.scene.now)
        self.scene.hear()
        self.read()
        if isinstance(found, Refused):
            return
        assert name in self.scene.room
        self.owners.setdefault(packet.stream, name)
        self.streams[packet.stream] = found
        self.over.discard(packet.stream)
        for receiver in readers(found):
            self.take(receiver, name, packet)

    def take(self, receiver: str, sender: str, packet: Any) -> None:
        """What this receiver makes of it."""
        assert receiver != sender
        assert receiver in self.here
        assert packet.stream in self.known[receiver], "told whose it is before"
        before = self.last.get((receiver, packet.stream), -1)
        assert packet.number > before, "in order"
        self.last[receiver, packet.stream] = packet.number
        wants = self.wants[receiver]
        if kind_of(packet).value == "audio":
            assert wants.audio
            return
        video = None if wants.video is None else {each.device: each.layer for each in wants.video}
        assert video is None or sender in video, "paused"
        view = self.views[receiver, sender]
        assert packet.key_frame or view.stream == packet.stream, "a switch without a key frame"
        view.stream = packet.stream

    def read(self) -> None:
        """What was told, and to whom."""
        for device_id, update in self.scene.said:
            match update:
                case DeviceStreams(device=_, streams=streams):
                    assert device_id in self.here
                    self.known[device_id] |= {each.stream for each in streams}
                case KeyFrameRequest(device=device):
                    assert device == device_id
                    since = self.scene.now - self.requests.get(device, float("-inf"))
                    assert since >= 1.0
                    self.requests[device] = self.scene.now
                case CongestionReport(device=device, dropped=dropped):
                    assert device == device_id
                    self.reported += dropped
        self.scene.said.clear()

    @invariant()
    def never_more_speakers_than_wanted(self) -> None:
        for receiver in self.here:
            count = self.wants[receiver].speakers
            heard = {
                stream.owner.device_id
                for number, stream in self.streams.items()
                if number not in self.over
                and kind_name(stream) == "audio"
                and receiver in readers(stream)
                and stream.owner.streams.get(stream.number or 0) is stream
                and stream.owner.device_id in self.scene.room
            }
            assert count is None or len(heard) <= count

    @invariant()
    def no_more_is_reported_than_was_lost(self) -> None:
        assert self.reported <= self.lost


def kind_name(stream: Stream) -> str:
    return stream.kind.value


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
