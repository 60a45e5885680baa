"""The media of one call: who sends which streams, and who is to get each packet."""

import enum
from collections.abc import Iterable
from typing import Final

import attrs

from commucat_media import StreamPacket
from commucat_proto.calls import (
    ActiveSpeakers,
    CongestionReport,
    DeviceStreams,
    MediaStream,
    ReceiveSelection,
    StreamKind,
)
from commucat_proto.calls.messages import CallUpdate
from commucat_server.calls.forwarding import video
from commucat_server.calls.forwarding.conversion import Codec, MediaPacket, stands_alone
from commucat_server.calls.forwarding.limits import Allowance, ForwardingLimits
from commucat_server.calls.forwarding.speakers import LOUDEST, Speakers, loudness_of_size
from commucat_server.calls.forwarding.stream import SILENT_AFTER, Participant, Stream

MAX_NUMBERS: Final = 256
"""Stream numbers that one device may use in one call, one after another: they stay its own."""
MAX_NUMBERS_OF_CALL: Final = 16_384
"""The same for all devices together, those included that have left and come again."""
SETTLEMENTS: Final = 50
"""Selections in a second that are followed at once. Each costs a look at every pair of participants, so of
more than that the newest are followed together, with a packet a moment later."""
REPORT_INTERVAL: Final = 1.0
"""Seconds between two words to a sender about packets that were dropped."""


class Refused(enum.Enum):
    """Why a packet goes to nobody."""

    NOT_IN_CALL = "not_in_call"
    FLOOD = "flood"
    FORGED = "forged"
    """Its stream is another device's, or of another kind or layer."""
    TOO_MANY_STREAMS = "too_many_streams"


@attrs.frozen
class Word:
    """An update for participants."""

    to: tuple[str, ...]
    update: CallUpdate


