"""Replicas of groups that belong to other servers: made like what their homes say."""

from commucat_storage.chat_group import ChatGroup
from commucat_storage.inbox import GroupOutcome, RefusalReason, ReplaceReplica
from commucat_storage.limits import StoreLimits
from commucat_storage.ports import ChatGroups, Inboxes
from commucat_storage.records import GroupRole
from commucat_storage.routes import Routes

_UNCHANGED = GroupOutcome(None)


class Replicas:
    """Applies what homes say in the open transaction."""

    def __init__(self, inboxes: Inboxes, groups: ChatGroups, routes: Routes, limits: StoreLimits) -> None:
        self._inboxes = inboxes
        self._groups = groups
        self._routes = routes
        self._limits = limits

    def replace(self, state: ReplaceReplica) -> GroupOutcome:
        """Make, change or end the replica.

        Devices here that come in have not agreed to it: whoever is in the group is a stranger to them until
        they join it, as after an invitation by a stranger.
        """
        replica = self._groups.get(state.group_id)
        if replica is not None and (replica.home != state.home or replica.revision > state.revision):
            return GroupOutcome(RefusalReason.GROUP_EXISTS)
        if replica is not None and replica.revision == state.revision:
            return _UNCHANGED
        if len(state.members) > self._limits.max_group_members:
            return GroupOutcome(RefusalReason.GROUP_FULL)
        members = self._members(state)
        if all("@" in device_id for device_id in members):
            if replica is not None:
                self._routes.forget_deleted(self._groups.delete(replica))
        elif replica is None:
            self._groups.create(
                state.group_id,
                members,
                set(),
                relay=state.relay,
                created_at=state.created_at,
                home=state.home,
                revision=state.revision,
            )
        else:
            self._change(replica, members)
            self._groups.advance(replica, state.revision)
        return _UNCHANGED

    def _members(self, state: ReplaceReplica) -> dict[str, GroupRole]:
        self._inboxes.prefetch(device_id for device_id, _ in state.members if "@" not in device_id)
        return {
            device_id: role
            for device_id, role in state.members
            if "@" in device_id or self._inboxes.get(device_id).known
        }

    def _change(self, replica: ChatGroup, members: dict[str, GroupRole]) -> None:
        before = dict(replica.members)
        for device_id in before:
            if device_id not in members:
                self._groups.remove(replica, device_id)
        # The owner last: there is never more than one.
        for device_id, role in sorted(members.items(), key=lambda each: each[1] is GroupRole.OWNER):
            if device_id not in before:
                self._groups.add(replica, device_id, role, accepted=False)
            elif before[device_id] is not role:
                self._groups.set_role(replica, device_id, role)
