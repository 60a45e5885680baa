"""The state that one transaction works on: rows that are locked in the database, held in memory.

The rules ask for a device or a group that was not loaded by raising :class:`NotLoadedError`; then the
transaction is rolled back and begun again with it. Which ones are needed is guessed so well beforehand
that this happens when a device is new to this process, and when other processes have changed something.
"""

from collections.abc import Iterable

import attrs

from commucat_storage.chat_group import ChatGroup
from commucat_storage.device_inbox import ELSEWHERE, Inbox, is_elsewhere
from commucat_storage.federation import domain_of, outbox_of
from commucat_storage.marks import Marks, Name
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.queue_sql import LATEST
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.records import GroupRole, Route
from commucat_storage.routes import Routes


class NotLoadedError(Exception):
    """The transaction must be begun again with these; ``stepwise``: writing after each operation."""

    def __init__(
        self,
        *,
        devices: Iterable[str] = (),
        groups: Iterable[str] = (),
        ending: Iterable[str] = (),
        users: Iterable[str] = (),
        names: Iterable[Name] = (),
        stepwise: bool = False,
    ) -> None:
        super().__init__("needs more of the database")
        self.devices = set(devices)
        self.groups = set(groups)
        self.ending = set(ending)
        self.users = set(users)
        self.names = set(names)
        self.stepwise = stepwise


class Changes:
    """What operations have changed of routes and groups, as statements in their order."""

    def __init__(self) -> None:
        self.devices: set[str] = set()
        """Devices of which what is remembered elsewhere is no longer right."""
        self.groups: set[str] = set()
        """The same of groups."""
        self._statements: list[tuple[str, list[tuple[object, ...]]]] = []

    def add(self, statement: str, *values: object) -> None:
        """Remember a statement; equal ones in a row are sent together."""
        if self._statements and self._statements[-1][0] == statement:
            self._statements[-1][1].append(values)
        else:
            self._statements.append((statement, [values]))

    async def write(self, connection: Connection) -> None:
        """Send what was remembered."""
        statements, self._statements = self._statements, []
        for statement, rows in statements:
            await connection.executemany(statement, rows)

    async def mark(self, connection: Connection) -> None:
        """Tell other processes, which compare the counters, to forget what they remember."""
        if self.devices:
            await connection.execute(
                "UPDATE inbox_offset SET relations = relations + 1 WHERE entity_id = ANY ($1)",
                sorted(self.devices),
            )
        if self.groups:
            await connection.execute(
                "UPDATE chat_group SET version = version + 1 WHERE group_id = ANY ($1)", sorted(self.groups)
            )


class LoadedMarks(Marks):
    """Names of messages that are stored once, of those that were looked for."""

    def __init__(self, stored: dict[Name, bool]) -> None:
        super().__init__()
        self._seen |= stored

    def _look(self, names: Iterable[Name]) -> Iterable[Name]:
        raise NotLoadedError(names=names)

    async def write(self, connection: Connection) -> None:
        """Write what is new. Another process that was quicker makes this fail, and the transaction begin
        again."""
        if self.new:
            new, self.new = self.new, []
            await connection.execute(
                f"INSERT INTO idempotency (key, scope, expires_at) SELECT n.key, n.scope, "  # noqa: S608
                f"CASE WHEN n.expires_at < {LATEST} THEN to_timestamp(n.expires_at) ELSE 'infinity' END "
                "FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n (key, scope, expires_at) "
                "ORDER BY n.key, n.scope",
                [each.key for each in new],
                [each.scope for each in new],
                [each.expires_at for each in new],
            )


