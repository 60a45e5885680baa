"""What a process remembers of devices and groups between transactions, and how it knows that it is right.

Each device has a counter (``inbox_offset.relations``) that every change of its status, routes, groups or
friends raises, and each group one for its members (``chat_group.version``). A transaction locks the devices
first and then compares, so what it uses cannot be changed by another process before it has committed:
whoever changes a group locks all its members.
"""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import attrs

from commucat_storage.chat_group import ChatGroup
from commucat_storage.device_inbox import Inbox
from commucat_storage.inbox import RefusalReason
from commucat_storage.marks import Name
from commucat_storage.postgres.connection import Connection, Row
from commucat_storage.records import GroupRole, Route

T = TypeVar("T")

INBOX_COLUMNS = """entity_id, inbox, epoch, next_number, confirmed, rows, bytes, shared, earliest,
    stranger_rows, stranger_bytes, reports, owner_node, relations"""
_LOCK = f"""SELECT {INBOX_COLUMNS} FROM inbox_offset
WHERE entity_id = ANY ($1) ORDER BY entity_id FOR NO KEY UPDATE"""  # noqa: S608


@attrs.define
class Relations:
    """A device's status, owner, routes, groups and friends, as they were when its counter was ``version``."""

    version: int
    refusal: RefusalReason | None
    user_id: str
    routes: dict[int, Route] = attrs.Factory(dict)
    route_members: int = 0
    groups: set[str] = attrs.Factory(set)
    accepted_groups: set[str] = attrs.Factory(set)
    friends: frozenset[str] = frozenset()
    open: bool = False
    """Of an outbox: whether it takes messages."""


@attrs.define
class KnownGroup:
    """The members of a group, as they were when its counter was ``version``."""

    version: int
    group: ChatGroup


