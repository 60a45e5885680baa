"""What servers of two domains tell each other: signed events, messages, friend requests. No I/O."""

from commucat_proto.federation.friend_events import FriendEvent, FriendEventError, FriendEventKind
from commucat_proto.federation.instants import InstantError, format_instant, parse_instant
from commucat_proto.federation.relayed_message import (
    MAX_BATCH,
    RelayedFormatError,
    RelayedMessage,
    batch_of_wire,
    batch_to_wire,
    message_of_batch,
)
from commucat_proto.federation.signed_event import (
    Event,
    EventFormatError,
    EventVerificationError,
    SignedEvent,
    Verification,
)

__all__ = [
    "MAX_BATCH",
    "Event",
    "EventFormatError",
    "EventVerificationError",
    "FriendEvent",
    "FriendEventError",
    "FriendEventKind",
    "InstantError",
    "RelayedFormatError",
    "RelayedMessage",
    "SignedEvent",
    "Verification",
    "batch_of_wire",
    "batch_to_wire",
    "format_instant",
    "message_of_batch",
    "parse_instant",
]
