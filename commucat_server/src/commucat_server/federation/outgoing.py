"""What stands in an outbox as what a peer is sent."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from commucat_crypto import DeviceKeyPair
from commucat_proto import Frame, FrameType, json_text
from commucat_proto.federation import (
    LINK,
    OFFSETS,
    REQUEST,
    STATE,
    Event,
    FriendEvent,
    FriendEventError,
    RelayedMessage,
    TypedEntry,
    batch_to_wire,
)
from commucat_storage import ACCOUNT_LINK, GROUP_REQUEST, GROUP_STATE, INBOX_OFFSETS, OutboxPage, OutboxRow

FRIEND_EVENT: Final = 0xF0
"""Type of an outbox row whose payload is the JSON of a friend event, not signed yet."""
_ENTRIES: Final = {
    GROUP_STATE: STATE,
    GROUP_REQUEST: REQUEST,
    ACCOUNT_LINK: LINK,
    INBOX_OFFSETS: OFFSETS,
}
"""The type of an entry by that of its row, whose payload is the JSON of the entry."""


@attrs.frozen(kw_only=True)
class EventSigner:
    """Signs events when they are sent, not when they are stored: a key that was replaced meanwhile does no
    harm then, and a peer's clock is held against the time of the attempt."""

    domain: str
    keys: DeviceKeyPair
    clock_ns: Callable[[], int] = time.time_ns

    def single(self, epoch: str, row: OutboxRow, peer: str) -> bytes:
        """The event with one row."""
        message = carried(epoch, row)
        return self.signed(message.event_id, message.to_wire(), peer)

    def batch(self, epoch: str, rows: Sequence[OutboxRow], peer: str) -> bytes:
        """The event with many; what names it counts for nothing, each message has an id of its own."""
        payload = batch_to_wire([carried(epoch, row) for row in rows])
        return self.signed(f"{epoch}-{rows[0].number}-{rows[-1].number}", payload, peer)

    def friend_event(self, row: OutboxRow) -> bytes:
        """The text of a friend event.

        Raises:
            FriendEventError: the row holds none.
        """
        try:
            value = json_text.loads(row.payload)
        except json_text.JsonTextError as exc:
            raise FriendEventError("invalid JSON payload") from exc
        return json_text.dumps(FriendEvent.from_wire(value).sign(self.keys).to_wire())

    def signed(self, event_id: str, payload: json_text.JsonValue, peer: str) -> bytes:
        """The text of an event of this server for ``peer``, of this moment."""
        event = Event(
            event_id=event_id, origin=self.domain, created_at=self.clock_ns(), payload=payload, scope=peer
        )
        return event.sign(self.keys).encode()


def carried(epoch: str, row: OutboxRow) -> RelayedMessage | TypedEntry:
    """A row that is no friend event, as the peer is sent it."""
    kind = _ENTRIES.get(row.frame_type)
    if kind is None:
        return relayed(epoch, row)
    try:
        value = json_text.loads(row.payload)
    except json_text.JsonTextError:
        value = None
    # One that cannot be read, which the store does not write, is the peer's to refuse.
    found = value if isinstance(value, Mapping) else {}
    return TypedEntry(event_id=f"{epoch}-{row.number}", type=kind, value=found)


def relayed(epoch: str, row: OutboxRow) -> RelayedMessage:
    """A row with a frame. Its id is the same at each attempt, and of no other row: numbers are used once
    within an epoch."""
    return RelayedMessage(
        event_id=f"{epoch}-{row.number}",
        frame=Frame(FrameType(row.frame_type), row.channel, row.number, row.payload),
        sender=row.sender or None,
        target=row.target,
        sender_user=row.sender_handle,
        expires_at=row.expires_at,
        report=row.reference.hex() if row.report else None,
        group=row.group_id,
        group_revision=row.group_revision,
    )


def leading_messages(page: OutboxPage, most: int) -> Sequence[OutboxRow]:
    """The rows at the begin of the page that are no friend events, at most so many."""
    for index, row in enumerate(page.rows[:most]):
        if row.frame_type == FRIEND_EVENT:
            return page.rows[:index]
    return page.rows[:most]
