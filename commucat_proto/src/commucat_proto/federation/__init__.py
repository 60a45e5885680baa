"""What servers of two domains tell each other: signed events, messages, friend requests. No I/O."""

from commucat_proto.federation.friend_events import FriendEvent, FriendEventError, FriendEventKind
from commucat_proto.federation.group_entries import (
    MAX_GROUP_ID,
    REQUEST,
    STATE,
    GroupEntry,
    GroupRequest,
    GroupState,
    group_entry_of,
)
from commucat_proto.federation.instants import InstantError, format_instant, parse_instant
from commucat_proto.federation.relayed_message import (
    MAX_BATCH,
    RelayedFormatError,
    RelayedMessage,
    batch_of_wire,
    batch_to_wire,
    check_event_id,
    entry_id,
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
    "MAX_GROUP_ID",
    "REQUEST",
    "STATE",
    "Event",
    "EventFormatError",
    "EventVerificationError",
    "FriendEvent",
    "FriendEventError",
    "FriendEventKind",
    "GroupEntry",
    "GroupRequest",
    "GroupState",
    "InstantError",
    "RelayedFormatError",
    "RelayedMessage",
    "SignedEvent",
    "Verification",
    "batch_of_wire",
    "batch_to_wire",
    "check_event_id",
    "entry_id",
    "format_instant",
    "group_entry_of",
    "message_of_batch",
    "parse_instant",
]
