"""Changes of groups of devices: decided, made, and told to the members in the same transaction."""

from commucat_storage.audience import Audiences
from commucat_storage.chat_group import ChatGroup
from commucat_storage.delivery import Delivery
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
from commucat_storage.membership import grantable, initial_roles, refuse_change, refuse_invitation
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
        refused = (
            self._inboxes.get(invitation.sender).refusal
            or (RefusalReason.DISK_LOW if self._delivery.disk_is_low else None)
            or refuse_invitation(members, invitation, self._limits.max_group_members)
            or self._inboxes.get(invitation.device_id).refusal
            or self._refuse_channel(invitation)
        )
        if refused is not None or group is None:
            return GroupOutcome(refused)
        wanted = self._is_wanted(invitation, invitation.device_id)
        self._groups.add(group, invitation.device_id, grantable(invitation.role), accepted=wanted)
        return GroupOutcome(None, self._notify(invitation, group.device_ids(), group))

    def change(self, change: ChangeGroup) -> GroupOutcome:
        """Remove a member, change a role, or hand the group over."""
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
        return not self._audiences.is_stranger(
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
