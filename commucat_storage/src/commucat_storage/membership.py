"""Who may change a group, and how: rules without a database, the same for every backend."""

from collections.abc import Mapping

from commucat_storage.inbox import ChangeGroup, CreateGroup, GroupAction, InviteMember, RefusalReason
from commucat_storage.records import GroupRole

_RANK = {GroupRole.MEMBER: 0, GroupRole.ADMIN: 1, GroupRole.CO_OWNER: 2, GroupRole.OWNER: 3}

Members = Mapping[str, GroupRole]


def is_below(role: GroupRole, other: GroupRole) -> bool:
    """Whether ``role`` is strictly below ``other``: owner > co-owner > admin > member."""
    return _RANK[role] < _RANK[other]


def grantable(role: GroupRole) -> GroupRole:
    """The role that is granted when ``role`` is asked for: nobody becomes owner by being named so."""
    return GroupRole.ADMIN if role is GroupRole.OWNER else role


def initial_roles(creation: CreateGroup) -> dict[str, GroupRole]:
    """The members that a creation names, and its sender, who is the owner."""
    roles = {device_id: grantable(role) for device_id, role in creation.roles}
    roles[creation.sender] = GroupRole.OWNER
    return roles


def changed_members(members: Members, change: ChangeGroup) -> dict[str, GroupRole]:
    """The members after a change that was found to be allowed; nobody when the last one has left."""
    after = dict(members)
    match change.action:
        case GroupAction.TRANSFER:
            after |= {change.sender: GroupRole.CO_OWNER, change.device_id: GroupRole.OWNER}
        case GroupAction.SET_ROLE:
            assert change.role is not None, "check_batch was called"
            after[change.device_id] = change.role
        case GroupAction.LEAVE | GroupAction.REMOVE:
            del after[change.device_id]
    return after


def refuse_invitation(
    members: Members | None, invitation: InviteMember, max_members: int
) -> RefusalReason | None:
    """Why the invitation is refused by the group's rules; ``members`` is None without such a group."""
    if members is None:
        return RefusalReason.GROUP_UNKNOWN
    own = members.get(invitation.sender)
    if own is None:
        return RefusalReason.NOT_MEMBER
    if not is_below(grantable(invitation.role), own):
        return RefusalReason.NOT_ALLOWED
    if invitation.device_id in members:
        return RefusalReason.ALREADY_MEMBER
    if len(members) >= max_members:
        return RefusalReason.GROUP_FULL
    return None


def refuse_change(members: Members | None, change: ChangeGroup) -> RefusalReason | None:
    """Why the change is refused by the group's rules; ``members`` is None without such a group."""
    if members is None:
        return RefusalReason.GROUP_UNKNOWN
    own, theirs = members.get(change.sender), members.get(change.device_id)
    if own is None or theirs is None:
        return RefusalReason.NOT_MEMBER
    match change.action:
        case GroupAction.LEAVE:
            allowed = own is not GroupRole.OWNER or len(members) == 1
        case GroupAction.REMOVE:
            allowed = is_below(theirs, own)
        case GroupAction.SET_ROLE:
            allowed = change.role is not None and is_below(theirs, own) and is_below(change.role, own)
        case GroupAction.TRANSFER:
            allowed = own is GroupRole.OWNER and change.device_id != change.sender
    return None if allowed else RefusalReason.NOT_ALLOWED
