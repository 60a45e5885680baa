"""What servers tell each other of groups with members on both: who is in them, and what is to be changed.

Both are entries of a batch, or payloads of an event, beside messages. Names are as the sending server knows
them: its own devices without a domain.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from commucat_proto.federation.entry_members import is_name, name_member, whole_member
from commucat_proto.federation.relayed_message import MAX_ADDRESS, RelayedFormatError
from commucat_proto.frames import MAX_CONTROL_JSON_LEN
from commucat_proto.json_text import JsonValue

MAX_GROUP_ID: Final = 128
STATE: Final = "group_state"
REQUEST: Final = "group_request"


@attrs.frozen(kw_only=True)
class GroupState:
    """The members of a group, said by its home."""

    group_id: str
    revision: int
    """Rises with each change."""
    relay: bool
    members: Mapping[str, str]
    """Device to role; empty if no device of the receiving server is a member any more."""


@attrs.frozen(kw_only=True)
class GroupRequest:
    """What a member wants to be changed, said by its server."""

    action: str
    """``invite``, or the event of a GroupEvent that changes a group."""
    group_id: str
    channel: int
    sender: str
    device: str
    role: str | None
    notice: bytes = attrs.field(repr=False)
    """The payload of the frame that members are sent."""
    expires_at: int


def group_entry_of(value: JsonValue) -> GroupState | GroupRequest | None:
    """Read an entry or a payload; None if it is of another type.

    Raises:
        RelayedFormatError: it says that it is one, and is not.
    """
    if not isinstance(value, Mapping):
        return None
    match value.get("type"):
        case "group_state":
            return _state(value)
        case "group_request":
            return _request(value)
        case _:
            return None


def _state(value: Mapping[str, JsonValue]) -> GroupState:
    relay, members = value.get("relay"), value.get("members")
    if not isinstance(relay, bool) or not isinstance(members, Mapping):
        raise RelayedFormatError("a group_state needs relay and members")
    if not all(isinstance(role, str) and is_name(name, MAX_ADDRESS) for name, role in members.items()):
        raise RelayedFormatError("members must be an object from device to role")
    roles: Any = members
    return GroupState(
        group_id=name_member(value, "group_id", MAX_GROUP_ID),
        revision=whole_member(value, "revision", 2**62 - 1),
        relay=relay,
        members=roles,
    )


def _request(value: Mapping[str, JsonValue]) -> GroupRequest:
    role, notice = value.get("role"), value.get("notice")
    if role is not None and not isinstance(role, str):
        raise RelayedFormatError("role must be a text")
    try:
        payload = bytes.fromhex(notice) if isinstance(notice, str) else b""
    except ValueError as exc:
        raise RelayedFormatError("notice hex decode failed") from exc
    if not 0 < len(payload) <= MAX_CONTROL_JSON_LEN:
        raise RelayedFormatError(f"notice must be 1 to {MAX_CONTROL_JSON_LEN} bytes")
    return GroupRequest(
        action=name_member(value, "action", MAX_GROUP_ID),
        group_id=name_member(value, "group_id", MAX_GROUP_ID),
        channel=whole_member(value, "channel", 2**32 - 1),
        sender=name_member(value, "sender", MAX_ADDRESS),
        device=name_member(value, "device", MAX_ADDRESS),
        role=role,
        notice=payload,
        expires_at=whole_member(value, "expires_at", 2**62 - 1),
    )
