"""Msg, KeyUpdate, Join, Leave, and the client's Ack."""

from commucat_proto import MAX_FRAME_LEN, Frame
from commucat_server.connect.frames.request import (
    MAX_ID_LEN,
    Origin,
    RefusedFrameError,
    Request,
    flag_of,
    id_of,
    object_of,
)
from commucat_server.federation.addresses import MAX_ADDRESS, local_name
from commucat_storage import Confirm, DropRoute, JoinRoom, Operation, Route, SetRoute

MAX_MESSAGE_LEN = MAX_FRAME_LEN - 15
"""Bytes of a payload that fit a frame whatever its header: type, channel, sequence and length take
1 + 5 + 5 + 4 bytes at most, and the receiver's inbox number may be longer than the sender's sequence."""


def must_fit(frame: Frame) -> None:
    """Refuse what would be no frame any more under the number that its receiver counts.

    Raises:
        RefusedFrameError: ``too_large``.
    """
    if len(frame.payload) > MAX_MESSAGE_LEN:
        raise RefusedFrameError("too_large", f"a message has at most {MAX_MESSAGE_LEN} bytes")


def message(origin: Origin, frame: Frame) -> Request:
    """Store it for everybody on the sender's route."""
    must_fit(frame)
    operation = origin.submission(frame, origin.context.settings.relay_ttl, copied=True)
    return Request(operation, frame.channel, frame.sequence)


def key_update(origin: Origin, frame: Frame) -> Request:
    """As a message; its JSON is not looked into beyond that it is an object."""
    object_of(frame)
    return message(origin, frame)


def join(origin: Origin, frame: Frame) -> Request:
    """Replace the device's own route on the channel, by named devices or by a group; where rooms are open,
    join the channel's room with the named devices. Those of other servers are named ``device@domain``."""
    value = object_of(frame)
    relay = flag_of(value, "relay", False)
    if value.get("group_id") is not None:
        group_id = id_of(value, "group_id")
        route = Route(group_id=group_id, relay=relay)
        into_group = SetRoute(origin.device_id, frame.channel, route)
        return Request(into_group, frame.channel, frame.sequence, ack={"group_id": group_id})
    members = value.get("members", [])
    if not isinstance(members, list):
        raise RefusedFrameError("bad_request", "members must be an array of device ids")
    settings = origin.context.settings
    if len(members) > settings.channel_members:
        raise RefusedFrameError("bad_request", f"more than {settings.channel_members} members")
    named = frozenset(
        local_name(member, settings.domain)
        for member in members
        if isinstance(member, str) and 0 < len(member) <= (MAX_ADDRESS if "@" in member else MAX_ID_LEN)
    )
    operation: Operation
    if settings.open_join:
        now = int(origin.context.clock())
        operation = JoinRoom(origin.device_id, frame.channel, tuple(sorted(named)), relay, now)
    else:
        operation = SetRoute(origin.device_id, frame.channel, Route(members=named, relay=relay))
    return Request(operation, frame.channel, frame.sequence)


def leave(origin: Origin, frame: Frame) -> Request:
    """Remove the device's own route on the channel, and the device from an open room there. Membership of a
    group stays."""
    return Request(DropRoute(origin.device_id, frame.channel), frame.channel, frame.sequence)


def confirm(origin: Origin, frame: Frame) -> Request | None:
    """The client has everything up to an inbox number."""
    live = origin.live
    if not live.delivery_ack or not live.receives or frame.channel != 0:
        return None
    number = object_of(frame).get("ack")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise RefusedFrameError("bad_request", "ack must be an inbox number")
    if number > live.taken:
        # Deletes nothing: the client counts in another epoch, or invents.
        raise RefusedFrameError("ack_out_of_range", "ack is above the highest number sent")
    operation = Confirm(live.device_id, live.epoch, number)
    return Request(operation, frame.channel, frame.sequence, acknowledged=False)


def ignored(origin: Origin, frame: Frame) -> None:
    """Hello, Auth and Error: out of place after the handshake, and harmless, as clients expect."""
    return
