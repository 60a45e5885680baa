"""Transactions that are decided upon what is remembered, and stored by one statement if that was right.

Almost every transaction is one: messages and confirmations of devices that only this process has written to
lately. It costs one round trip. Whatever else there is (changes of routes and groups, devices that are new to
the process, a basis that does not hold) is left to a transaction that locks first.
"""

from collections.abc import Sequence

import attrs

from commucat_storage.applying import Group
from commucat_storage.chat_group import ChatGroup
from commucat_storage.device_inbox import Inbox
from commucat_storage.inbox import RefusalReason
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.entries import Entry, completed
from commucat_storage.postgres.loaded import (
    Changes,
    LoadedGroups,
    LoadedInboxes,
    LoadedMarks,
    LoadedRoutes,
    NotLoadedError,
)
from commucat_storage.postgres.memory import Memory
from commucat_storage.postgres.one_statement import Basis, OneStatement
from commucat_storage.postgres.others import Others
from commucat_storage.postgres.pending import PayloadIds, PostgresPending
from commucat_storage.postgres.plan import Plan
from commucat_storage.postgres.remembered import INBOX_COLUMNS, inbox_of, known_relations
from commucat_storage.postgres.settings import PostgresSettings

_LOOK = f"SELECT {INBOX_COLUMNS} FROM inbox_offset WHERE entity_id = ANY ($1)"  # noqa: S608
_MOST_GUESSES = 4  # of what the rules will ask for


@attrs.frozen
class Decided:
    """A transaction that waits to be stored."""

    statement: OneStatement
    results: list[object]
    inboxes: LoadedInboxes
    others: Others
    memory: Memory

    async def store(self, connection: Connection) -> list[object] | None:
        """The results of the entries; None if the basis does not hold, and nothing is stored.

        It may be called again when the connection was lost: what is stored already is not stored twice.
        """
        if not await self.statement.store(connection):
            return None
        self.memory.standings.keep(self.inboxes.items(), self.memory.relations)
        return self.results


async def decide(
    connection: Connection,
    entries: Sequence[Entry],
    plan: Plan,
    memory: Memory,
    payload_ids: PayloadIds,
    settings: PostgresSettings,
    *,
    disk_is_low: bool,
    node: str | None,
) -> Decided | None:
    """Apply the first entries, as many as make a transaction of bounded size.

    None if they have to be applied under locks. ``plan`` may grow.
    """
    if any(entry.work is not None for entry in entries):
        return None
    await payload_ids.reserve(connection, plan.operations)
    for _ in range(_MOST_GUESSES):
        found = await _remembered(connection, plan, memory)
        if found is None:
            return None
        basis, inboxes, groups = found
        loaded = LoadedInboxes(inboxes, dict(basis.siblings))
        changes = Changes()
        loaded_groups = LoadedGroups(groups, {}, set(), loaded, changes)
        pending = PostgresPending(payload_ids, {inbox: inbox.confirmed for inbox in inboxes.values()})
        routes = LoadedRoutes(loaded, loaded_groups, settings, changes)
        group = Group(loaded, loaded_groups, routes, pending, settings, LoadedMarks({}))
        group.begin(disk_is_low=disk_is_low)
        others = Others(inboxes, node)
        results: list[object] = []
        try:
            for entry in entries:
                results.append(group.apply(entry.batch))
                if group.stored >= settings.group_rows:
                    break
        except NotLoadedError as exc:
            plan.extend(exc)
            continue
        if pending.confirms_new_rows():
            return None
        # What is read here belongs to the basis: it cannot change unless that does.
        await pending.name_reported(connection)
        located = others.located(completed(entries, results))
        return Decided(OneStatement(basis, pending), located, loaded, others, memory)
    return None


async def _remembered(
    connection: Connection, plan: Plan, memory: Memory
) -> tuple[Basis, dict[str, Inbox], dict[str, ChatGroup | None]] | None:
    """What the plan asks for; None if something of it is not remembered, or takes locks."""
    if plan.relating or plan.ending or plan.owners or plan.names or plan.stepwise:
        return None
    groups = {group_id: memory.groups.get(group_id) for group_id in plan.groups}
    siblings = {user_id: memory.siblings.get(user_id) for user_id in plan.users}
    rows = {device_id: memory.standings.trusted(device_id) for device_id in plan.devices}
    unsure = [device_id for device_id, row in rows.items() if row is None]
    # A device that this process has never seen has relations to be loaded, if it exists.
    if None in groups.values() or None in siblings.values():
        return None
    for seen in await connection.fetch(_LOOK, unsure) if unsure else ():
        memory.standings.see(seen)
        rows[seen[0]] = seen
    inboxes: dict[str, Inbox] = {}
    for device_id, row in rows.items():
        if row is None:
            inboxes[device_id] = Inbox(RefusalReason.UNKNOWN_DEVICE)
            continue
        relations = known_relations(row, memory.relations)
        if relations is None:
            return None
        inboxes[device_id] = inbox_of(row, relations)
    basis = Basis(
        inboxes=[row for row in rows.values() if row is not None],
        groups={group_id: known.version for group_id, known in groups.items() if known is not None},
        siblings={user_id: each for user_id, each in siblings.items() if each is not None},
    )
    return basis, inboxes, {group_id: known.group for group_id, known in groups.items() if known is not None}
