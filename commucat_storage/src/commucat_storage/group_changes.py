"""Changes of groups of devices: decided, made, and told to the members in the same transaction.

A group belongs to the server where it was made, its home. Other servers with members have replicas, which
only the home changes: by a row in their outboxes with all members, a *state*. It is JSON: ``group_id``,
``revision``, ``relay``, and ``members``, an object from name to role, where the names are as the home
knows them. What is to be changed of a replica is forwarded to the home, by a row with the *request*.
"""

import json
from collections.abc import Mapping

from commucat_storage.audience import Audiences
from commucat_storage.chat_group import ChatGroup
from commucat_storage.delivery import Delivery
from commucat_storage.federation import GROUP_REQUEST, GROUP_STATE, domain_of, outbox_of
from commucat_storage.inbox import (
    ChangeGroup,
    CreateGroup,
    GroupAction,
    GroupOutcome,
    InviteMember,
    RefusalReason,
    Submission,
    SubmissionOutcome,
)
from commucat_storage.limits import StoreLimits
from commucat_storage.membership import (
    Members,
    changed_members,
    grantable,
    initial_roles,
    refuse_change,
    refuse_invitation,
)
from commucat_storage.ports import ChatGroups, Inboxes
from commucat_storage.records import GroupRole, Route
from commucat_storage.routes import Routes