class LoadedInboxes:
    """Inboxes of the devices that are locked, and the devices of users that were asked for."""

    def __init__(self, inboxes: dict[str, Inbox], siblings: dict[str, tuple[str, ...]]) -> None:
        self._inboxes = inboxes
        self._siblings = siblings

    def get(self, device_id: str) -> Inbox:
        """Raises :class:`NotLoadedError`."""
        found = self._inboxes.get(device_id)
        if found is None:
            if is_elsewhere(device_id):
                return ELSEWHERE
            raise NotLoadedError(devices=(device_id,))
        return found

    def prefetch(self, device_ids: Iterable[str]) -> None:
        """Raises :class:`NotLoadedError` with all that are missing."""
        missing = [device_id for device_id in device_ids if device_id not in self._inboxes]
        if any("@" in device_id for device_id in missing):
            # Of a device of another server there is only the outbox of its domain.
            names = {outbox_of(domain_of(each) or "") if is_elsewhere(each) else each for each in missing}
            missing = [name for name in names if name not in self._inboxes]
        if missing:
            raise NotLoadedError(devices=missing)

    def siblings(self, user_id: str) -> tuple[str, ...]:
        """Raises :class:`NotLoadedError`."""
        found = self._siblings.get(user_id)
        if found is None:
            raise NotLoadedError(users=(user_id,))
        return found

    def remembered(self, device_id: str) -> Inbox | None:
        """The inbox if it is loaded."""
        return self._inboxes.get(device_id)

    def weigh(self, added: int) -> None:
        """Nothing is kept for longer than the transaction."""

    def items(self) -> Iterable[tuple[str, Inbox]]:
        """Everything that is loaded."""
        return self._inboxes.items()


