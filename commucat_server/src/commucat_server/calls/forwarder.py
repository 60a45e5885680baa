"""The driver of the forwarding: from the frames of one session to the queues of the others.

Media of a device that is in a call does not pass the journal. What the journal is for, that a frame goes only
to those who may get it, is asked of it once in a while (:mod:`commucat_server.calls.permits`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import attrs
import trio

from commucat_media import MediaPacketError, StreamPacket, decode_audio_any, decode_video_any, to_version_1
from commucat_proto import FrameTemplate, FrameType
from commucat_proto.calls import ReceiveSelection, StreamKind
from commucat_server.calls.board import CallBoard
from commucat_server.calls.call import Call
from commucat_server.calls.conversions import Conversions
from commucat_server.calls.forwarding.conversion import MediaPacket, payload_of, stands_alone
from commucat_server.calls.forwarding.limits import Allowance, ForwardingLimits
from commucat_server.calls.forwarding.pressure import Pressure
from commucat_server.calls.forwarding.room import Refused
from commucat_server.calls.forwarding.stream import Participant, Stream
from commucat_server.calls.hall import Hall, Seat
from commucat_server.calls.permits import Permit
from commucat_server.calls.rounds import MediaRounds
from commucat_server.calls.transcoding import Job, Transcoding
from commucat_server.ops.counters import Counters, count
from commucat_server.routing import media_queue
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.hints import CallMedia
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.media_queue import Flowing
from commucat_server.routing.registry import Registry
from commucat_storage import CommitFailedError, Outcome, Resolve, ResolveOutcome

VIDEO_STOPS_AT: Final = 0.25
"""Part of the server's allowance that is left to sound when there is too much media."""

READERS: Final[Mapping[FrameType, Callable[[bytes], MediaPacket]]] = {
    FrameType.VOICE_FRAME: decode_audio_any,
    FrameType.VIDEO_FRAME: decode_video_any,
}
KINDS: Final = {FrameType.VOICE_FRAME: StreamKind.AUDIO, FrameType.VIDEO_FRAME: StreamKind.VIDEO}
FRAMES: Final = {kind: frame_type for frame_type, kind in KINDS.items()}


@attrs.define(eq=False)
class Place:
    """A device on a channel where it is in calls; mostly one."""

    device_id: str
    channel: int
    halls: list[Hall] = attrs.Factory(list)
    permit: Permit = attrs.Factory(Permit)