class Generations(Generic[T]):
    """A cache in two generations: when the young one is full it becomes the old one, which is dropped."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._young: dict[str, T] = {}
        self._old: dict[str, T] = {}
        self._weight = 0

    def get(self, name: str) -> T | None:
        """What is remembered."""
        found = self._young.get(name)
        return self._old.get(name) if found is None else found

    def put(self, name: str, value: T, weight: int) -> None:
        """Remember; ``weight`` counts against the capacity."""
        if self._weight >= self._capacity:
            self._old, self._young, self._weight = self._young, {}, 0
        self._old.pop(name, None)
        self._young[name] = value
        self._weight += weight

    def forget(self, names: Iterable[str]) -> None:
        """Drop what has changed."""
        for name in names:
            self._young.pop(name, None)
            self._old.pop(name, None)


async def lock_inboxes(
    connection: Connection,
    device_ids: Iterable[str],
    cache: Generations[Relations],
    see: Callable[[Row], None],
) -> dict[str, Inbox]:
    """Lock the inboxes of the devices, in one order for all processes, and give them with their relations.

    A device that does not exist has an inbox that refuses. ``see`` is called with every row.
    """
    wanted = sorted(device_ids)
    rows = await connection.fetch(_LOCK, wanted)
    # Kept here too: what is put into the cache below may push out what was found in it.
    relations: dict[str, Relations] = {}
    stale: dict[str, int] = {}
    for row in rows:
        see(row)
        known = known_relations(row, cache)
        if known is None:
            stale[row[0]] = row[-1]
        else:
            relations[row[0]] = known
    if stale:
        loaded = await _load_relations(connection, stale)
        relations |= loaded
        for device_id, each in loaded.items():
            cache.put(device_id, each, 1 + each.route_members + len(each.groups) + len(each.friends))
    inboxes = {row[0]: inbox_of(row, relations[row[0]]) for row in rows}
    for device_id in wanted:
        if device_id not in inboxes:
            inboxes[device_id] = Inbox(RefusalReason.UNKNOWN_DEVICE)
    return inboxes


async def load_groups(
    connection: Connection, group_ids: Iterable[str], cache: Generations[KnownGroup]
) -> dict[str, ChatGroup | None]:
    """Groups by id, None for one that does not exist. Call it when their members are locked."""
    wanted = list(group_ids)
    rows = await connection.fetch(
        "SELECT group_id, version, home, revision, relay FROM chat_group WHERE group_id = ANY ($1)", wanted
    )
    versions: dict[str, int] = {row[0]: row[1] for row in rows}
    others = {row[0]: row[2:] for row in rows}
    groups: dict[str, ChatGroup | None] = dict.fromkeys(wanted)
    members: dict[str, dict[str, GroupRole]] = {}
    for group_id, version in versions.items():
        known = cache.get(group_id)
        if known is not None and known.version == version:
            groups[group_id] = known.group
        else:
            members[group_id] = {}
    if members:
        for group_id, device_id, role in await connection.fetch(
            "SELECT group_id, device_id, role FROM group_member WHERE group_id = ANY ($1)", list(members)
        ):
            members[group_id][device_id] = GroupRole(role)
    for group_id, roles in members.items():
        # A group whose last members were deleted with their accounts is none.
        if roles:
            home, revision, relay = others[group_id]
            group = ChatGroup(group_id, roles, home=home, revision=revision, relay=relay)
            groups[group_id] = group
            cache.put(group_id, KnownGroup(versions[group_id], group), 1 + len(roles))
    return groups


async def siblings_of(
    connection: Connection, user_ids: Iterable[str], cache: Generations[tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """The active devices of the users, in a fixed order. Call it when those that are known are locked.

    What is put into the cache is only a guess for the next time: no counter tells that it is right.
    """
    wanted = list(user_ids)
    devices: dict[str, list[str]] = {user_id: [] for user_id in wanted}
    for user_id, device_id in await connection.fetch(
        "SELECT user_id, opaque_id FROM user_device WHERE user_id = ANY ($1) AND status = 'active'", wanted
    ):
        devices[user_id].append(device_id)
    siblings = {user_id: tuple(sorted(each)) for user_id, each in devices.items()}
    for user_id, each in siblings.items():
        cache.put(user_id, each, 1 + len(each))
    return siblings


async def stored_names(connection: Connection, names: Iterable[Name]) -> dict[Name, bool]:
    """Which of the names of messages that are stored once are stored. Call it when everything is locked."""
    wanted = list(names)
    stored = dict.fromkeys(wanted, False)
    for scope, key in await connection.fetch(
        "SELECT i.scope, i.key FROM unnest($1::text[], $2::text[]) AS n (scope, key) "
        "JOIN idempotency AS i ON i.key = n.key AND i.scope = n.scope",
        [scope for scope, _ in wanted],
        [key for _, key in wanted],
    ):
        stored[scope, key] = True
    return stored


async def owned_groups(connection: Connection, device_ids: Iterable[str]) -> dict[str, int]:
    """How many groups each of the devices owns."""
    counts = dict.fromkeys(device_ids, 0)
    for device_id, count in await connection.fetch(
        "SELECT device_id, count(*) FROM group_member "
        "WHERE role = 'owner' AND device_id = ANY ($1) GROUP BY 1",
        list(counts),
    ):
        counts[device_id] = count
    return counts


def known_relations(row: Row, cache: Generations[Relations]) -> Relations | None:
    """What is remembered of the device, if it is right for its row."""
    known = cache.get(row[0])
    return known if known is not None and known.version == row[-1] else None


def inbox_of(row: Row, relations: Relations) -> Inbox:
    """The inbox of a row of :data:`INBOX_COLUMNS`."""
    inbox = Inbox(relations.refusal)
    _, inbox.inbox, inbox.epoch, inbox.next_number, inbox.confirmed, *counts = row
    inbox.base = inbox.inbox << 32
    inbox.rows, inbox.bytes, inbox.shared, inbox.earliest, *strangers = counts
    inbox.stranger_rows, inbox.stranger_bytes, inbox.reports, inbox.owner, _ = strangers
    # Shared with the cache: whoever changes them makes the cache forget the device.
    inbox.routes = relations.routes
    inbox.route_members = relations.route_members
    inbox.user_id = relations.user_id
    inbox.groups = relations.groups
    inbox.accepted_groups = relations.accepted_groups
    inbox.friends = relations.friends
    inbox.open = relations.open
    return inbox


async def _load_relations(connection: Connection, versions: dict[str, int]) -> dict[str, Relations]:
    loaded: dict[str, Relations] = {}
    outboxes = [name for name in versions if name[:1] == "@"]
    if outboxes:
        for name, is_open in await connection.fetch(
            "SELECT wanted.name, coalesce(x.open, false) FROM unnest($1::text[]) AS wanted (name) "
            "LEFT JOIN outbox AS x ON '@' || x.domain = wanted.name",
            outboxes,
        ):
            loaded[name] = Relations(versions[name], RefusalReason.UNKNOWN_DEVICE, "", open=is_open)
        if len(outboxes) == len(versions):
            return loaded
    wanted = [name for name in versions if name not in loaded]
    for device_id, status, user_id in await connection.fetch(
        "SELECT opaque_id, status, user_id FROM user_device WHERE opaque_id = ANY ($1)", wanted
    ):
        refusal = None if status == "active" else RefusalReason.REVOKED
        loaded[device_id] = Relations(versions[device_id], refusal, user_id)
    for device_id, channel, relay, members, group_id in await connection.fetch(
        "SELECT device_id, channel, relay, members, group_id FROM route WHERE device_id = ANY ($1)", wanted
    ):
        relations = loaded[device_id]
        relations.routes[channel] = Route(members=frozenset(members), relay=relay, group_id=group_id)
        relations.route_members += len(members)
    for device_id, group_id, accepted in await connection.fetch(
        "SELECT device_id, group_id, accepted FROM group_member WHERE device_id = ANY ($1)", wanted
    ):
        loaded[device_id].groups.add(group_id)
        if accepted:
            loaded[device_id].accepted_groups.add(group_id)
    for device_id, friend_ids in await connection.fetch(
        "SELECT d.opaque_id, array_agg(f.friend_id) FROM user_device AS d "
        "JOIN friend AS f ON f.user_id = d.user_id WHERE d.opaque_id = ANY ($1) GROUP BY 1",
        wanted,
    ):
        loaded[device_id].friends = frozenset(friend_ids)
    return loaded
