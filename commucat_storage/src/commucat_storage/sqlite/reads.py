"""Reading: a few connections of their own, used in worker threads, never waiting for the writer."""

import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import trio

from commucat_storage.errors import StorageUnavailableError
from commucat_storage.inbox import InboxPage, InboxRow, InboxState
from commucat_storage.metering import PoolState, QueueState
from commucat_storage.records import Group, GroupRole, Route
from commucat_storage.rooms import is_reserved
from commucat_storage.sqlite.connection import connect_reader, translate
from commucat_storage.sqlite.settings import SqliteSettings
from commucat_storage.sqlite.turns import Turns

P = ParamSpec("P")
T = TypeVar("T")

# One statement, so that the state and the rows are of the same moment. No row of the queue
# gives one row with NULLs.
_READ_AFTER = """
SELECT o.next_number - 1, q.position & 4294967295, q.frame_type, q.channel, q.size,
    coalesce(q.payload, p.payload)
FROM user_device AS d
JOIN inbox_offset AS o ON o.inbox = d.inbox
LEFT JOIN relay_queue AS q ON q.position > (o.inbox << 32) + max(o.confirmed, ?2)
    AND q.position < (o.inbox + 1) << 32 AND q.expires_at > ?3
LEFT JOIN relay_payload AS p ON p.payload_id = q.payload_id
WHERE d.device_id = ?1
ORDER BY q.position LIMIT ?4"""

# SQLite cuts a text of JSON at a NUL, so routes that name such an id are left out: the rest of the
# name could be another device. DISTINCT and UNION ALL, unlike UNION, stop at the limit.
_PEERS = r"""
SELECT DISTINCT d.device_id FROM (
    SELECT theirs.device_id AS peer
    FROM group_member AS own JOIN group_member AS theirs ON theirs.group_id = own.group_id
    WHERE own.device_id = ?1 AND own.accepted AND theirs.accepted
    UNION ALL
    SELECT theirs.device_id
    FROM route AS own CROSS JOIN json_each(own.members) AS named
    CROSS JOIN route AS theirs ON theirs.device_id = named.value AND theirs.channel = own.channel
    WHERE own.device_id = ?1 AND instr(own.members, '\u0000') = 0 AND instr(theirs.members, '\u0000') = 0
        AND EXISTS (SELECT 1 FROM json_each(theirs.members) AS back WHERE back.value = ?1)
    UNION ALL
    SELECT theirs.device_id
    FROM user_device AS own JOIN friend AS f ON f.user_id = own.user_id
    JOIN friend AS back ON back.user_id = f.friend_id AND back.friend_id = f.user_id
    JOIN user_device AS theirs ON theirs.user_id = f.friend_id
    WHERE own.device_id = ?1
) JOIN user_device AS d ON d.device_id = peer
WHERE d.status = 'active' AND d.device_id <> ?1 LIMIT ?2"""


