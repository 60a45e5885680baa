"""What servers of two domains tell each other: signed events, messages, friends, linked accounts. No I/O."""

from commucat_proto.federation.entry_members import TypedEntry
from commucat_proto.federation.friend_events import FriendEvent, FriendEventError, FriendEventKind
from commucat_proto.federation.group_entries import (
    MAX_GROUP_ID,
    REQUEST,
    STATE,
    GroupRequest,
    GroupState,
    group_entry_of,
)
from commucat_proto.federation.instants import InstantError, format_instant, parse_instant
from commucat_proto.federation.link_entries import (
    LINK,
    MAX_TOLD_DEVICES,
    OFFSETS,
    DeviceOffset,
    LinkEntry,
    OffsetsEntry,
    link_entry_of,
)
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
    "LINK",
    "MAX_BATCH",
    "MAX_GROUP_ID",
    "MAX_TOLD_DEVICES",
    "OFFSETS",
    "REQUEST",
    "STATE",
    "DeviceOffset",
    "Event",
    "EventFormatError",
    "EventVerificationError",
    "FriendEvent",
    "FriendEventError",
    "FriendEventKind",
    "GroupRequest",
    "GroupState",
    "InstantError",
    "LinkEntry",
    "OffsetsEntry",
    "RelayedFormatError",
    "RelayedMessage",
    "SignedEvent",
    "TypedEntry",
    "Verification",
    "batch_of_wire",
    "batch_to_wire",
    "check_event_id",
    "entry_id",
    "format_instant",
    "group_entry_of",
    "link_entry_of",
    "message_of_batch",
    "parse_instant",
]