class Forwarder:
    """One per server; a listener of its call board.

    Args:
        transcoding: for receivers that ask for a codec; by default there is none.
        forwarded_bytes: of media to receivers, in a second; 0 means any number.
        clock: seconds, never backwards.
    """

    def __init__(
        self,
        *,
        board: CallBoard,
        registry: Registry,
        inbox: Inbox,
        cluster: Cluster,
        counters: Counters,
        limits: ForwardingLimits | None = None,
        transcoding: Transcoding | None = None,
        forwarded_bytes: int = 0,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._board = board
        self._registry = registry
        self._inbox = inbox
        self._cluster = cluster
        self._counters = counters
        self._limits = limits or ForwardingLimits()
        self.transcoding = transcoding or Transcoding()
        self._clock = clock
        self._allowance = Allowance(forwarded_bytes) if forwarded_bytes else None
        self._keep_for_sound = VIDEO_STOPS_AT * forwarded_bytes
        self._pressure = Pressure()
        self.rounds = MediaRounds(inbox.outflow, self._was_late)
        self._halls: dict[str, Hall] = {}
        self._places: dict[int, dict[str, Place]] = {}
        board.listen(self)
        cluster.on_media(self._told)

    # -- the board's word -----------------------------------------------------------------------------

    def on_joined(self, call: Call, device_id: str) -> None:
        hall = self._halls.get(call.call_id)
        if hall is None:
            conversions = Conversions(
                self.transcoding,
                call.media_of,
                partial(self._transcoded, call),
                partial(self._not_transcoded, call),
            )
            hall = Hall(call, self._limits, self._registry, self._cluster, conversions, self._lost)
            self._halls[call.call_id] = hall
        hall.joined(device_id)
        places = self._places.setdefault(call.channel, {})
        place = places.setdefault(device_id, Place(device_id, call.channel))
        if hall not in place.halls:
            place.halls.append(hall)

    def on_left(self, call: Call, device_id: str) -> None:
        hall = self._halls.get(call.call_id)
        if hall is not None:
            hall.left(device_id, self._clock())
            self._leave(hall, device_id)
            hall.tell(self._clock())

    def on_over(self, call: Call) -> None:
        hall = self._halls.pop(call.call_id, None)
        if hall is not None:
            hall.conversions.close()
            for device_id in call.joined:
                self._leave(hall, device_id)

    def _leave(self, hall: Hall, device_id: str) -> None:
        channel = hall.call.channel
        place = self.place(device_id, channel)
        if place is None or hall not in place.halls:
            return
        place.halls.remove(hall)
        if place.halls:
            return
        del self._places[channel][device_id]
        if not self._places[channel]:
            del self._places[channel]
        session = self._registry.receiver(device_id)
        if session is not None and not self._board.joined_by(device_id):
            session.end_media()

    # -- from the sessions ----------------------------------------------------------------------------

    def now(self) -> float:
        """The time by which media counts."""
        return self._clock()

    def place(self, device_id: str, channel: int) -> Place | None:
        """Where the device's media on this channel goes, if it is in a call there."""
        places = self._places.get(channel)
        return None if places is None else places.get(device_id)

    def expire(self, channel: int) -> None:
        """Who may send to whom has changed on a channel: nothing that was said before counts."""
        for place in self._places.get(channel, {}).values():
            place.permit.expire()

    def refresh(self, place: Place, now: float) -> None:
        """Ask the store again, if it is time; nothing waits for the answer."""
        if not place.permit.ask(now):
            return
        operation = Resolve(place.device_id, place.channel)
        if not self._inbox.submit_now([operation], partial(self._refreshed, place)):
            place.permit.answered(None, now)

    def _refreshed(self, place: Place, result: tuple[Outcome, ...] | CommitFailedError) -> None:
        outcome = None if isinstance(result, CommitFailedError) else result[0]
        place.permit.answered(outcome if isinstance(outcome, ResolveOutcome) else None, self._clock())

    def admitted(
        self,
        place: Place,
        frame_type: FrameType,
        payload: bytes,
        packet: MediaPacket,
        outcome: Outcome | None,
    ) -> None:
        """A packet comes back from the journal, with what the store said of its sender."""
        if isinstance(outcome, ResolveOutcome):
            place.permit.answered(outcome, self._clock())
            self.forward(place, frame_type, payload, packet, self._clock())

    def forward(
        self, place: Place, frame_type: FrameType, payload: bytes, packet: MediaPacket, now: float
    ) -> None:
        """Pass a packet on, by the permit of its sender, to whom it is for."""
        recipients, elsewhere = place.permit.recipients, place.permit.elsewhere
        for hall in place.halls:
            self._board.hear(hall.call, now)
            passed = self._pass(hall, place.device_id, frame_type, payload, packet, recipients, now)
            # Other nodes have limits, too; but between here and there all words share one bus.
            if passed and elsewhere:
                self._pass_elsewhere(hall, place, frame_type, payload)

    def drop(self, cause: str) -> None:
        """Count a packet that goes to nobody."""
        count(self._counters.media_dropped, cause)

    def select(self, call: Call, device_id: str, selection: ReceiveSelection) -> None:
        """What a device in the call wants to be sent."""
        now, hall = self._clock(), self._halls[call.call_id]
        hall.look(now)
        hall.room.select(device_id, selection, now)
        hall.conversions.release(hall.room)
        hall.tell(now)

    def ask_key_frame(self, call: Call, device_id: str) -> None:
        """A participant wants a key frame of this device."""
        now, hall = self._clock(), self._halls[call.call_id]
        hall.room.ask_key_frame(device_id, now)
        hall.tell(now)

    # -- figures --------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """Streams in all calls."""
        return sum(hall.room.streams for hall in self._halls.values())

    @property
    def shed(self) -> float:
        """Part of the media that is left out because the server has too much to do, 0 to 1."""
        return self._pressure.share

    @property
    def paused(self) -> int:
        """Devices that have paused the video of others."""
        return sum(hall.room.paused for hall in self._halls.values())

    # -- inside ---------------------------------------------------------------------------------------

    def _pass(
        self,
        hall: Hall,
        sender: str,
        frame_type: FrameType,
        payload: bytes,
        packet: MediaPacket,
        recipients: frozenset[str],
        now: float,
    ) -> bool:
        """False if it is nothing that its sender may send, and goes to nobody."""
        hall.look(now)
        stream = hall.room.receive(sender, KINDS[frame_type], packet, len(payload), now)
        hall.tell(now)
        if isinstance(stream, Refused):
            self.drop(stream.value)
            return False
        if self._pressure.sheds(stream.kind is StreamKind.VIDEO, now):
            self.drop("overload")
            hall.room.shed(stream, now)
            hall.tell(now)
            return True
        if stream.readers:
            self._send(hall, stream, stream.readers, frame_type, payload, packet, recipients, now)
        for codec, readers in stream.asking.items():
            if not hall.conversions.put(stream, codec, readers, packet, recipients, now):
                self._send(hall, stream, readers, frame_type, payload, packet, recipients, now)
        if stream.plain_readers:
            if isinstance(packet, StreamPacket):
                if packet.encrypted:
                    return True  # To a client that cannot know it would be noise.
                payload = to_version_1(payload)
            self._send(hall, stream, stream.plain_readers, frame_type, payload, packet, recipients, now)
        return True

    def _send(
        self,
        hall: Hall,
        stream: Stream,
        receivers: tuple[Participant, ...],
        frame_type: FrameType,
        payload: bytes,
        packet: MediaPacket,
        recipients: frozenset[str],
        now: float,
    ) -> None:
        size, counters = len(payload), self._counters
        video = stream.kind is StreamKind.VIDEO
        queued = media_queue.MediaPacket(
            FrameTemplate(frame_type, hall.call.channel, payload),
            size,
            stream,
            rank=1 + stream.layer if video else 0,
            key_frame=stands_alone(packet),
            arrived=now,
        )
        seats = [
            seat
            for receiver in receivers
            if receiver.device_id in recipients and (seat := hall.seats.get(receiver.device_id)) is not None
        ]
        if self._allowance is not None:
            seats = self._within_limit(self._allowance, hall, stream, seats, size, now)
        sessions = [seat.session for seat in seats if seat.session.media(queued, self._clock, seat.lost)]
        self.rounds.add(sessions, now)
        passed = len(sessions)
        counters.media_bytes += passed * size
        if video:
            counters.media_video += passed
        else:
            counters.media_audio += passed

    def _transcoded(
        self, call: Call, stream: Stream, receivers: tuple[Participant, ...], job: Job, packet: MediaPacket
    ) -> None:
        """A packet comes back from its transcoder."""
        hall = self._halls.get(call.call_id)
        if hall is None:
            return
        if job.convert:
            count(self._counters.media_transcoded, packet.codec.name.lower())
        payload = payload_of(packet)
        frame_type = FRAMES[stream.kind]
        self._send(hall, stream, receivers, frame_type, payload, packet, job.recipients, job.arrived)

    def _not_transcoded(self, call: Call, stream: Stream, cause: str, broken: bool) -> None:
        """A packet is lost before or in its transcoder; ``broken``: those that follow cannot be decoded."""
        self.drop(cause)
        hall = self._halls.get(call.call_id)
        if broken and hall is not None:
            now = self._clock()
            hall.room.ask_key_frame(stream.owner.device_id, now)
            hall.tell(now)

    def _within_limit(
        self, allowance: Allowance, hall: Hall, stream: Stream, seats: list[Seat], size: int, now: float
    ) -> list[Seat]:
        """Those to whom a packet of this size may go by the limit of the server; the others lose it."""
        kept = self._keep_for_sound if stream.kind is StreamKind.VIDEO else 0.0
        everything = size * len(seats)
        if allowance.refill(now) - everything >= kept and allowance.take(everything, now):
            return seats  # nearly always
        allowed: list[Seat] = []
        for seat in seats:
            if allowance.refill(now) >= kept and allowance.take(size, now):
                allowed.append(seat)
            else:
                self.drop("server_limit")
                hall.lose(seat.session.device_id, stream, 1, stream.gated, now)
        return allowed

    def _was_late(self, seconds: float) -> None:
        self._pressure.look(seconds, self._clock())

    def _lost(self, device_id: str, stream: Flowing, packets: int, broken: bool) -> None:
        """A receiver's queue dropped something."""
        count(self._counters.media_dropped, "slow_receiver", packets)
        now = self._clock()
        for call in self._board.joined_by(device_id):
            hall = self._halls.get(call.call_id)
            if hall is not None:
                hall.lose(device_id, stream, packets, broken, now)
                hall.tell(now)

    # -- other nodes ----------------------------------------------------------------------------------

    def _pass_elsewhere(self, hall: Hall, place: Place, frame_type: FrameType, payload: bytes) -> None:
        devices = {
            device_id: node
            for device_id, node in place.permit.elsewhere.items()
            if device_id in hall.call.joined and device_id not in hall.seats
        }
        if devices:
            self._cluster.send_media(devices, hall.call.call_id, place.device_id, frame_type, payload)

    def _told(self, hint: CallMedia) -> None:
        """Media of a device on another node, which has looked whom it may send to."""
        hall = self._halls.get(hint.call_id)
        if hall is None:
            self.drop("unknown_call")
            return
        try:
            packet = READERS[hint.frame_type](hint.payload)
        except MediaPacketError:
            self.drop("malformed")
            return
        now = self._clock()
        self._board.hear(hall.call, now)
        if hint.sender in hall.room and self._registry.receiver(hint.sender) is None:
            hall.nodes[hint.sender] = hint.node
        self._pass(hall, hint.sender, hint.frame_type, hint.payload, packet, frozenset(hint.devices), now)