class ReaderPool:
    """Runs read functions in worker threads, at most ``readers`` at a time."""

    def __init__(self, path: Path, settings: SqliteSettings, turns: Turns) -> None:
        self._turns = turns
        self._path = path
        self._limiter = trio.CapacityLimiter(settings.readers)
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[sqlite3.Connection] = []
        try:
            for _ in range(settings.readers):
                self._idle.append(connect_reader(path, settings))
        except BaseException:
            self.close()
            raise

    async def run(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``function(connection, ...)`` in a thread.

        Raises:
            StorageUnavailableError: the store is closed, or the disk fails.
            SchemaError: the database is damaged.
        """
        with self._turns.reading():
            return await trio.to_thread.run_sync(
                lambda: self._call(lambda connection: function(connection, *args, **kwargs)),
                limiter=self._limiter,
            )

    @property
    def state(self) -> PoolState:
        """Who reads now."""
        seen = self._limiter.statistics()
        return PoolState(limit=int(seen.total_tokens), used=seen.borrowed_tokens, waiting=seen.tasks_waiting)

    def close(self) -> None:
        """Close what is idle now, and the rest when its reader is done. Does not wait."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._closed:
                raise StorageUnavailableError("the store is closed")
            connection = self._idle.pop()
        try:
            return function(connection)
        except sqlite3.Error as exc:
            raise translate(exc, self._path) from exc
        finally:
            with self._lock:
                closed = self._closed
                if not closed:
                    self._idle.append(connection)
            if closed:
                connection.close()


def read_after(
    connection: sqlite3.Connection, device_id: str, number: int, limit_rows: int, limit_bytes: int, now: int
) -> InboxPage:
    """A page of the inbox; an empty complete one with head 0 for an unknown device."""
    head = 0
    room = limit_bytes
    rows: list[InboxRow] = []
    cursor = connection.execute(_READ_AFTER, (device_id, max(number, 0), now, limit_rows + 1))
    try:
        for head, row_number, frame_type, channel, size, payload in cursor:
            if row_number is None:
                break
            if rows and (len(rows) == limit_rows or size > room):
                return InboxPage(tuple(rows), head, False)
            room -= size
            rows.append(InboxRow(row_number, frame_type, channel, payload))
    finally:
        # Stopped half-way, the statement would keep its snapshot and so the log from being reused.
        cursor.close()
    return InboxPage(tuple(rows), head, True)


def inbox_state(connection: sqlite3.Connection, device_id: str) -> InboxState | None:
    """Where the inbox stands; None for an unknown device."""
    row = connection.execute(
        "SELECT o.epoch, o.next_number, o.confirmed FROM user_device AS d "
        "JOIN inbox_offset AS o ON o.inbox = d.inbox WHERE d.device_id = ?",
        (device_id,),
    ).fetchone()
    return None if row is None else InboxState(*row)


def queue_state(connection: sqlite3.Connection, after: int) -> QueueState:
    """What waits in all inboxes."""
    [messages, size, inboxes, earliest] = connection.execute(
        "SELECT total(rows), total(bytes), count(*), min(earliest) FILTER (WHERE earliest > ?) "
        "FROM inbox_offset WHERE rows > 0 AND inbox NOT IN (SELECT inbox FROM outbox)",
        (after,),
    ).fetchone()
    return QueueState(messages=int(messages), size=int(size), inboxes=inboxes, earliest_expiry=earliest)


def not_active(connection: sqlite3.Connection, device_ids: Sequence[str]) -> frozenset[str]:
    """Those that do not exist or are not active."""
    rows = connection.execute(
        "SELECT wanted.value FROM json_each(?) AS wanted LEFT JOIN user_device AS d "
        "ON d.device_id = wanted.value WHERE d.status IS NOT 'active'",
        (json.dumps(list(device_ids)),),
    )
    return frozenset(device_id for [device_id] in rows)


def sessions_ended(connection: sqlite3.Connection, token_hashes: Sequence[str]) -> frozenset[str]:
    """Those that are no session of an active device."""
    rows = connection.execute(
        "SELECT wanted.value FROM json_each(?) AS wanted LEFT JOIN session AS s "
        "ON s.token_hash = wanted.value LEFT JOIN user_device AS d ON d.device_id = s.device_id "
        "WHERE d.status IS NOT 'active'",
        (json.dumps(list(token_hashes)),),
    )
    return frozenset(token_hash for [token_hash] in rows)


def routes_of(connection: sqlite3.Connection, device_id: str) -> dict[int, Route]:
    """The device's own routes by channel."""
    rows = connection.execute(
        "SELECT channel, relay, members, group_id FROM route WHERE device_id = ?", (device_id,)
    )
    return {
        channel: Route(members=frozenset(json.loads(members)), relay=bool(relay), group_id=group_id)
        for channel, relay, members, group_id in rows
    }


def load_group(connection: sqlite3.Connection, group_id: str) -> Group | None:
    """The group with its members, in the order in which they came; None for an open room."""
    if is_reserved(group_id):
        return None
    rows = connection.execute(
        "SELECT g.created_at, g.relay, m.device_id, m.role, g.home, g.revision FROM chat_group AS g "
        "JOIN group_member AS m ON m.group_id = g.group_id WHERE g.group_id = ? "
        "ORDER BY m.joined_at, m.device_id",
        (group_id,),
    ).fetchall()
    if not rows:
        return None
    created_at, relay, _, _, home, revision = rows[0]
    return Group(
        group_id=group_id,
        created_at=created_at,
        relay=bool(relay),
        members={row[2]: GroupRole(row[3]) for row in rows},
        home=home,
        revision=revision,
    )


def peers_of(connection: sqlite3.Connection, device_id: str, limit: int) -> tuple[str, ...]:
    """Active devices in its groups, those it shares a channel with by mutual routes, and those of friends."""
    return tuple(peer for [peer] in connection.execute(_PEERS, (device_id, limit)))


def peers_of_each(
    connection: sqlite3.Connection, device_ids: Sequence[str], limit: int
) -> tuple[tuple[str, ...], ...]:
    """:func:`peers_of` for each, in their order."""
    return tuple([peers_of(connection, device_id, limit) for device_id in device_ids])
