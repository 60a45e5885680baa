"""Where inboxes stand, as the writer thread remembers them between transactions."""

import json
import sqlite3
from collections.abc import Iterable

from commucat_storage.device_inbox import ELSEWHERE, Inbox, is_elsewhere
from commucat_storage.federation import domain_of, outbox_of
from commucat_storage.inbox import RefusalReason
from commucat_storage.records import Route

_LOAD = """
SELECT d.device_id, d.status, d.inbox, o.epoch, o.next_number, o.confirmed,
    o.rows, o.bytes, o.shared, o.earliest, o.stranger_rows, o.stranger_bytes,
    o.reports, d.user_id
FROM json_each(?) AS wanted
JOIN user_device AS d ON d.device_id = wanted.value
JOIN inbox_offset AS o ON o.inbox = d.inbox"""
_LOAD_OUTBOX = """
SELECT x.open, x.inbox, o.epoch, o.next_number, o.confirmed, o.rows, o.bytes, o.shared, o.earliest, o.reports
FROM outbox AS x JOIN inbox_offset AS o ON o.inbox = x.inbox WHERE x.domain = ?"""
_LOAD_ROUTES = """
SELECT r.device_id, r.channel, r.relay, r.members, r.group_id
FROM json_each(?) AS wanted JOIN route AS r ON r.device_id = wanted.value"""

_LOAD_FRIENDS = """
SELECT d.device_id, f.friend_id
FROM json_each(?) AS wanted
JOIN user_device AS d ON d.device_id = wanted.value JOIN friend AS f ON f.user_id = d.user_id"""

_SIBLINGS = "SELECT device_id FROM user_device WHERE user_id = ? AND status = 'active' ORDER BY device_id"
_LOAD_GROUPS = """
SELECT m.device_id, m.group_id, m.accepted
FROM json_each(?) AS wanted JOIN group_member AS m ON m.device_id = wanted.value"""


