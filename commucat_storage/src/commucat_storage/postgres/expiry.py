"""Deleting what has expired, in steps small enough not to hold up messages."""

from collections import deque
from collections.abc import Sequence

import attrs

from commucat_storage.device_inbox import NEVER
from commucat_storage.postgres.connection import Connection
from commucat_storage.records import ExpiredMessage

STEP_ROWS = 1_000
"""Rows one step looks at, or a few more where inboxes have grown meanwhile."""
STEP_INBOXES = 200
"""Inboxes one step locks."""
LONG_REPORT = 10_000
"""Expired messages in a report at which the search is left to the next run."""


@attrs.frozen
class Search:
    """How far the search through one inbox has come: ``number`` is the last one looked at, and
    no row up to it expires before ``earliest``."""

    inbox: int
    rows: int
    """How many it may still hold."""
    number: int = 0
    earliest: int = NEVER


@attrs.frozen
class Found:
    """What one step has deleted, and the inboxes that it has not searched to their end."""

    messages: int = 0
    expired: tuple[ExpiredMessage, ...] = ()
    unfinished: tuple[Search, ...] = ()


async def inboxes_to_search(connection: Connection, now: int) -> list[Search]:
    """Inboxes that may hold expired messages, and those of devices that can no longer fetch theirs."""
    rows = await connection.fetch(
        "SELECT o.inbox, o.rows FROM inbox_offset AS o "
        "LEFT JOIN user_device AS d ON d.opaque_id = o.entity_id "
        "WHERE o.rows > 0 AND (o.earliest <= $1 OR d.status = 'revoked') ORDER BY o.inbox",
        now,
    )
    return [Search(*row) for row in rows]


def next_step(searches: deque[Search]) -> list[Search]:
    """Take from the left what makes one step: many small inboxes, or a part of a large one."""
    step: list[Search] = []
    rows = 0
    while searches and len(step) < STEP_INBOXES and (not step or rows + searches[0].rows <= STEP_ROWS):
        step.append(searches.popleft())
        rows += step[-1].rows
    return step


async def purge_messages(connection: Connection, step: Sequence[Search], now: int) -> Found:
    """Take one step with a handful of statements; call it in a transaction of its own."""
    owners = await _lock(connection, step)
    windows: list[_Window] = []
    for inbox, looked_at, last in await connection.fetch(
        _WINDOWS, [search.inbox for search in step], [search.number for search in step], STEP_ROWS
    ):
        if inbox in owners:  # Otherwise it got a new epoch, and so another inbox id, since the search began.
            windows.append(_Window(*owners[inbox], looked_at, last))
    gone = await _delete(connection, [each for each in windows if each.last is not None], now)
    low = await _earliest(connection, [each for each in windows if each.last is not None])
    unfinished: list[Search] = []
    changes: list[tuple[object, ...]] = []
    for window in windows:
        search = window.search
        earliest = min(search.earliest, low.get(search.inbox, NEVER))
        ended = window.looked_at < STEP_ROWS or window.last is None
        if window.last is not None and not ended:
            left = max(search.rows - STEP_ROWS, 1)
            unfinished.append(Search(search.inbox, left, window.last - window.base, earliest))
        # Only the last step knows the whole inbox. Before it the old, lower bound stays, so that an
        # interrupted search is begun again.
        changes.append((*_counts(search.inbox, gone.get(search.inbox, ())), earliest if ended else None))
    if changes:
        await connection.execute(_SUBTRACT, *zip(*changes, strict=True))
    devices = {window.search.inbox: window.device_id for window in windows}
    expired = tuple(
        row.told_of(devices[inbox])
        for inbox, rows in gone.items()
        for row in rows
        if row.reporter is not None
    )
    return Found(sum(map(len, gone.values())), expired, tuple(unfinished))


async def purge_sessions(connection: Connection, now: int) -> int:
    """Delete at most :data:`STEP_ROWS` sessions that have ended."""
    return _count(
        await connection.execute(
            "DELETE FROM session WHERE opaque_id IN (SELECT opaque_id FROM session "
            "WHERE (refreshed_at AT TIME ZONE 'UTC' + ttl_seconds * interval '1 second') "
            "<= (to_timestamp($1::float8) AT TIME ZONE 'UTC') LIMIT $2)",
            now,
            STEP_ROWS,
        )
    )


async def purge_codes(connection: Connection, now: int) -> int:
    """Delete at most :data:`STEP_ROWS` codes that have expired, used or not."""
    return _count(
        await connection.execute(
            "DELETE FROM enrolment_code WHERE code_hash IN (SELECT code_hash FROM enrolment_code "
            "WHERE expires_at <= to_timestamp($1::float8) LIMIT $2)",
            now,
            STEP_ROWS,
        )
    )


async def purge_names(connection: Connection, now: int) -> int:
    """Delete at most :data:`STEP_ROWS` names of messages that are stored once, whose time is over."""
    return _count(
        await connection.execute(
            "DELETE FROM idempotency WHERE (key, scope) IN (SELECT key, scope FROM idempotency "
            "WHERE expires_at <= to_timestamp($1::float8) LIMIT $2)",
            now,
            STEP_ROWS,
        )
    )


