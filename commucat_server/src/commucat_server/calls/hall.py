"""A call as the forwarder has it: its room, the sessions of its devices, and what they are told."""

from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from commucat_proto import FrameType
from commucat_proto.calls import CallTransportUpdate, DeviceStreams
from commucat_server.calls.call import Call
from commucat_server.calls.conversions import Conversions
from commucat_server.calls.forwarding.limits import ForwardingLimits
from commucat_server.calls.forwarding.room import Room, Word
from commucat_server.calls.forwarding.stream import Stream
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.live import LiveSession
from commucat_server.routing.media_queue import Flowing, Lost
from commucat_server.routing.registry import Registry

LOOK_INTERVAL: Final = 0.1
"""Seconds between two looks at which devices of a call have a session, while media flows."""


@attrs.frozen(eq=False)
class Seat:
    """A device of the call that packets can be sent to."""

    session: LiveSession
    lost: Lost


class Hall:
    """One call on this node.

    Args:
        call: as the board has it.
        limits: of the room.
        conversions: its transcoders.
        lost: told of a device, a stream of any of its calls, and what was dropped of it (see ``Lost``).
    """

    def __init__(
        self,
        call: Call,
        limits: ForwardingLimits,
        registry: Registry,
        cluster: Cluster,
        conversions: Conversions,
        lost: Callable[[str, Flowing, int, bool], None],
    ) -> None:
        self.call = call
        self.room = Room(limits)
        self.conversions = conversions
        self.seats: dict[str, Seat] = {}
        self.nodes: dict[str, str] = {}
        """Senders on other nodes, and these."""
        self._registry = registry
        self._cluster = cluster
        self._lost = lost
        self._next_look = float("-inf")

    def look(self, now: float) -> None:
        """See which devices have come, gone, or have a new session; often called, seldom done."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        for device_id in self.call.joined:
            seat, session = self.seats.get(device_id), self._registry.receiver(device_id)
            if session is None:
                if seat is not None:
                    self._vacate(device_id, now)
            elif seat is None or seat.session is not session:
                self.seats[device_id] = Seat(session, partial(self._lost, device_id))
                self.room.arrive(device_id, reads_streams=session.call_media, now=now)
        self.conversions.release(self.room)

    def joined(self, device_id: str) -> None:
        """The device is in the call; its session is looked for with the next packet."""
        self.room.join(device_id)
        self._next_look = float("-inf")

    def left(self, device_id: str, now: float) -> None:
        self.seats.pop(device_id, None)
        self.nodes.pop(device_id, None)
        self.room.leave(device_id, now)
        self.conversions.release(self.room)

    def lose(self, device_id: str, stream: Flowing, packets: int, broken: bool, now: float) -> None:
        """Packets of a stream, of this call or another, were dropped for a device."""
        if isinstance(stream, Stream):
            self.room.lost(device_id, stream, packets, broken, now)

    def tell(self, now: float) -> None:
        """Send what the room has to say; before the packet that it is about."""
        while self.room.has_words:
            for word in self.room.take_words():
                self._tell(word, now)

    def _tell(self, word: Word, now: float) -> None:
        payload = CallTransportUpdate(call_id=self.call.call_id, update=word.update).encode()
        channel, kind = self.call.channel, FrameType.TRANSPORT_UPDATE
        for device_id in word.to:
            session = self._registry.receiver(device_id)
            if session is None:
                if device_id in self.nodes:
                    self._cluster.send_live({device_id: self.nodes[device_id]}, kind, channel, payload)
            elif (
                session.call_media
                and not session.notice(kind, channel, payload)
                and isinstance(word.update, DeviceStreams)
            ):
                # A client must know whose packets it gets: without that it starts anew in a moment.
                self._vacate(device_id, now)

    def _vacate(self, device_id: str, now: float) -> None:
        if self.seats.pop(device_id, None) is not None:
            self.room.depart(device_id, now)
