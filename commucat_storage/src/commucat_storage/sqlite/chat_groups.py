"""Groups of devices as the writer thread remembers them, and the statements that change them."""

import json
import sqlite3

from commucat_storage.chat_group import ChatGroup
from commucat_storage.device_inbox import Inbox
from commucat_storage.records import GroupRole
from commucat_storage.sqlite.inboxes import InboxCache


class ChatGroupCache:
    """Groups by id, loaded on demand; two generations, as :class:`InboxCache` has.

    The methods that change a group write to the database at once.
    """

    def __init__(self, connection: sqlite3.Connection, inboxes: InboxCache, capacity: int) -> None:
        self._connection = connection
        self._inboxes = inboxes
        self._capacity = capacity
        self._young: dict[str, ChatGroup] = {}
        self._old: dict[str, ChatGroup] = {}
        self._weight = 0

    def get(self, group_id: str) -> ChatGroup | None:
        """The group, or None when there is none; what does not exist is not remembered."""
        found = self._young.get(group_id)
        if found is None:
            found = self._old.pop(group_id, None) or self._load(group_id)
            if found is not None:
                self._keep(found)
        return found

    def clear(self) -> None:
        """Drop everything: a rollback, or another process has written."""
        self._young = {}
        self._old = {}
        self._weight = 0

    def make_room(self) -> None:
        """Drop the old generation when the young one is full."""
        if self._weight >= self._capacity:
            self._old = self._young
            self._young = {}
            self._weight = 0

    # -- changing --------------------------------------------------------------------------------

    def create(
        self,
        group_id: str,
        members: dict[str, GroupRole],
        accepting: set[str],
        *,
        relay: bool,
        created_at: int,
        home: str | None = None,
        revision: int = 1,
    ) -> ChatGroup:
        """Insert a group that does not exist yet; ``accepting`` are the members that want to be in it."""
        self._connection.execute(
            "INSERT INTO chat_group (group_id, relay, created_at, home, revision) VALUES (?, ?, ?, ?, ?)",
            (group_id, int(relay), created_at, home, revision),
        )
        rows = [[device_id, role.value, device_id in accepting] for device_id, role in members.items()]
        self._connection.execute(
            "INSERT INTO group_member SELECT ?, value ->> 0, value ->> 1, ?, value ->> 2 FROM json_each(?)",
            (group_id, created_at, json.dumps(rows)),
        )
        group = ChatGroup(group_id, members, home=home, revision=revision, relay=relay)
        self._keep(group)
        for device_id in members:
            self._remember(device_id, group_id, accepted=device_id in accepting)
        return group

    def add(self, group: ChatGroup, device_id: str, role: GroupRole, *, accepted: bool) -> None:
        """Insert one more member; ``accepted``: see the table."""
        self._connection.execute(
            "INSERT INTO group_member VALUES (?, ?, ?, unixepoch(), ?)",
            (group.group_id, device_id, role.value, int(accepted)),
        )
        group.members[device_id] = role
        group.changed()
        self._weight += 1
        self._remember(device_id, group.group_id, accepted=accepted)

    def remove(self, group: ChatGroup, device_id: str) -> None:
        """Delete a member."""
        self._connection.execute(
            "DELETE FROM group_member WHERE group_id = ? AND device_id = ?", (group.group_id, device_id)
        )
        del group.members[device_id]
        group.changed()
        self._forget(device_id, group.group_id)

    def advance(self, group: ChatGroup, revision: int) -> None:
        """The members were changed: write the new revision."""
        self._connection.execute(
            "UPDATE chat_group SET revision = ? WHERE group_id = ?", (revision, group.group_id)
        )
        group.revision = revision

    def accept(self, device_id: str, inbox: Inbox, group_id: str) -> None:
        """The member has joined the group itself: from now on its members are no strangers to it."""
        if group_id not in inbox.accepted_groups:
            self._connection.execute(
                "UPDATE group_member SET accepted = 1 WHERE group_id = ? AND device_id = ?",
                (group_id, device_id),
            )
            inbox.accepted_groups.add(group_id)

    def set_role(self, group: ChatGroup, device_id: str, role: GroupRole) -> None:
        """Change a member's role. There is never more than one owner: lower the old one first."""
        self._connection.execute(
            "UPDATE group_member SET role = ? WHERE group_id = ? AND device_id = ?",
            (role.value, group.group_id, device_id),
        )
        group.members[device_id] = role

    def delete(self, group: ChatGroup) -> list[tuple[str, int]]:
        """Delete the group with its members and the routes to it; (device id, channel) of the routes."""
        routes = self._connection.execute(
            "SELECT device_id, channel FROM route WHERE group_id = ?", (group.group_id,)
        ).fetchall()
        self._connection.execute("DELETE FROM chat_group WHERE group_id = ?", (group.group_id,))
        self._young.pop(group.group_id, None)
        self._old.pop(group.group_id, None)
        for device_id in group.members:
            self._forget(device_id, group.group_id)
        return routes

    def is_accepted(self, group: ChatGroup) -> bool:
        """Whether any of the members has joined the group itself."""
        query = "SELECT 1 FROM group_member WHERE group_id = ? AND accepted LIMIT 1"
        return self._connection.execute(query, (group.group_id,)).fetchone() is not None

    def owned_by(self, device_id: str) -> int:
        """How many groups the device owns."""
        [count] = self._connection.execute(
            "SELECT count(*) FROM group_member WHERE device_id = ? AND role = 'owner'", (device_id,)
        ).fetchone()
        return int(count)

    def _remember(self, device_id: str, group_id: str, *, accepted: bool) -> None:
        inbox = self._inboxes.remembered(device_id)
        if inbox is not None:
            inbox.groups.add(group_id)
            if accepted:
                inbox.accepted_groups.add(group_id)
            self._inboxes.weigh(1)

    def _forget(self, device_id: str, group_id: str) -> None:
        inbox = self._inboxes.remembered(device_id)
        if inbox is not None:
            inbox.groups.discard(group_id)
            inbox.accepted_groups.discard(group_id)

    # -- loading ---------------------------------------------------------------------------------

    def _keep(self, group: ChatGroup) -> None:
        self._young[group.group_id] = group
        self._weight += 1 + len(group.members)

    def _load(self, group_id: str) -> ChatGroup | None:
        rows = self._connection.execute(
            "SELECT m.device_id, m.role, g.home, g.revision, g.relay FROM group_member AS m "
            "JOIN chat_group AS g ON g.group_id = m.group_id WHERE m.group_id = ?",
            (group_id,),
        ).fetchall()
        if not rows:
            # Every group has an owner: without members there is no group.
            return None
        _, _, home, revision, relay = rows[0]
        members = {device_id: GroupRole(role) for device_id, role, *_ in rows}
        return ChatGroup(group_id, members, home=home, revision=revision, relay=bool(relay))