@attrs.define
class LoadedGroups:
    """Groups by id, None for one that does not exist; their changes go to ``changes``.

    Whoever changes a group has locked all its members: of two processes that change one, the second sees
    what the first did.
    """

    groups: dict[str, ChatGroup | None]
    owned: dict[str, int]
    """How many groups a device owns, of those that may create one."""
    ending: set[str]
    """Groups that may be deleted: whoever has a route to one of them is locked."""
    inboxes: LoadedInboxes
    changes: Changes

    def get(self, group_id: str) -> ChatGroup | None:
        """Raises :class:`NotLoadedError`."""
        try:
            return self.groups[group_id]
        except KeyError:
            raise NotLoadedError(groups=(group_id,)) from None

    def is_accepted(self, group: ChatGroup) -> bool:
        self.inboxes.prefetch(group.members)
        return any(group.group_id in self.inboxes.get(each).accepted_groups for each in group.members)

    def owned_by(self, device_id: str) -> int:
        return self.owned[device_id]

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
        # An open room has none.
        owners = [device_id for device_id, role in members.items() if role is GroupRole.OWNER]
        self.changes.add(
            "INSERT INTO chat_group (group_id, owner_device, relay, created_at, home, revision) "
            "VALUES ($1, $2, $3, to_timestamp($4::float8), $5, $6)",
            group_id,
            owners[0] if owners else None,
            relay,
            created_at,
            home,
            revision,
        )
        for device_id, role in members.items():
            self.changes.add(
                "INSERT INTO group_member (group_id, device_id, role, joined_at, accepted) "
                "VALUES ($1, $2, $3, to_timestamp($4::float8), $5)",
                group_id,
                device_id,
                role.value,
                created_at,
                device_id in accepting,
            )
            self._remember(device_id, group_id, accepted=device_id in accepting)
        group = ChatGroup(group_id, members, home=home, revision=revision, relay=relay)
        self.groups[group_id] = group
        self.changes.groups.add(group_id)
        for owner in owners:
            self._count_owned(owner, 1)
        return group

    def add(self, group: ChatGroup, device_id: str, role: GroupRole, *, accepted: bool) -> None:
        self.inboxes.prefetch(group.members)
        self.changes.add(
            "INSERT INTO group_member (group_id, device_id, role, joined_at, accepted) "
            "VALUES ($1, $2, $3, now(), $4)",
            group.group_id,
            device_id,
            role.value,
            accepted,
        )
        if role is GroupRole.OWNER:
            self._set_owner(group, device_id)
        self.changes.groups.add(group.group_id)
        group.members[device_id] = role
        group.changed()
        self._remember(device_id, group.group_id, accepted=accepted)

    def remove(self, group: ChatGroup, device_id: str) -> None:
        self.inboxes.prefetch(group.members)
        self.changes.add(
            "DELETE FROM group_member WHERE group_id = $1 AND device_id = $2", group.group_id, device_id
        )
        self.changes.groups.add(group.group_id)
        del group.members[device_id]
        group.changed()
        self._forget(device_id, group.group_id)

    def accept(self, device_id: str, inbox: Inbox, group_id: str) -> None:
        if group_id not in inbox.accepted_groups:
            self.changes.add(
                "UPDATE group_member SET accepted = true WHERE group_id = $1 AND device_id = $2",
                group_id,
                device_id,
            )
            self._remember(device_id, group_id, accepted=True)

    def set_role(self, group: ChatGroup, device_id: str, role: GroupRole) -> None:
        self.inboxes.prefetch(group.members)
        if group.members[device_id] is GroupRole.OWNER:
            self._count_owned(device_id, -1)
        self.changes.add(
            "UPDATE group_member SET role = $3 WHERE group_id = $1 AND device_id = $2",
            group.group_id,
            device_id,
            role.value,
        )
        self.changes.groups.add(group.group_id)
        group.members[device_id] = role
        if role is GroupRole.OWNER:
            self._set_owner(group, device_id)

    def advance(self, group: ChatGroup, revision: int) -> None:
        self.changes.add("UPDATE chat_group SET revision = $2 WHERE group_id = $1", group.group_id, revision)
        self.changes.groups.add(group.group_id)
        group.revision = revision

    def delete(self, group: ChatGroup) -> list[tuple[str, int]]:
        if group.group_id not in self.ending:
            raise NotLoadedError(ending=(group.group_id,))
        self.inboxes.prefetch(group.members)
        self.changes.add("DELETE FROM chat_group WHERE group_id = $1", group.group_id)
        self.changes.groups.add(group.group_id)
        self.groups[group.group_id] = None
        for device_id, role in group.members.items():
            self._forget(device_id, group.group_id)
            if role is GroupRole.OWNER:
                self._count_owned(device_id, -1)
        routes = [
            (device_id, channel)
            for device_id, inbox in self.inboxes.items()
            for channel, route in inbox.routes.items()
            if route.group_id == group.group_id
        ]
        self.changes.devices.update(device_id for device_id, _ in routes)
        return routes

    def _set_owner(self, group: ChatGroup, device_id: str) -> None:
        self.changes.add(
            "UPDATE chat_group SET owner_device = $2 WHERE group_id = $1", group.group_id, device_id
        )
        self._count_owned(device_id, 1)

    def _count_owned(self, device_id: str, change: int) -> None:
        if device_id in self.owned:
            self.owned[device_id] += change

    def _remember(self, device_id: str, group_id: str, *, accepted: bool) -> None:
        if is_elsewhere(device_id):
            return
        self.changes.devices.add(device_id)
        inbox = self.inboxes.get(device_id)
        inbox.groups.add(group_id)
        if accepted:
            inbox.accepted_groups.add(group_id)

    def _forget(self, device_id: str, group_id: str) -> None:
        if is_elsewhere(device_id):
            return
        self.changes.devices.add(device_id)
        inbox = self.inboxes.get(device_id)
        inbox.groups.discard(group_id)
        inbox.accepted_groups.discard(group_id)


class LoadedRoutes(Routes):
    """Routes of the devices that are locked; their changes go to ``changes``."""

    def __init__(
        self, inboxes: LoadedInboxes, groups: LoadedGroups, settings: PostgresSettings, changes: Changes
    ) -> None:
        super().__init__(inboxes, groups, settings)
        self._changes = changes

    def _write(self, device_id: str, channel: int, route: Route) -> None:
        self._changes.devices.add(device_id)
        self._changes.add(
            "INSERT INTO route (device_id, channel, relay, members, group_id) VALUES ($1, $2, $3, $4, $5) "
            "ON CONFLICT (device_id, channel) DO UPDATE SET relay = excluded.relay, "
            "members = excluded.members, group_id = excluded.group_id",
            device_id,
            channel,
            route.relay,
            sorted(route.members),
            route.group_id,
        )

    def _delete(self, device_id: str, channel: int) -> None:
        self._changes.devices.add(device_id)
        self._changes.add("DELETE FROM route WHERE device_id = $1 AND channel = $2", device_id, channel)
