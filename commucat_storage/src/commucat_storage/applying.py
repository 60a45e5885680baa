"""One transaction of the journal: operations are applied to inboxes in memory, then written.

The rules are the same for every backend; what differs is behind the protocols of
:mod:`commucat_storage.ports`.
"""

from collections.abc import Sequence
from typing import TypeAlias

from commucat_storage.chat_group import ChatGroup
from commucat_storage.device_inbox import Inbox
from commucat_storage.inbox import (
    MAX_INBOX_NUMBER,
    ChangeGroup,
    Confirm,
    ConfirmOutcome,
    CreateGroup,
    DropRoute,
    GroupAction,
    GroupOutcome,
    InviteMember,
    JoinRoom,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    Resolve,
    ResolveOutcome,
    SetRoute,
    Submission,
    SubmissionOutcome,
)
from commucat_storage.limits import StoreLimits
from commucat_storage.membership import grantable, initial_roles, refuse_change, refuse_invitation
from commucat_storage.pending import Pending
from commucat_storage.ports import ChatGroups, Inboxes
from commucat_storage.records import GroupRole, Route
from commucat_storage.routes import Routes

_Accepting: TypeAlias = tuple[str, Inbox, bool]
"""A device that accepts a message, its inbox, and whether the sender is a stranger to it."""


def _of_sender(reason: RefusalReason) -> SubmissionOutcome:
    return SubmissionOutcome((), (Refusal(device_id="", reason=reason),))


_REFUSED_SENDER = {
    reason: _of_sender(reason)
    for reason in (RefusalReason.NO_ROUTE, RefusalReason.REVOKED, RefusalReason.NOT_MEMBER)
}
_NO_ROUTE = _REFUSED_SENDER[RefusalReason.NO_ROUTE]


