"""What the server tells a device about friends, as a line for a person."""

from collections.abc import Mapping
from typing import Any

from commucat_proto import Frame, FrameType


def friend_notice(frame: Frame) -> str | None:
    """The line; None for a frame that is no such notice."""
    value = frame.control
    # An event that another device sent has a group: the server passes on no other.
    if frame.type is not FrameType.GROUP_EVENT or not isinstance(value, Mapping) or "group_id" in value:
        return None
    who = value.get("from")
    if not isinstance(who, str):
        return None
    if value.get("type") == "friend_request":
        words = value.get("message")
        said = f" ({words})" if isinstance(words, str) and words else ""
        return f"{who} asks to become a friend{said}; answer with friends accept {_handle(value, who)}"
    if value.get("type") == "friend_response":
        return f"{who} {'has become a friend' if value.get('accept') is True else 'does not become a friend'}"
    return None


def _handle(value: Mapping[str, Any], who: str) -> str:
    """How the user is called on its own server; with its domain if that is another one."""
    return who if value.get("federated") is True else who.rpartition("@")[0] or who
