"""One transaction of the journal: operations are applied to inboxes in memory, then written.

The rules are the same for every backend; what differs is behind the protocols of
:mod:`commucat_storage.ports`.
"""

from collections.abc import Sequence

from commucat_storage.audience import Audiences
from commucat_storage.delivery import Delivery
from commucat_storage.group_changes import GroupChanges
from commucat_storage.inbox import (
    ChangeGroup,
    Confirm,
    ConfirmOutcome,
    CreateGroup,
    DropRoute,
    GroupOutcome,
    InviteMember,
    JoinRoom,
    Once,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    ReplaceReplica,
    Resolve,
    ResolveOutcome,
    SetRoute,
    Submission,
    SubmissionOutcome,
)
from commucat_storage.limits import StoreLimits
from commucat_storage.marks import Marks
from commucat_storage.pending import Pending
from commucat_storage.ports import ChatGroups, Inboxes
from commucat_storage.replicas import Replicas
from commucat_storage.routes import Routes


def _of_sender(reason: RefusalReason) -> SubmissionOutcome:
    return SubmissionOutcome((), (Refusal(device_id="", reason=reason),))


_REFUSED_SENDER = {
    reason: _of_sender(reason)
    for reason in (
        RefusalReason.NO_ROUTE,
        RefusalReason.REVOKED,
        RefusalReason.NOT_MEMBER,
        RefusalReason.NOT_ALLOWED,
    )
}
_NO_ROUTE = _REFUSED_SENDER[RefusalReason.NO_ROUTE]
_DUPLICATE = SubmissionOutcome((), duplicate=True)
_EARLY = SubmissionOutcome((), early=True)
_DONE_BEFORE = GroupOutcome(None, duplicate=True)


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
        marks: Marks,
    ) -> None:
        self._inboxes = inboxes
        self._groups = groups
        self._pending = pending
        self._marks = marks
        self._waited_for: set[str] = set()
        """Groups to which nothing more of the batch is taken, as a message before it came too early."""
        self._routes = routes
        self._audiences = Audiences(inboxes, groups)
        self._delivery = Delivery(inboxes, self._audiences, pending, limits)
        self._group_changes = GroupChanges(inboxes, groups, routes, self._audiences, self._delivery, limits)
        self._replicas = Replicas(inboxes, groups, routes, limits)

    @property
    def stored(self) -> int:
        """How many recipients the transaction has looked at so far."""
        return self._delivery.stored

    def begin(self, *, disk_is_low: bool) -> None:
        """A transaction begins; with ``disk_is_low`` every message in it is refused."""
        self._delivery.stored = 0
        self._delivery.disk_is_low = disk_is_low

    def apply(self, batch: Sequence[Operation]) -> list[Outcome]:
        """Apply the operations in their order; one outcome for each. Those of confirmations are
        complete after the next flush only."""
        outcomes: list[Outcome] = []
        if self._waited_for:
            self._waited_for.clear()
        for operation in batch:
            # By far the most frequent first.
            if type(operation) is Submission:
                if operation.once is None:
                    outcomes.append(self._submit(operation))
                else:
                    outcomes.append(self._submit_once(operation, operation.once, batch))
            elif type(operation) is Confirm:
                outcomes.append(self._confirm(operation, outcomes))
            else:
                outcomes.append(self._apply_rare(operation, batch))
        return outcomes

    def flush(self) -> None:
        """Write everything that was applied since the last flush."""
        self._pending.flush()

    def discard(self) -> None:
        """Forget what was not written, after a rollback."""
        self._pending.discard()

    def _apply_rare(self, operation: Operation, batch: Sequence[Operation]) -> Outcome:
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
                return self._group_changes.create(operation)
            case InviteMember() | ChangeGroup() | ReplaceReplica():
                return self._change_group(operation, batch)
            case _:
                raise TypeError(f"not an operation: {operation!r}")

    def _change_group(
        self, operation: InviteMember | ChangeGroup | ReplaceReplica, batch: Sequence[Operation]
    ) -> GroupOutcome:
        once = operation.once
        if once is not None and self._marks.seen(once, batch):
            return _DONE_BEFORE
        match operation:
            case InviteMember():
                outcome = self._group_changes.invite(operation)
            case ChangeGroup():
                outcome = self._group_changes.change(operation)
            case ReplaceReplica():
                outcome = self._replicas.replace(operation)
        if once is not None and outcome.refused is None:
            self._marks.add(once)
        return outcome

    def _resolve(self, question: Resolve) -> ResolveOutcome:
        reason, named, group = self._audiences.meant_by(question.sender, question.channel, None)
        self._delivery.stored += len(named)
        recipients: list[str] = []
        refused: list[Refusal] = []
        elsewhere = False
        for device_id in named:
            if device_id == question.sender:
                continue
            inbox = self._inboxes.get(device_id)
            conflict = self._audiences.conflict(inbox, device_id, question.sender, question.channel, group)
            if conflict is None:
                recipients.append(device_id)
            elif "@" in device_id:
                elsewhere = True
            else:
                refused.append(Refusal(device_id=device_id, reason=conflict))
        if not (recipients or refused or elsewhere):
            refused.append(Refusal(device_id="", reason=reason or RefusalReason.NO_ROUTE))
        return ResolveOutcome(tuple(recipients), tuple(refused))

    def _submit_once(self, message: Submission, once: Once, batch: Sequence[Operation]) -> SubmissionOutcome:
        if self._marks.seen(once, batch):
            return _DUPLICATE
        if message.group_id in self._waited_for:
            return _EARLY
        outcome = self._submit(message)
        if outcome.accepted:
            self._marks.add(once)
        elif self._is_early(message, outcome):
            self._waited_for.add(message.group_id or "")
            return _EARLY
        return outcome

    def _is_early(self, message: Submission, outcome: SubmissionOutcome) -> bool:
        """Whether a message is refused only because the sender's server knows a newer state of the group."""
        group_id, revision = message.group_id, message.group_revision
        if group_id is None or revision is None or outcome.refused[0].reason is not RefusalReason.NOT_MEMBER:
            return False
        group = self._groups.get(group_id)
        return group is None or (group.home is not None and group.revision < revision)

    def _submit(self, message: Submission) -> SubmissionOutcome:
        reason, recipients, group = self._audiences.meant_by(
            message.sender, message.channel, message.recipients, message.group_id, message.group_home
        )
        if reason is not None:
            return _REFUSED_SENDER[reason]
        outcome = self._delivery.deliver(message, recipients, group)
        if outcome.accepted or outcome.refused:
            return outcome
        # A route with nobody else on it: told, or the sender would believe that it was heard.
        return _NO_ROUTE

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
            # What a peer has taken it reports by itself.
            if inbox.reports and confirm.device_id[0] != "@":
                self._pending.reported.add(outcomes, inbox, inbox.confirmed + 1, number)
            self._pending.confirm(inbox, number)
        return ConfirmOutcome(True, number)
