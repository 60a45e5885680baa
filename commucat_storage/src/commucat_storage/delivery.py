"""Storing a message for those that accept it: rights, room, numbers and rows."""

from collections.abc import Sequence
from typing import TypeAlias

from commucat_storage.audience import Audiences
from commucat_storage.chat_group import ChatGroup
from commucat_storage.device_inbox import Inbox
from commucat_storage.federation import domain_of, is_device_elsewhere, outbox_of
from commucat_storage.inbox import (
    MAX_INBOX_NUMBER,
    Refusal,
    RefusalReason,
    Submission,
    SubmissionOutcome,
)
from commucat_storage.limits import StoreLimits
from commucat_storage.pending import Pending
from commucat_storage.ports import Inboxes

_Accepting: TypeAlias = tuple[str, Inbox, bool | None]
"""A device that accepts a message, its inbox, and whether the sender is a stranger to it. For a device of
another server the outbox of its domain, and None."""


class Delivery:
    """Puts messages into the inboxes of the open transaction."""

    def __init__(self, inboxes: Inboxes, audiences: Audiences, pending: Pending, limits: StoreLimits) -> None:
        self._inboxes = inboxes
        self._audiences = audiences
        self._pending = pending
        self._limits = limits
        self.disk_is_low = False
        """Every message is refused."""
        self.stored = 0
        """How many recipients the transaction has looked at so far."""
        self._coming: dict[Inbox, int] = {}
        """Outboxes that the message at hand goes to, and how many rows it will have in each."""

    def deliver(
        self, message: Submission, recipients: tuple[str, ...], group: ChatGroup | None
    ) -> SubmissionOutcome:
        """Store the message for each of the recipients that accepts it."""
        self.stored += len(recipients)
        if self._coming:
            self._coming.clear()
        sender = message.sender
        refused: list[Refusal] = []
        accepting: list[_Accepting] = []
        for device_id in recipients:
            if device_id == sender and device_id:
                continue
            self._ask(device_id, message, group, accepting, refused)
        if not accepting:
            return SubmissionOutcome((), tuple(refused))
        copying: Sequence[_Accepting] = ()
        if message.copies:
            copying = self._copies(message, recipients, group, refused)
        reporter = sender if message.report and sender else None
        if len(accepting) == 1 and not copying:
            # By far the most frequent.
            stored = self._store(accepting[0], message, message.payload, None, reporter, group)
            return SubmissionOutcome((stored,), tuple(refused))
        payload_id = self._pending.share(message.payload, len(accepting) + len(copying))
        accepted = [self._store(each, message, None, payload_id, reporter, group) for each in accepting]
        copied = [self._store(each, message, None, payload_id, None, group) for each in copying]
        return SubmissionOutcome(tuple(accepted), tuple(refused), tuple(copied))

    def takes_peer(self, device_id: str) -> bool:
        """Whether this can be the name of a device of another server to which something is sent."""
        return (
            is_device_elsewhere(device_id) and self._inboxes.get(outbox_of(domain_of(device_id) or "")).open
        )

    def tell_peer(self, domain: str, frame_type: int, payload: bytes, expires_at: int) -> str | None:
        """Store what the server itself tells a peer of a group, whatever the outbox holds; the outbox.

        None if the outbox is not open, or has no numbers left.
        """
        target = outbox_of(domain)
        outbox = self._inboxes.get(target)
        if not outbox.open or outbox.next_number > MAX_INBOX_NUMBER:
            return None
        message = Submission("", 0, frame_type, payload, expires_at, (target,))
        self._store((target, outbox, None), message, payload, None, None, None)
        return target

    def _copies(
        self,
        message: Submission,
        recipients: tuple[str, ...],
        group: ChatGroup | None,
        refused: list[Refusal],
    ) -> list[_Accepting]:
        """The sender's user's other devices, of those the ones that accept the message."""
        origin = self._inboxes.get(message.sender)
        accepting: list[_Accepting] = []
        if message.sender and origin.known:
            meant = {message.sender, *recipients}
            others = [each for each in self._inboxes.siblings(origin.user_id) if each not in meant]
            self._inboxes.prefetch(others)
            self.stored += len(others)
            for device_id in others:
                self._ask(device_id, message, group, accepting, refused)
        return accepting

    def _ask(
        self,
        device_id: str,
        message: Submission,
        group: ChatGroup | None,
        accepting: list[_Accepting],
        refused: list[Refusal],
    ) -> None:
        """Put the device among those that accept the message, or among those that refuse it."""
        sender, channel = message.sender, message.channel
        inbox = self._inboxes.get(device_id)
        reason = self._audiences.conflict(
            inbox, device_id, sender, channel, group, by_home=message.group_home is not None
        )
        stranger = False
        if reason is None:
            stranger = sender != "" and self._audiences.is_stranger(
                sender, inbox, channel, message.on_behalf, group
            )
            if stranger and message.known_only:
                reason = RefusalReason.STRANGER
            elif device_id in message.busy:
                reason = RefusalReason.BUSY
            else:
                reason = self._lack_of_room(inbox, len(message.payload), stranger)
        if reason is None:
            accepting.append((device_id, inbox, stranger))
        elif "@" in device_id:
            self._ask_peer(device_id, message, group, accepting, refused)
        else:
            refused.append(Refusal(device_id=device_id, reason=reason))

    def _ask_peer(
        self,
        target: str,
        message: Submission,
        group: ChatGroup | None,
        accepting: list[_Accepting],
        refused: list[Refusal],
    ) -> None:
        """The same for a device of another server: it is the outbox of its domain that accepts."""
        if (target[0] == "@" and message.sender) or not target.isprintable():
            # Only the server itself speaks to a peer, and what has control characters or surrogates is no id.
            refused.append(Refusal(device_id=target, reason=RefusalReason.UNKNOWN_DEVICE))
            return
        outbox = self._inboxes.get(outbox_of(domain_of(target) or ""))
        reason: RefusalReason | None
        if message.local:
            reason = RefusalReason.NOT_FEDERATED
        elif not outbox.open or ("@" in message.sender and (group is None or group.home is not None)):
            # What comes from another server is not sent on, but for what it changes of a group of ours.
            reason = RefusalReason.UNKNOWN_DOMAIN
        elif group is not None and target not in group.members:
            reason = RefusalReason.NOT_MEMBER
        else:
            reason = self._lack_of_room_for_more(outbox, len(message.payload))
        if reason is None:
            self._coming[outbox] = self._coming.get(outbox, 0) + 1
            accepting.append((target, outbox, None))
        else:
            refused.append(Refusal(device_id=target, reason=reason))

    def _lack_of_room(self, inbox: Inbox, size: int, stranger: bool) -> RefusalReason | None:
        if self.disk_is_low:
            return RefusalReason.DISK_LOW
        if inbox.next_number > MAX_INBOX_NUMBER:
            return RefusalReason.QUOTA
        if self._is_full(inbox, size, stranger):
            if inbox not in self._pending.confirmed:
                return RefusalReason.QUOTA
            # What was confirmed in this very transaction is counted only when it is deleted.
            self._pending.flush()
            if self._is_full(inbox, size, stranger):
                return RefusalReason.QUOTA
        return None

    def _is_full(self, inbox: Inbox, size: int, stranger: bool) -> bool:
        limits = self._limits.inbox
        return (
            inbox.rows >= limits.max_rows
            or inbox.bytes + size > limits.max_bytes
            or (
                stranger
                and (
                    inbox.stranger_rows >= limits.stranger_rows
                    or inbox.stranger_bytes + size > limits.stranger_bytes
                )
            )
        )

    def _lack_of_room_for_more(self, outbox: Inbox, size: int) -> RefusalReason | None:
        """The same for an outbox, in which the message at hand may have several rows."""
        coming = self._coming.get(outbox, 0)
        reason = self._lack_of_room(outbox, size * (coming + 1), False)
        if reason is None and coming and self._is_full_with(outbox, coming):
            if outbox not in self._pending.confirmed:
                return RefusalReason.QUOTA
            self._pending.flush()
            if self._is_full_with(outbox, coming):
                return RefusalReason.QUOTA
        return reason

    def _is_full_with(self, outbox: Inbox, coming: int) -> bool:
        return (
            outbox.rows + coming >= self._limits.inbox.max_rows
            or outbox.next_number + coming > MAX_INBOX_NUMBER
        )

    def _store(
        self,
        recipient: _Accepting,
        message: Submission,
        payload: bytes | None,
        payload_id: int | None,
        reporter: str | None,
        group: ChatGroup | None,
    ) -> tuple[str, int]:
        device_id, inbox, stranger = recipient
        size = len(message.payload)
        number = inbox.next_number
        inbox.next_number = number + 1
        inbox.note(size, plain=payload is not None and reporter is None and stranger is False)
        inbox.rows += 1
        inbox.bytes += size
        if payload is None:
            inbox.shared += 1
        if stranger:
            inbox.stranger_rows += 1
            inbox.stranger_bytes += size
        expires_at = message.expires_at
        if expires_at < inbox.earliest:
            inbox.earliest = expires_at
        pending = self._pending
        row = (
            inbox.base + number,
            message.frame_type,
            message.channel,
            expires_at,
            size,
            payload,
            payload_id,
        )
        if stranger is None:
            if reporter is not None:
                inbox.reports += 1
            reference = None if reporter is None else message.reference
            group_id = message.group_id if group is None else group.group_id
            pending.peer_rows += (*row, reporter, reference, message.sender, device_id, group_id)
        elif reporter is not None:
            inbox.reports += 1
            pending.marked_rows += (*row, stranger, reporter, message.reference)
        elif stranger:
            pending.marked_rows += (*row, stranger, None, None)
        else:
            pending.rows += row
        pending.dirty[inbox] = None
        return device_id, number
