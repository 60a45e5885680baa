"""What servers of two domains tell each other: signed events and friend requests. No I/O."""

from commucat_proto.federation.friend_events import FriendEvent, FriendEventError, FriendEventKind
from commucat_proto.federation.instants import InstantError, format_instant, parse_instant
from commucat_proto.federation.signed_event import (
    Event,
    EventFormatError,
    EventVerificationError,
    SignedEvent,
    Verification,
)

__all__ = [
    "Event",
    "EventFormatError",
    "EventVerificationError",
    "FriendEvent",
    "FriendEventError",
    "FriendEventKind",
    "InstantError",
    "SignedEvent",
    "Verification",
    "format_instant",
    "parse_instant",
]
