"""GroupCreate, GroupInvite and GroupEvent. Who may do what is decided in the journal's transaction."""

import secrets
from collections.abc import Mapping
from typing import Any

from commucat_proto import Frame
from commucat_server.connect.frames.request import (
    Origin,
    RefusedFrameError,
    Request,
    Settle,
    flag_of,
    id_of,
    is_id,
    object_of,
    rewritten,
)
from commucat_server.federation.addresses import local_name, split_address
from commucat_server.federation.groups import SERVER_EVENTS
from commucat_storage import ChangeGroup, CreateGroup, GroupAction, GroupRole, InviteMember

_ROLES = {role.value: role for role in GroupRole}
_ACTIONS = {action.value: action for action in GroupAction}
_LOWEST = GroupRole.MEMBER
MAX_EVENT_LEN = 64


def create(origin: Origin, frame: Frame) -> Request:
    """A new group of the sender and ``members``; all of them are told, with the id and the owner."""
    value = object_of(frame)
    given = value.get("group_id")
    group_id = secrets.token_hex(32) if given is None else id_of(value, "group_id")
    roles = _roles(value, origin.context.settings.domain)
    operation = CreateGroup(
        sender=origin.device_id,
        channel=frame.channel,
        group_id=group_id,
        roles=roles,
        relay=flag_of(value, "relay", True),
        frame_type=frame.type,
        notice=rewritten(value, group_id=group_id, owner=origin.device_id),
        expires_at=origin.expiry(origin.context.settings.relay_ttl),
        created_at=int(origin.context.clock()),
    )
    return Request(operation, frame.channel, frame.sequence, ack={"group_id": group_id})


def invite(origin: Origin, frame: Frame) -> Request:
    """One more member; everybody in the group, and the new one, is told."""
    value = object_of(frame)
    group_id = id_of(value, "group_id")
    named = "device" if "device" in value or "member" not in value else "member"
    device_id = _device(origin, value, named)
    operation = InviteMember(
        sender=origin.device_id,
        channel=frame.channel,
        group_id=group_id,
        device_id=device_id,
        role=_role(value.get("role", _LOWEST.value)),
        frame_type=frame.type,
        notice=rewritten(value, device=device_id, by=origin.device_id),
        expires_at=origin.expiry(origin.context.settings.relay_ttl),
    )
    ack = {"group_id": group_id, "device": device_id}
    return Request(operation, frame.channel, frame.sequence, ack=ack)


async def event(origin: Origin, frame: Frame, settle: Settle) -> Request:
    """Remove, leave, role and transfer change the group; other events are only passed to its members."""
    value = object_of(frame)
    group_id = id_of(value, "group_id")
    name = value.get("event")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_EVENT_LEN:
        raise RefusedFrameError("bad_request", f"event must be a text of 1 to {MAX_EVENT_LEN} characters")
    if name in SERVER_EVENTS:
        # Receivers would take it for the server's word about their own messages.
        raise RefusedFrameError("bad_request", f"{name} is an event of the server")
    action = _ACTIONS.get(name)
    if action is None:
        return await _passed_on(origin, frame, group_id, settle)
    return _change(origin, frame, group_id, action, value)


def _change(
    origin: Origin, frame: Frame, group_id: str, action: GroupAction, value: Mapping[str, Any]
) -> Request:
    leaving = action is GroupAction.LEAVE
    device_id = origin.device_id if leaving else _device(origin, value, "device")
    role = None
    if action is GroupAction.SET_ROLE:
        # A misspelt role here would take rights away; in an invitation it only grants none.
        role = _ROLES.get(value["role"]) if isinstance(value.get("role"), str) else None
        if role is None:
            raise RefusedFrameError("bad_request", f"role must be one of {', '.join(_ROLES)}")
    operation = ChangeGroup(
        sender=origin.device_id,
        channel=frame.channel,
        group_id=group_id,
        action=action,
        device_id=device_id,
        role=role,
        frame_type=frame.type,
        notice=rewritten(value, device=device_id, by=origin.device_id),
        expires_at=origin.expiry(origin.context.settings.relay_ttl),
    )
    return Request(operation, frame.channel, frame.sequence, ack={"group_id": group_id})


async def _passed_on(origin: Origin, frame: Frame, group_id: str, settle: Settle) -> Request:
    # Receivers take it for an event of this group, so the sender's route must lead to just this group.
    # The transaction then checks the membership itself. Joins sent before must have taken effect.
    await settle()
    routes = await origin.context.storage.routes_of(origin.device_id)
    route = routes.get(frame.channel)
    if route is None or route.group_id != group_id:
        raise RefusedFrameError("no_route", "join the channel with this group first")
    operation = origin.submission(frame, origin.context.settings.relay_ttl)
    return Request(operation, frame.channel, frame.sequence)


def _device(origin: Origin, value: Mapping[str, Any], name: str) -> str:
    """A member that must be the id of a device, here or of another server."""
    found = value.get(name)
    if isinstance(found, str) and "@" in found:
        return device_name(found, origin.context.settings.domain)
    return id_of(value, name)


def device_name(name: str, domain: str) -> str:
    """``device@domain`` as the store knows it.

    Raises:
        RefusedFrameError: it is no such name.
    """
    address = split_address(name)
    if address is None:
        raise RefusedFrameError("bad_request", "a device of another server is called device@domain")
    return local_name("@".join(address), domain)


def _roles(value: Mapping[str, Any], domain: str) -> tuple[tuple[str, GroupRole], ...]:
    members, roles = value.get("members", []), value.get("roles", {})
    if not isinstance(members, list) or not all(
        is_id(member) or (isinstance(member, str) and "@" in member) for member in members
    ):
        raise RefusedFrameError("bad_request", "members must be an array of device ids")
    if not isinstance(roles, dict):
        raise RefusedFrameError("bad_request", "roles must be an object from device id to role")
    named = {
        device_name(member, domain) if "@" in member else member: _role(roles.get(member, _LOWEST.value))
        for member in members
    }
    return tuple(named.items())


def _role(name: object) -> GroupRole:
    """A role that is granted; names nobody knows grant the least. Nobody is made an owner so."""
    if not isinstance(name, str):
        raise RefusedFrameError("bad_request", "a role must be a text")
    role = _ROLES.get(name, _LOWEST)
    return GroupRole.ADMIN if role is GroupRole.OWNER else role
