"""What other servers say of groups, as operations of the store: names translated, everything else checked."""

from collections.abc import Mapping
from typing import Any, Final

from commucat_proto import DELIVERY_STATUS_EVENT, Frame, FrameType, json_text
from commucat_proto.federation import GroupRequest, GroupState
from commucat_server.federation import problems
from commucat_server.federation.addresses import MAX_LOCAL, split_address
from commucat_server.federation.problems import EventRefusal
from commucat_storage import (
    ChangeGroup,
    GroupAction,
    GroupRole,
    InviteMember,
    Once,
    ReplaceReplica,
)

CHANGE_REFUSED_EVENT: Final = "group-change-refused"
"""The server's word that the home of a group has refused what the device wanted to change."""
SERVER_EVENTS: Final = frozenset({DELIVERY_STATUS_EVENT, CHANGE_REFUSED_EVENT})
"""GroupEvents, with or without the id of a group, that are the server's; no client may send them."""
NOTICES: Final = frozenset({FrameType.GROUP_CREATE, FrameType.GROUP_INVITE, FrameType.GROUP_EVENT})
_ROLES: Final = {role.value: role for role in GroupRole}
_ACTIONS: Final = {action.value: action for action in GroupAction}
_INVITE: Final = "invite"


def device_here(name: str, peer: str, ours: str) -> str:
    """A device that a peer names, as it is called here: its own have no domain there.

    Raises:
        RefusedEventError: it is no name.
    """
    if "@" not in name:
        if not 0 < len(name) <= MAX_LOCAL or not name.isprintable():
            raise _refused("a member's name is no device")
        return f"{name}@{peer}"
    address = split_address(name)
    if address is None:
        raise _refused("a member's name is no device")
    device_id, domain = address
    return device_id if domain == ours else f"{device_id}@{domain}"


def replica_of(state: GroupState, peer: str, ours: str, once: Once, now: int) -> ReplaceReplica:
    """The members of a group, said by ``peer``.

    Raises:
        RefusedEventError: it is none.
    """
    members: dict[str, GroupRole] = {}
    for name, role in state.members.items():
        device_id = device_here(name, peer, ours)
        if device_id in members or role not in _ROLES:
            raise _refused("a member is named twice, or has no role")
        members[device_id] = _ROLES[role]
    if sum(role is GroupRole.OWNER for role in members.values()) > 1:
        raise _refused("a group has one owner")
    return ReplaceReplica(
        peer, state.group_id, state.revision, state.relay, tuple(members.items()), now, once
    )


def change_of(
    request: GroupRequest, peer: str, ours: str, once: Once, latest: int
) -> InviteMember | ChangeGroup:
    """What a member of ``peer`` wants to be changed of a group of ours; kept until ``latest`` at most.

    Raises:
        RefusedEventError: the peer may not ask for it, or it is none.
    """
    sender = device_here(request.sender, peer, ours)
    if not sender.endswith(f"@{peer}"):
        raise problems.SENDER.raised()
    device_id = device_here(request.device, peer, ours)
    role = None if request.role is None else _ROLES.get(request.role)
    notice = _notice_of(request)
    expires_at = min(request.expires_at, latest)
    if request.action == _INVITE:
        if role is None:
            raise _refused("no such role")
        return InviteMember(
            sender,
            request.channel,
            request.group_id,
            device_id,
            role,
            FrameType.GROUP_INVITE,
            notice,
            expires_at,
            once,
        )
    action = _ACTIONS.get(request.action)
    if action is None or (role is not None) != (action is GroupAction.SET_ROLE):
        raise _refused("no such change of a group")
    if action is GroupAction.LEAVE and device_id != sender:
        raise _refused("a device can only leave by itself")
    return ChangeGroup(
        sender,
        request.channel,
        request.group_id,
        action,
        device_id,
        role,
        FrameType.GROUP_EVENT,
        notice,
        expires_at,
        once,
    )


def check_notice(frame: Frame, group_id: str, *, by_home: bool) -> None:
    """Whether a frame about a group may reach devices here: of the group that it says, and by members, other
    than by the home, nothing that would look like a change.

    Raises:
        RefusedEventError: it may not.
    """
    value = frame.control
    if not isinstance(value, Mapping) or value.get("group_id") != group_id:
        raise _refused("the frame is not about the group")
    if frame.type is not FrameType.GROUP_EVENT:
        if not by_home:
            raise problems.FRAME_TYPE.raised()
        return
    event = value.get("event")
    if not isinstance(event, str) or event in SERVER_EVENTS or (event in _ACTIONS and not by_home):
        raise problems.FRAME_TYPE.raised()


def change_refused(group_id: str, reason: str) -> bytes:
    """The payload of the event that tells a device."""
    return json_text.dumps({"event": CHANGE_REFUSED_EVENT, "group_id": group_id, "reason": reason})


def is_change_refused(frame: Frame, group_id: str) -> bool:
    """Whether the home says that of the group, outside of all conversations."""
    value = frame.control if frame.type is FrameType.GROUP_EVENT and frame.channel == 0 else None
    return (
        isinstance(value, Mapping)
        and value.get("event") == CHANGE_REFUSED_EVENT
        and value.get("group_id") == group_id
        and isinstance(value.get("reason"), str)
    )


def _notice_of(request: GroupRequest) -> bytes:
    """The payload for members, which must say what is asked for, as clients believe it."""
    try:
        value: Any = json_text.loads(request.notice)
    except json_text.JsonTextError:
        value = None
    said = {"group_id": request.group_id, "device": request.device, "by": request.sender}
    if request.action != _INVITE:
        said["event"] = request.action
    if request.action == GroupAction.SET_ROLE.value and request.role is not None:
        said["role"] = request.role
    if not isinstance(value, dict) or any(value.get(name) != each for name, each in said.items()):
        raise _refused("the notice is not about the change")
    return request.notice


def _refused(detail: str) -> Exception:
    return EventRefusal(400, "InvalidPayload", detail).raised()
