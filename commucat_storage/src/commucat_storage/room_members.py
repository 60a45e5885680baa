"""Open rooms in the open transaction of a backend: who is in them, and when they end."""

from collections.abc import Iterable

from commucat_storage.inbox import JoinRoom, RefusalReason
from commucat_storage.limits import StoreLimits
from commucat_storage.ports import ChatGroups, Inboxes
from commucat_storage.records import GroupRole
from commucat_storage.rooms import room_id


class RoomMembers:
    """The members of rooms; the routes that lead there are the caller's.

    In a room are those that joined it, and those that they named. It ends when the last of the former has
    left: a device has a bounded number of routes, so whoever makes rooms cannot leave any number of them
    behind, full of others.
    """

    def __init__(self, inboxes: Inboxes, groups: ChatGroups, limits: StoreLimits) -> None:
        self._inboxes = inboxes
        self._groups = groups
        self._limits = limits

    def refusal(self, joining: JoinRoom) -> RefusalReason | None:
        """Whether the room takes the device and those it names."""
        room = self._groups.get(room_id(joining.channel))
        present = len(room.members) if room is not None else 0
        newcomers = len(self._newcomers(joining, room.members if room is not None else ()))
        # A limit that was lowered since does not keep out those who are in.
        if newcomers and present + newcomers > self._limits.max_group_members:
            return RefusalReason.GROUP_FULL
        return None

    def enter(self, joining: JoinRoom) -> None:
        """Add the device and those it names, as was found to be allowed; the room begins with its first."""
        device_id, group_id = joining.device_id, room_id(joining.channel)
        room = self._groups.get(group_id)
        if room is None:
            members = dict.fromkeys(self._newcomers(joining, ()), GroupRole.MEMBER)
            self._groups.create(
                group_id, members, {device_id}, relay=joining.relay, created_at=joining.created_at
            )
            return
        for newcomer in self._newcomers(joining, room.members):
            self._groups.add(room, newcomer, GroupRole.MEMBER, accepted=newcomer == device_id)
        self._groups.accept(device_id, self._inboxes.get(device_id), group_id)

    def leave(self, device_id: str, channel: int) -> list[tuple[str, int]]:
        """Take the device out, if it is in; (device id, channel) of routes that ended with the room."""
        group_id = room_id(channel)
        if group_id not in self._inboxes.get(device_id).groups:
            return []
        room = self._groups.get(group_id)
        assert room is not None, "a device is in groups that exist"
        self._groups.remove(room, device_id)
        if self._groups.is_accepted(room):
            return []
        return self._groups.delete(room)

    def _newcomers(self, joining: JoinRoom, present: Iterable[str]) -> list[str]:
        named = dict.fromkeys((joining.device_id, *joining.members))
        self._inboxes.prefetch(named)
        inside = frozenset(present)
        return [each for each in named if each not in inside and self._inboxes.get(each).refusal is None]