class Group:
    """The open transaction of the writer: applies operations, and writes what they changed.

    ``apply`` changes only memory, except for routes and groups of devices; ``flush`` writes the
    rest. Whoever looks into the database in between must flush first.
    """

    def __init__(
        self,
        inboxes: Inboxes,
        groups: ChatGroups,
        routes: Routes,
        pending: Pending,
        limits: StoreLimits,
    ) -> None:
        self._inboxes = inboxes
        self._groups = groups
        self._limits = limits
        self._pending = pending
        self._routes = routes
        self._disk_is_low = False
        self.stored = 0
        """How many recipients the transaction has looked at so far."""

    def begin(self, *, disk_is_low: bool) -> None:
        """A transaction begins; with ``disk_is_low`` every message in it is refused."""
        self.stored = 0
        self._disk_is_low = disk_is_low

    def apply(self, batch: Sequence[Operation]) -> list[Outcome]:
        """Apply the operations in their order; one outcome for each. Those of confirmations are
        complete after the next flush only."""
        outcomes: list[Outcome] = []
        for operation in batch:
            # By far the most frequent first.
            if type(operation) is Submission:
                outcomes.append(self._submit(operation))
            elif type(operation) is Confirm:
                outcomes.append(self._confirm(operation, outcomes))
            else:
                outcomes.append(self._apply_rare(operation))
        return outcomes

    def flush(self) -> None:
        """Write everything that was applied since the last flush."""
        self._pending.flush()

    def discard(self) -> None:
        """Forget what was not written, after a rollback."""
        self._pending.discard()

    def _apply_rare(self, operation: Operation) -> Outcome:
        match operation:
            case Resolve():
                return self._resolve(operation)
            case SetRoute():
                return self._routes.set(operation)
            case JoinRoom():
                return self._routes.join_room(operation)
            case DropRoute():
                return self._routes.drop(operation)
            case CreateGroup():
                return self._create_group(operation)
            case InviteMember():
                return self._invite(operation)
            case ChangeGroup():
                return self._change_group(operation)
            case _:
                raise TypeError(f"not an operation: {operation!r}")

    # -- who is meant ----------------------------------------------------------------------------

    def _audience(
        self, sender: str, channel: int, named: tuple[str, ...] | None
    ) -> tuple[RefusalReason | None, tuple[str, ...], ChatGroup | None]:
        """Why the sender may not send at all; the recipients meant; the group the channel is bound to."""
        route = group = None
        if sender:
            origin = self._inboxes.get(sender)
            if origin.refusal is RefusalReason.REVOKED:
                return RefusalReason.REVOKED, (), None
            route = origin.routes.get(channel)
            if route is not None and route.group_id is not None:
                group = self._groups.get(route.group_id)
                if group is None or sender not in group.members:
                    return RefusalReason.NOT_MEMBER, (), None
        if named is None:
            if group is not None:
                named = group.device_ids()
            elif route is not None:
                named = tuple(sorted(route.members))
            else:
                return RefusalReason.NO_ROUTE, (), None
        if len(named) > 1:
            named = tuple(dict.fromkeys(named))
            self._inboxes.prefetch(named)
        self.stored += len(named)
        return None, named, group

    def _conflict(
        self, inbox: Inbox, device_id: str, sender: str, channel: int, group: ChatGroup | None
    ) -> RefusalReason | None:
        """Why a frame of this sender may not reach the device on this channel."""
        if inbox.refusal is not None:
            return inbox.refusal
        if group is not None and device_id not in group.members:
            return RefusalReason.NOT_MEMBER
        if sender and inbox.routes:
            route = inbox.routes.get(channel)
            if (
                route is not None
                and sender not in route.members
                and (group is None or route.group_id != group.group_id)
            ):
                return RefusalReason.CHANNEL_CONFLICT
        return None

    def _resolve(self, question: Resolve) -> ResolveOutcome:
        reason, named, group = self._audience(question.sender, question.channel, None)
        recipients: list[str] = []
        refused: list[Refusal] = []
        for device_id in named:
            if device_id == question.sender:
                continue
            inbox = self._inboxes.get(device_id)
            conflict = self._conflict(inbox, device_id, question.sender, question.channel, group)
            if conflict is None:
                recipients.append(device_id)
            else:
                refused.append(Refusal(device_id=device_id, reason=conflict))
        if not (recipients or refused):
            refused.append(Refusal(device_id="", reason=reason or RefusalReason.NO_ROUTE))
        return ResolveOutcome(tuple(recipients), tuple(refused))

    # -- messages --------------------------------------------------------------------------------

    def _submit(self, message: Submission) -> SubmissionOutcome:
        reason, recipients, group = self._audience(message.sender, message.channel, message.recipients)
        if reason is not None:
            return _REFUSED_SENDER[reason]
        outcome = self._deliver(message, recipients, group)
        if outcome.accepted or outcome.refused:
            return outcome
        # A route with nobody else on it: told, or the sender would believe that it was heard.
        return _NO_ROUTE

    def _deliver(
        self, message: Submission, recipients: tuple[str, ...], group: ChatGroup | None
    ) -> SubmissionOutcome:
        """Store the message for each of the recipients that accepts it."""
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
            stored = self._store(accepting[0], message, message.payload, None, reporter)
            return SubmissionOutcome((stored,), tuple(refused))
        payload_id = self._pending.share(message.payload, len(accepting) + len(copying))
        accepted = [self._store(each, message, None, payload_id, reporter) for each in accepting]
        copied = [self._store(each, message, None, payload_id, None) for each in copying]
        return SubmissionOutcome(tuple(accepted), tuple(refused), tuple(copied))

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
        reason = self._conflict(inbox, device_id, sender, channel, group)
        stranger = False
        if reason is None:
            stranger = sender != "" and self._is_stranger(sender, inbox, channel)
            reason = self._lack_of_room(inbox, len(message.payload), stranger)
        if reason is None:
            accepting.append((device_id, inbox, stranger))
        else:
            refused.append(Refusal(device_id=device_id, reason=reason))

    def _is_stranger(self, sender: str, inbox: Inbox, channel: int) -> bool:
        """Whether the receiver has no relation to the sender, so that its rows come out of a small share."""
        routes = inbox.routes
        if routes and (route := routes.get(channel)) is not None and sender in route.members:
            return False
        origin = self._inboxes.get(sender)
        return not (
            (origin.user_id == inbox.user_id and origin.known)
            or not inbox.accepted_groups.isdisjoint(origin.groups)
            or any(sender in route.members for route in routes.values())
        )

    def _lack_of_room(self, inbox: Inbox, size: int, stranger: bool) -> RefusalReason | None:
        if self._disk_is_low:
            return RefusalReason.DISK_LOW
        if inbox.next_number > MAX_INBOX_NUMBER:
            return RefusalReason.QUOTA
        if self._is_full(inbox, size, stranger):
            if inbox not in self._pending.confirmed:
                return RefusalReason.QUOTA
            # What was confirmed in this very transaction is counted only when it is deleted.
            self.flush()
            if self._is_full(inbox, size, stranger):
                return RefusalReason.QUOTA
        return None

    def _is_full(self, inbox: Inbox, size: int, stranger: bool) -> bool:
        limits = self._limits
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

    def _store(
        self,
        recipient: _Accepting,
        message: Submission,
        payload: bytes | None,
        payload_id: int | None,
        reporter: str | None,
    ) -> tuple[str, int]:
        device_id, inbox, stranger = recipient
        size = len(message.payload)
        number = inbox.next_number
        inbox.next_number = number + 1
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
        if reporter is not None:
            inbox.reports += 1
            pending.marked_rows += (*row, stranger, reporter, message.reference)
        elif stranger:
            pending.marked_rows += (*row, stranger, None, None)
        else:
            pending.rows += row
        pending.dirty[inbox] = None
        return device_id, number

    def _confirm(self, confirm: Confirm, outcomes: list[Outcome]) -> ConfirmOutcome:
        inbox = self._inboxes.get(confirm.device_id)
        number = confirm.number
        if (
            not inbox.known
            or confirm.epoch != inbox.epoch
            or not inbox.confirmed <= number < inbox.next_number
        ):
            return ConfirmOutcome(False, inbox.confirmed)
        if number > inbox.confirmed:
            if inbox.reports:
                self._pending.reported.add(outcomes, inbox, inbox.confirmed + 1, number)
            self._pending.confirm(inbox, number)
        return ConfirmOutcome(True, number)

    # -- groups of devices -----------------------------------------------------------------------

    def _create_group(self, creation: CreateGroup) -> GroupOutcome:
        sender = self._inboxes.get(creation.sender)
        route = Route(relay=creation.relay, group_id=creation.group_id)
        roles = initial_roles(creation)
        refused = sender.refusal or self._refuse_creation(creation, len(roles))
        refused = refused or self._routes.refusal(sender, creation.channel, route)
        if refused is not None:
            return GroupOutcome(refused)
        self._inboxes.prefetch(roles)
        members = {
            device_id: role
            for device_id, role in roles.items()
            if self._inboxes.get(device_id).refusal is None
        }
        wanting = {
            device_id
            for device_id in members
            if device_id == creation.sender or self._is_wanted(creation, device_id)
        }
        group = self._groups.create(
            creation.group_id, members, wanting, relay=creation.relay, created_at=creation.created_at
        )
        self._routes.store(creation.sender, sender, creation.channel, route)
        # Those that were left out of the group are refused by name here.
        return GroupOutcome(None, self._notify(creation, tuple(sorted(roles)), group))

    def _refuse_creation(self, creation: CreateGroup, members: int) -> RefusalReason | None:
        if self._disk_is_low:
            # Its notice would reach nobody, and a second creation would be refused.
            return RefusalReason.DISK_LOW
        if self._groups.get(creation.group_id) is not None:
            return RefusalReason.GROUP_EXISTS
        if members > self._limits.max_group_members:
            return RefusalReason.GROUP_FULL
        if self._groups.owned_by(creation.sender) >= self._limits.max_owned_groups:
            return RefusalReason.TOO_MANY_ROUTES
        return None

    def _invite(self, invitation: InviteMember) -> GroupOutcome:
        group = self._groups.get(invitation.group_id)
        members = None if group is None else group.members
        refused = (
            self._inboxes.get(invitation.sender).refusal
            or (RefusalReason.DISK_LOW if self._disk_is_low else None)
            or refuse_invitation(members, invitation, self._limits.max_group_members)
            or self._inboxes.get(invitation.device_id).refusal
            or self._refuse_channel(invitation)
        )
        if refused is not None or group is None:
            return GroupOutcome(refused)
        wanted = self._is_wanted(invitation, invitation.device_id)
        self._groups.add(group, invitation.device_id, grantable(invitation.role), accepted=wanted)
        return GroupOutcome(None, self._notify(invitation, group.device_ids(), group))

    def _change_group(self, change: ChangeGroup) -> GroupOutcome:
        group = self._groups.get(change.group_id)
        members = None if group is None else group.members
        refused = (
            self._inboxes.get(change.sender).refusal
            or refuse_change(members, change)
            or self._refuse_channel(change)
        )
        if refused is None and change.action is GroupAction.TRANSFER:
            # A group whose owner cannot connect could never get another one.
            refused = self._inboxes.get(change.device_id).refusal
        if refused is not None or group is None:
            return GroupOutcome(refused)
        notice = self._notify(change, group.device_ids(), group)
        if change.action is GroupAction.TRANSFER:
            self._groups.set_role(group, change.sender, GroupRole.CO_OWNER)
            self._groups.set_role(group, change.device_id, GroupRole.OWNER)
        elif change.action is GroupAction.SET_ROLE:
            assert change.role is not None, "check_batch was called"
            self._groups.set_role(group, change.device_id, change.role)
        elif len(group.members) == 1:
            self._routes.forget_deleted(self._groups.delete(group))
        else:
            self._groups.remove(group, change.device_id)
        return GroupOutcome(None, notice)

    def _is_wanted(self, operation: CreateGroup | InviteMember, device_id: str) -> bool:
        """Whether the device is taken to agree to its membership."""
        return not self._is_stranger(operation.sender, self._inboxes.get(device_id), operation.channel)

    def _refuse_channel(self, operation: InviteMember | ChangeGroup) -> RefusalReason | None:
        """A channel that the sender has bound to one group carries nothing about another."""
        route = self._inboxes.get(operation.sender).routes.get(operation.channel)
        if route is None or route.group_id in (None, operation.group_id):
            return None
        return RefusalReason.CHANNEL_CONFLICT

    def _notify(
        self,
        operation: CreateGroup | InviteMember | ChangeGroup,
        recipients: tuple[str, ...],
        group: ChatGroup,
    ) -> SubmissionOutcome:
        self._inboxes.prefetch(recipients)
        self.stored += len(recipients)
        message = Submission(
            operation.sender,
            operation.channel,
            operation.frame_type,
            operation.notice,
            operation.expires_at,
            recipients,
        )
        return self._deliver(message, recipients, group)
