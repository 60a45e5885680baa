"""What a device of a run can be told to do."""

import enum
from typing import TypeAlias

import attrs

from commucat_proto import FrameType


class Parting(enum.Enum):
    """How a client ends its connection."""

    RESET = "reset"
    """Its sockets are torn down; what was on its way is thrown away."""
    DROP = "drop"
    """Its sockets are closed without a word of TLS or HTTP."""
    HALF = "half"
    """Nothing more is sent, on the level of TCP; what comes is still read."""
    END = "end"
    """The orderly way: the end of its side, and everything read to the end of the server's."""


class GroupEvent(enum.Enum):
    """What happens to a group."""

    CREATE = "create"
    INVITE = "invite"
    REMOVE = "remove"
    LEAVE = "leave"
    ROLE = "role"
    TRANSFER = "transfer"
    OTHER = "topic"
    """Nothing; the members are told all the same."""


@attrs.frozen
class Send:
    """Send frames of these sizes, as fast as the window allows."""

    channel: int
    sizes: tuple[int, ...]
    frame: FrameType = FrameType.MSG


@attrs.frozen
class Aside:
    """Send messages of these sizes by a send-only session beside the one that receives."""

    channel: int
    sizes: tuple[int, ...]


@attrs.frozen
class Join:
    """Route a channel to ``members``."""

    channel: int
    members: tuple[str, ...]


@attrs.frozen
class Leave:
    """Give up the route of a channel."""

    channel: int


@attrs.frozen
class ChangeGroup:
    """Ask for a change of the group that belongs to a channel."""

    channel: int
    event: GroupEvent
    devices: tuple[str, ...] = ()
    """Whom it concerns; the members of a new group beside its owner."""
    role: str = "member"
    """Of whom is invited, or is given another one, or of the first member of a new group."""


@attrs.frozen
class Slow:
    """Take nothing from the network for some seconds."""

    seconds: float


@attrs.frozen
class Part:
    """End the connection, whatever is on its way, and come back."""

    how: Parting
    away: float
    resume: bool


@attrs.frozen
class Replace:
    """Open a second session while the first one works."""

    resume: bool


Step: TypeAlias = Send | Aside | Join | Leave | ChangeGroup | Slow | Part | Replace