class Room:
    """One call. No method waits; times are seconds of one monotonic clock.

    After each call ``take_words`` has what the participants are to be told, before the packet is sent.
    """

    def __init__(self, limits: ForwardingLimits) -> None:
        self._limits = limits
        self._participants: dict[str, Participant] = {}
        self._owners: dict[int, str] = {}
        self._speakers = Speakers()
        self._words: list[Word] = []
        self._count = 0
        self._settlements = Allowance(SETTLEMENTS)
        self._unsettled = False

    # -- who is here ----------------------------------------------------------------------------------

    def join(self, device_id: str) -> None:
        """The device is in the call; it gets nothing before ``arrive``. Again has no effect."""
        if device_id not in self._participants:
            self._participants[device_id] = Participant(device_id, self._limits)

    def leave(self, device_id: str, now: float) -> None:
        """The device is out; its stream numbers stay taken."""
        gone = self._participants.pop(device_id, None)
        if gone is None:
            return
        self._speakers.forget(device_id)
        for each in self._participants.values():
            each.views.pop(device_id, None)
        self._aim_all(now)
        self._place_audio()

    def arrive(self, device_id: str, *, reads_streams: bool, now: float) -> None:
        """A new session of the device: it knows nothing yet, and wants everything until it says otherwise."""
        receiver = self._participants[device_id]
        receiver.present, receiver.reads_streams = True, reads_streams
        receiver.select(ReceiveSelection())
        receiver.views = {}
        if reads_streams:
            for sender in self._participants.values():
                if sender.streams and sender is not receiver:
                    self._words.append(Word((device_id,), _streams_of(sender)))
            if self._speakers.told:
                self._words.append(Word((device_id,), ActiveSpeakers(devices=self._speakers.told)))
        self._aim_all(now)
        self._place_audio()

    def depart(self, device_id: str, now: float) -> None:
        """The session is gone; the device is still in the call."""
        receiver = self._participants.get(device_id)
        if receiver is not None and receiver.present:
            receiver.present = False
            self._aim_all(now)
            self._place_audio()

    def __contains__(self, device_id: str) -> bool:
        return device_id in self._participants

    # -- what they want -------------------------------------------------------------------------------

    def select(self, device_id: str, selection: ReceiveSelection, now: float) -> None:
        """From now on the device is to be sent this."""
        self._participants[device_id].select(selection)
        self._settle(now)

    def ask_key_frame(self, device_id: str, now: float) -> None:
        """A participant wants a key frame of this one; asked for as soon as one is due."""
        sender = self._participants.get(device_id)
        if sender is not None:
            sender.key_frame_wanted = True
            self._request(sender, now)

    def asked(self) -> set[tuple[Stream, Codec]]:
        """The streams that somebody gets in a codec of its choice, and that."""
        return {
            (stream, codec)
            for sender in self._participants.values()
            for kind in StreamKind
            for stream in sender.sent(kind)
            for codec in stream.asking
        }

    # -- packets --------------------------------------------------------------------------------------

    def receive(
        self, device_id: str, kind: StreamKind, packet: MediaPacket, size: int, now: float
    ) -> Stream | Refused:
        """A packet of ``size`` bytes came; the stream whose readers are to get it."""
        sender = self._participants.get(device_id)
        if sender is None:
            return Refused.NOT_IN_CALL
        if not sender.may_send(kind, size, now):
            return Refused.FLOOD
        if self._unsettled:
            self._settle(now)
        stream = self._stream_of(sender, kind, packet, now)
        if isinstance(stream, Refused):
            return stream
        comes_back = now - stream.heard >= SILENT_AFTER
        stream.heard = now
        if kind is StreamKind.VIDEO:
            if comes_back or now >= sender.next_aim:
                video.aim(sender, self._participants.values(), now)
            if stands_alone(packet):
                video.admit(stream)
            if sender.key_frame_wanted:
                self._request(sender, now)
        else:
            self._hear(sender, packet, now)
        self._report(sender, now)
        return stream

    def lost(self, device_id: str, stream: Stream, packets: int, broken: bool, now: float) -> None:
        """Packets for this receiver were dropped. ``broken``: those that come before the stream's next key
        frame are of no use to it."""
        sender = stream.owner
        sender.dropped += packets
        receiver = self._participants.get(device_id)
        if broken and stream.gated and receiver is not None:
            if receiver.views.get(sender.device_id) is stream:
                del receiver.views[sender.device_id]
            self._aim(sender, now)
        self._report(sender, now)

    def shed(self, stream: Stream, now: float) -> None:
        """A packet of the stream goes to nobody: the server has too much to do."""
        if stream.gated:
            for receiver in stream.receivers:
                self.lost(receiver.device_id, stream, 0, True, now)
        stream.owner.dropped += 1
        self._report(stream.owner, now)

    @property
    def has_words(self) -> bool:
        """Participants are to be told something."""
        return bool(self._words)

    def take_words(self) -> list[Word]:
        """What participants are to be told since the last call, in this order."""
        words, self._words = self._words, []
        return words

    # -- figures --------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """Streams in the call, those included that have stopped."""
        return sum(len(each.streams) + len(each.unnumbered) for each in self._participants.values())

    @property
    def paused(self) -> int:
        """Devices that want no video of at least one other."""
        return sum(each.present and each.video_layers is not None for each in self._participants.values())

    # -- inside ---------------------------------------------------------------------------------------

    def _stream_of(
        self, sender: Participant, kind: StreamKind, packet: MediaPacket, now: float
    ) -> Stream | Refused:
        if not isinstance(packet, StreamPacket):
            stream = sender.unnumbered.get(kind)
            if stream is None:
                self._count += 1
                stream = Stream(None, sender, kind, 0, self._count, now)
                sender.unnumbered[kind] = stream
                self._begin(stream, now)
            return stream
        stream = sender.streams.get(packet.stream)
        if stream is None:
            return self._new_stream(sender, kind, packet, now)
        if stream.kind is not kind or stream.layer != packet.layer:
            return Refused.FORGED
        return stream

    def _new_stream(
        self, sender: Participant, kind: StreamKind, packet: StreamPacket, now: float
    ) -> Stream | Refused:
        if self._owners.get(packet.stream, sender.device_id) != sender.device_id:
            return Refused.FORGED
        if sender.used >= MAX_NUMBERS or len(self._owners) >= MAX_NUMBERS_OF_CALL:
            return Refused.TOO_MANY_STREAMS
        if len(sender.streams) >= self._limits.streams:
            oldest = min(sender.streams.values(), key=lambda each: each.heard)
            if now - oldest.heard < video.AIM_INTERVAL:
                return Refused.TOO_MANY_STREAMS
            del sender.streams[oldest.number or 0]
        self._owners[packet.stream] = sender.device_id
        sender.used += 1
        self._count += 1
        stream = Stream(packet.stream, sender, kind, packet.layer, self._count, now)
        sender.streams[packet.stream] = stream
        told = tuple(each.device_id for each in self._receivers(sender) if each.reads_streams)
        if told:
            self._words.append(Word(told, _streams_of(sender)))
        self._begin(stream, now)
        return stream

    def _begin(self, stream: Stream, now: float) -> None:
        if stream.kind is StreamKind.VIDEO:
            # Without asking: its first packet may be a key frame.
            video.aim(stream.owner, self._participants.values(), now)
        else:
            self._place_audio()

    def _hear(self, sender: Participant, packet: MediaPacket, now: float) -> None:
        if isinstance(packet, StreamPacket):
            loudness = float(LOUDEST - packet.level)
        else:
            loudness = loudness_of_size(len(packet.data))
        if self._speakers.hear(sender.device_id, loudness, now):
            self._place_audio()
        speaking = self._speakers.word(now)
        if speaking is not None:
            told = tuple(each.device_id for each in self._receivers() if each.reads_streams)
            if told:
                self._words.append(Word(told, ActiveSpeakers(devices=speaking)))

    def _settle(self, now: float) -> None:
        """Follow what devices have selected, unless that was done too often a moment ago."""
        self._unsettled = not self._settlements.take(1, now)
        if not self._unsettled:
            self._aim_all(now)
            self._place_audio()

    def _aim_all(self, now: float) -> None:
        for sender in self._participants.values():
            self._aim(sender, now)

    def _aim(self, sender: Participant, now: float) -> None:
        video.aim(sender, self._participants.values(), now)
        self._request(sender, now)

    def _request(self, sender: Participant, now: float) -> None:
        request = video.key_frame_request(sender, now)
        if request is not None:
            self._words.append(Word((sender.device_id,), request))

    def _place_audio(self) -> None:
        """Decide anew who gets whose sound."""
        wanted: list[tuple[Participant, frozenset[str] | None]] = []
        for each in self._receivers():
            if each.selection.audio:
                count = each.selection.speakers
                loudest = None if count is None else self._speakers.loudest(count, each.device_id)
                wanted.append((each, loudest))
        for sender in self._participants.values():
            for stream in sender.sent(StreamKind.AUDIO):
                stream.goes_to(
                    [
                        each
                        for each, loudest in wanted
                        if each is not sender and (loudest is None or sender.device_id in loudest)
                    ]
                )

    def _report(self, sender: Participant, now: float) -> None:
        if sender.dropped and now >= sender.next_report:
            sender.next_report = now + REPORT_INTERVAL
            report = CongestionReport(device=sender.device_id, dropped=sender.dropped)
            sender.dropped = 0
            if sender.streams:
                self._words.append(Word((sender.device_id,), report))

    def _receivers(self, sender: Participant | None = None) -> Iterable[Participant]:
        return (each for each in self._participants.values() if each.present and each is not sender)


def _streams_of(sender: Participant) -> DeviceStreams:
    streams = (
        MediaStream(stream=number, kind=each.kind, layer=each.layer)
        for number, each in sender.streams.items()
    )
    return DeviceStreams(device=sender.device_id, streams=tuple(streams))