class GroupChanges:
    """Applies the operations on groups in the open transaction."""

    def __init__(
        self,
        inboxes: Inboxes,
        groups: ChatGroups,
        routes: Routes,
        audiences: Audiences,
        delivery: Delivery,
        limits: StoreLimits,
    ) -> None:
        self._inboxes = inboxes
        self._groups = groups
        self._routes = routes
        self._audiences = audiences
        self._delivery = delivery
        self._limits = limits

    def create(self, creation: CreateGroup) -> GroupOutcome:
        """Create the group, and the sender's route to it."""
        sender = self._inboxes.get(creation.sender)
        route = Route(relay=creation.relay, group_id=creation.group_id)
        roles = initial_roles(creation)
        refused = sender.refusal or self._refuse_creation(creation, len(roles))
        refused = refused or self._routes.refusal(sender, creation.channel, route)
        if refused is not None:
            return GroupOutcome(refused)
        self._inboxes.prefetch(roles)
        members = {
            device_id: role for device_id, role in roles.items() if self._refuse_member(device_id) is None
        }
        wanting = {
            device_id
            for device_id in members
            if device_id == creation.sender or self._is_wanted(creation, device_id)
        }
        told = self._tell_state(creation, relay=creation.relay, revision=1, members=members)
        group = self._groups.create(
            creation.group_id, members, wanting, relay=creation.relay, created_at=creation.created_at
        )
        self._routes.store(creation.sender, sender, creation.channel, route)
        # Those that were left out of the group are refused by name here.
        return GroupOutcome(None, self._notify(creation, tuple(sorted(roles)), group), told=told)

    def _refuse_creation(self, creation: CreateGroup, members: int) -> RefusalReason | None:
        if self._delivery.disk_is_low:
            # Its notice would reach nobody, and a second creation would be refused.
            return RefusalReason.DISK_LOW
        if self._groups.get(creation.group_id) is not None:
            return RefusalReason.GROUP_EXISTS
        if members > self._limits.max_group_members:
            return RefusalReason.GROUP_FULL
        if self._groups.owned_by(creation.sender) >= self._limits.max_owned_groups:
            return RefusalReason.TOO_MANY_ROUTES
        return None

    def invite(self, invitation: InviteMember) -> GroupOutcome:
        """Add a member."""
        group = self._groups.get(invitation.group_id)
        members = None if group is None else group.members
        refused = self._refuse_sender(invitation.sender)
        if refused is None and group is not None and group.home is not None:
            return self._forward(invitation, group, group.home)
        refused = (
            refused
            or (RefusalReason.DISK_LOW if self._delivery.disk_is_low else None)
            or refuse_invitation(members, invitation, self._limits.max_group_members)
            or self._refuse_member(invitation.device_id)
            or self._refuse_channel(invitation)
        )
        if refused is not None or group is None:
            return GroupOutcome(refused)
        wanted = self._is_wanted(invitation, invitation.device_id)
        self._groups.add(group, invitation.device_id, grantable(invitation.role), accepted=wanted)
        self._groups.advance(group, group.revision + 1)
        told = self._tell_state(invitation, relay=group.relay, revision=group.revision, members=group.members)
        return GroupOutcome(None, self._notify(invitation, group.device_ids(), group), told=told)

    def change(self, change: ChangeGroup) -> GroupOutcome:
        """Remove a member, change a role, or hand the group over."""
        group = self._groups.get(change.group_id)
        members = None if group is None else group.members
        refused = self._refuse_sender(change.sender)
        if refused is None and group is not None and group.home is not None:
            return self._forward(change, group, group.home)
        refused = refused or refuse_change(members, change) or self._refuse_channel(change)
        if refused is None and change.action is GroupAction.TRANSFER:
            # A group whose owner cannot connect could never get another one.
            refused = self._refuse_member(change.device_id)
        if refused is not None or group is None:
            return GroupOutcome(refused)
        told = self._tell_state(
            change,
            relay=group.relay,
            revision=group.revision + 1,
            members=changed_members(group.members, change),
            before=group.members,
        )
        notice = self._notify(change, group.device_ids(), group)
        if change.action is GroupAction.TRANSFER:
            self._groups.set_role(group, change.sender, GroupRole.CO_OWNER)
            self._groups.set_role(group, change.device_id, GroupRole.OWNER)
        elif change.action is GroupAction.SET_ROLE:
            assert change.role is not None, "check_batch was called"
            self._groups.set_role(group, change.device_id, change.role)
        elif len(group.members) == 1:
            self._routes.forget_deleted(self._groups.delete(group))
            return GroupOutcome(None, notice, told=told)
        else:
            self._groups.remove(group, change.device_id)
        self._groups.advance(group, group.revision + 1)
        return GroupOutcome(None, notice, told=told)

    # -- other servers ---------------------------------------------------------------------------------

    def _tell_state(
        self,
        operation: CreateGroup | InviteMember | ChangeGroup,
        *,
        relay: bool,
        revision: int,
        members: Members,
        before: Members | None = None,
    ) -> tuple[str, ...]:
        """Tell the servers of members, and of those who were, who is in the group from now on.

        What they are told first is what notices and messages that follow are held against.
        """
        present = _domains(members)
        domains = present if before is None else present | _domains(before)
        if not domains:
            return ()
        state = {"group_id": operation.group_id, "revision": revision, "relay": relay}
        names = {device_id: members[device_id].value for device_id in sorted(members)}
        told = (
            self._delivery.tell_peer(
                domain,
                GROUP_STATE,
                _json({**state, "members": names if domain in present else {}}),
                operation.expires_at,
            )
            for domain in sorted(domains)
        )
        return tuple(outbox for outbox in told if outbox is not None)

    def _forward(self, operation: InviteMember | ChangeGroup, group: ChatGroup, home: str) -> GroupOutcome:
        """Ask the home of the group, of which there is a replica here; only for members here."""
        if "@" in operation.sender:
            return GroupOutcome(RefusalReason.GROUP_UNKNOWN)
        if operation.sender not in group.members:
            return GroupOutcome(RefusalReason.NOT_MEMBER)
        if (refused := self._refuse_channel(operation)) is not None:
            return GroupOutcome(refused)
        request = {
            "action": "invite" if isinstance(operation, InviteMember) else operation.action.value,
            "group_id": operation.group_id,
            "channel": operation.channel,
            "sender": operation.sender,
            "device": operation.device_id,
            "role": None if operation.role is None else operation.role.value,
            "frame_type": operation.frame_type,
            "notice": operation.notice.hex(),
            "expires_at": operation.expires_at,
        }
        outbox = outbox_of(home)
        message = Submission("", 0, GROUP_REQUEST, _json(request), operation.expires_at, (outbox,))
        outcome = self._delivery.deliver(message, (outbox,), None)
        if outcome.refused:
            return GroupOutcome(outcome.refused[0].reason)
        return GroupOutcome(None, told=(outbox,), forwarded=True)

    # -- rules -----------------------------------------------------------------------------------------

    def _refuse_sender(self, device_id: str) -> RefusalReason | None:
        # One of another server is known by being a member.
        return None if "@" in device_id else self._inboxes.get(device_id).refusal

    def _refuse_member(self, device_id: str) -> RefusalReason | None:
        """Why the device may not come in."""
        if "@" not in device_id:
            return self._inboxes.get(device_id).refusal
        return None if self._delivery.takes_peer(device_id) else RefusalReason.UNKNOWN_DOMAIN

    def _is_wanted(self, operation: CreateGroup | InviteMember, device_id: str) -> bool:
        """Whether the device is taken to agree to its membership."""
        return "@" not in device_id and not self._audiences.is_stranger(
            operation.sender, self._inboxes.get(device_id), operation.channel
        )

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
        message = Submission(
            operation.sender,
            operation.channel,
            operation.frame_type,
            operation.notice,
            operation.expires_at,
            recipients,
        )
        return self._delivery.deliver(message, recipients, group)


def _domains(members: Members) -> set[str]:
    """The other servers with members."""
    return {domain for device_id in members if (domain := domain_of(device_id)) is not None}


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