_WINDOWS = """SELECT s.inbox, w.looked_at, w.last
FROM unnest($1::bigint[], $2::bigint[]) AS s (inbox, number) CROSS JOIN LATERAL (
    SELECT count(*) AS looked_at, max(position) AS last FROM (
        SELECT position FROM relay_queue
        WHERE position > (s.inbox << 32) + s.number AND position < (s.inbox + 1) << 32
        ORDER BY position LIMIT $3
    ) AS looked_at
) AS w"""
_DELETE = """DELETE FROM relay_queue AS q
USING unnest($1::bigint[], $2::bigint[], $3::boolean[]) AS w (first, last, everything)
WHERE q.position BETWEEN w.first AND w.last AND (w.everything OR q.expires_at <= to_timestamp($4::float8))
RETURNING q.position >> 32, q.position & 4294967295, q.channel, q.size, q.payload_id, q.stranger, q.reporter,
    q.reference, q.target, q.expires_at <= to_timestamp($4::float8)"""
_EARLIEST = """SELECT q.position >> 32, extract(epoch FROM min(q.expires_at))::bigint
FROM unnest($1::bigint[], $2::bigint[]) AS w (first, last)
JOIN relay_queue AS q ON q.position BETWEEN w.first AND w.last
WHERE isfinite(q.expires_at) GROUP BY 1"""
_SUBTRACT = """UPDATE inbox_offset AS o SET rows = o.rows - n.rows, bytes = o.bytes - n.bytes,
    shared = o.shared - n.shared, stranger_rows = o.stranger_rows - n.stranger_rows,
    stranger_bytes = o.stranger_bytes - n.stranger_bytes, reports = o.reports - n.reports,
    earliest = coalesce(n.earliest, o.earliest)
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[])
AS n (inbox, rows, bytes, shared, stranger_rows, stranger_bytes, reports, earliest) WHERE o.inbox = n.inbox"""


@attrs.frozen
class _Window:
    """The rows of an inbox that one step looks at."""

    search: Search
    device_id: str
    revoked: bool
    looked_at: int
    last: int | None

    @property
    def base(self) -> int:
        return self.search.inbox << 32

    @property
    def first(self) -> int:
        return self.base + self.search.number + 1


@attrs.frozen
class _Gone:
    number: int
    channel: int
    size: int
    payload_id: int | None
    stranger: bool
    reporter: str | None
    reference: bytes | None
    target: str | None
    expired: bool

    def told_of(self, device_id: str) -> ExpiredMessage:
        return ExpiredMessage(
            sender=self.reporter or "",
            channel=self.channel,
            device_id=device_id if self.target is None else self.target,
            number=self.number,
            reference=self.reference or b"",
            revoked=not self.expired,
        )


async def _lock(connection: Connection, step: Sequence[Search]) -> dict[int, tuple[Search, str, bool]]:
    searches = {search.inbox: search for search in step}
    rows = await connection.fetch(
        "SELECT o.inbox, o.entity_id, coalesce(d.status = 'revoked', false) FROM inbox_offset AS o "
        "LEFT JOIN user_device AS d ON d.opaque_id = o.entity_id "
        "WHERE o.inbox = ANY ($1::bigint[]) ORDER BY o.entity_id FOR NO KEY UPDATE OF o",
        list(searches),
    )
    return {inbox: (searches[inbox], device_id, revoked) for inbox, device_id, revoked in rows}


async def _delete(connection: Connection, windows: Sequence[_Window], now: int) -> dict[int, list[_Gone]]:
    """Delete what has expired at ``now``, or everything of a revoked device; by inbox, in number order."""
    gone: dict[int, list[_Gone]] = {}
    for inbox, *row in await connection.fetch(
        _DELETE,
        [window.first for window in windows],
        [window.last for window in windows],
        [window.revoked for window in windows],
        now,
    ):
        gone.setdefault(inbox, []).append(_Gone(*row))
    for rows in gone.values():
        rows.sort(key=lambda row: row.number)
    shared = [row.payload_id for rows in gone.values() for row in rows if row.payload_id is not None]
    await release_payloads(connection, shared)
    return gone


async def _earliest(connection: Connection, windows: Sequence[_Window]) -> dict[int, int]:
    """When the first of the rows that are left expires, by inbox."""
    rows = await connection.fetch(
        _EARLIEST, [window.first for window in windows], [window.last for window in windows]
    )
    return dict(rows)


def _counts(inbox: int, gone: Sequence[_Gone]) -> tuple[int, ...]:
    strangers = [row.size for row in gone if row.stranger]
    return (
        inbox,
        len(gone),
        sum(row.size for row in gone),
        sum(row.payload_id is not None for row in gone),
        len(strangers),
        sum(strangers),
        sum(row.reporter is not None for row in gone),
    )


async def release_payloads(connection: Connection, payload_ids: list[int]) -> None:
    """Count references down, one for each time an id is named; delete what nobody refers to."""
    if not payload_ids:
        return
    counts: dict[int, int] = {}
    for payload_id in payload_ids:
        counts[payload_id] = counts.get(payload_id, 0) + 1
    # Locked in order: another process may count down the same payloads for other devices.
    await connection.execute(
        "SELECT FROM relay_payload WHERE payload_id = ANY ($1) ORDER BY payload_id FOR UPDATE",
        list(counts),
    )
    await connection.execute(
        "UPDATE relay_payload AS p SET refs = refs - gone.n "
        "FROM unnest($1::bigint[], $2::bigint[]) AS gone (payload_id, n) "
        "WHERE p.payload_id = gone.payload_id",
        list(counts),
        list(counts.values()),
    )
    await connection.execute(
        "DELETE FROM relay_payload WHERE payload_id = ANY ($1) AND refs = 0", list(counts)
    )


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
