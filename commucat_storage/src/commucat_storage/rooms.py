"""Open rooms: a group of devices for each channel number, which whoever joins the number belongs to.

A room is stored as a group, so that everything that holds for a channel bound to a group holds for it. It
has no owner and no roles, and its id begins with a character that no client can send in an id.
"""

RESERVED_PREFIX = "\x1f"
"""Ids of groups that begin so belong to the store; operations that name one are not accepted."""
_ROOM_PREFIX = f"{RESERVED_PREFIX}room:"


def room_id(channel: int) -> str:
    """The id of the group that is the open room of this channel number."""
    return f"{_ROOM_PREFIX}{channel}"


def is_reserved(group_id: str) -> bool:
    """Whether the id may not be named from outside."""
    return group_id.startswith(RESERVED_PREFIX)