class InboxCache:
    """Inboxes by device id, loaded on demand.

    Two generations instead of a true LRU order: a hit in the young one costs one lookup and no
    bookkeeping, and when the young one is full it becomes the old one.
    """

    def __init__(self, connection: sqlite3.Connection, capacity: int) -> None:
        self._connection = connection
        self._capacity = capacity
        self._young: dict[str, Inbox] = {}
        self._old: dict[str, Inbox] = {}
        self._siblings: dict[str, tuple[str, ...]] = {}
        self._weight = 0

    def get(self, device_id: str) -> Inbox:
        """The inbox of the device; one that refuses, and is not ``known``, for an unknown device."""
        found = self._young.get(device_id)
        if found is None:
            found = self._old.pop(device_id, None)
            if found is not None:
                self._keep(device_id, found)
            elif is_elsewhere(device_id):
                return ELSEWHERE
            else:
                self._load([device_id])
                found = self._young[device_id]
        return found

    def prefetch(self, device_ids: Iterable[str]) -> None:
        """Load those that are missing in one query, for a message to many."""
        young, old = self._young, self._old
        missing = [each for each in device_ids if each not in young and each not in old]
        if missing:
            self._load(missing)

    def siblings(self, user_id: str) -> tuple[str, ...]:
        """The active devices of a user, in a fixed order; asked for once in a transaction."""
        found = self._siblings.get(user_id)
        if found is None:
            rows = self._connection.execute(_SIBLINGS, (user_id,)).fetchall()
            found = self._siblings[user_id] = tuple(device_id for [device_id] in rows)
        return found

    def remembered(self, device_id: str) -> Inbox | None:
        """The inbox if it is in memory; does not load it."""
        return self._young.get(device_id) or self._old.get(device_id)

    def forget(self, device_id: str) -> None:
        """Drop what is remembered of a device that something else has changed in the database."""
        self._young.pop(device_id, None)
        self._old.pop(device_id, None)
        self._siblings.clear()  # Devices come and go this way, too.

    def clear(self) -> None:
        """Drop everything: a rollback, or another process has written."""
        self._young = {}
        self._old = {}
        self._siblings.clear()
        self._weight = 0

    def make_room(self) -> None:
        """Drop the old generation when the young one is full. Only between transactions: an inbox
        with changes that are not written yet must not be loaded anew."""
        self._siblings.clear()
        if self._weight >= self._capacity:
            self._old = self._young
            self._young = {}
            self._weight = 0

    def weigh(self, added: int) -> None:
        """Count members of a route, or groups, that were added to a remembered inbox."""
        self._weight += added

    def _keep(self, device_id: str, inbox: Inbox) -> None:
        self._young[device_id] = inbox
        self._weight += 1 + inbox.route_members + len(inbox.groups) + len(inbox.friends)

    def _load(self, device_ids: list[str]) -> None:
        if any("@" in device_id for device_id in device_ids):
            wanted = {outbox_of(domain_of(each) or "") for each in device_ids if "@" in each}
            # Under the name that was asked for, too: an outbox has no other spelling.
            wanted.update(each for each in device_ids if each[:1] == "@")
            self._load_outboxes([each for each in wanted if self.remembered(each) is None])
            device_ids = [device_id for device_id in device_ids if "@" not in device_id]
            if not device_ids:
                return
        self._load_devices(device_ids)

    def _load_outboxes(self, names: list[str]) -> None:
        loaded: dict[str, Inbox] = {}
        for name in names:
            # Never many: one for each domain that a message goes to.
            inbox = loaded[name] = Inbox(RefusalReason.UNKNOWN_DEVICE)
            if not name.isprintable():
                continue  # there is no such domain, and SQLite takes no text with surrogates
            row = self._connection.execute(_LOAD_OUTBOX, (name[1:],)).fetchone()
            if row is not None:
                inbox.open = bool(row[0])
                inbox.inbox = row[1]
                inbox.base = row[1] << 32
                _, _, inbox.epoch, inbox.next_number, inbox.confirmed, inbox.rows, inbox.bytes, *others = row
                inbox.shared, inbox.earliest, inbox.reports = others
        for name, inbox in loaded.items():
            self._keep(name, inbox)

    def _load_devices(self, device_ids: list[str]) -> None:
        # SQLite cuts a text of JSON at a NUL: such an id, which no device has, would find another's rows.
        wanted = json.dumps([device_id for device_id in device_ids if "\0" not in device_id])
        loaded: dict[str, Inbox] = {}
        for row in self._connection.execute(_LOAD, (wanted,)).fetchall():
            inbox = Inbox(None if row[1] == "active" else RefusalReason.REVOKED)
            loaded[row[0]] = inbox
            inbox.inbox = row[2]
            inbox.base = row[2] << 32
            _, _, _, inbox.epoch, inbox.next_number, inbox.confirmed, *counts = row
            inbox.rows, inbox.bytes, inbox.shared, inbox.earliest, *strangers = counts
            inbox.stranger_rows, inbox.stranger_bytes, inbox.reports, inbox.user_id = strangers
        for device_id, channel, relay, members, group_id in self._connection.execute(
            _LOAD_ROUTES, (wanted,)
        ).fetchall():
            route = Route(members=frozenset(json.loads(members)), relay=bool(relay), group_id=group_id)
            loaded[device_id].routes[channel] = route
            loaded[device_id].route_members += len(route.members)
        for device_id, group_id, accepted in self._connection.execute(_LOAD_GROUPS, (wanted,)).fetchall():
            loaded[device_id].groups.add(group_id)
            if accepted:
                loaded[device_id].accepted_groups.add(group_id)
        friends: dict[str, list[str]] = {}
        for device_id, friend_id in self._connection.execute(_LOAD_FRIENDS, (wanted,)).fetchall():
            friends.setdefault(device_id, []).append(friend_id)
        for device_id, user_ids in friends.items():
            loaded[device_id].friends = frozenset(user_ids)
        for device_id in device_ids:
            self._keep(device_id, loaded.get(device_id) or Inbox(RefusalReason.UNKNOWN_DEVICE))
