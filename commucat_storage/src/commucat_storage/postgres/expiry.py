"""Deleting what has expired, in steps small enough not to hold up messages."""

import attrs

from commucat_storage.device_inbox import NEVER
from commucat_storage.postgres.connection import Connection
from commucat_storage.records import ExpiredMessage

STEP_ROWS = 1_000
"""Rows one step looks at."""
LONG_REPORT = 10_000
"""Expired messages in a report at which the search is left to the next run."""


@attrs.frozen
class Step:
    """How far the search through one inbox has come: ``number`` is the last one looked at, and
    no row up to it expires before ``earliest``."""

    inbox: int
    number: int = 0
    earliest: int = NEVER


@attrs.frozen
class Found:
    """What one step has deleted, and the next step through the same inbox, if any."""

    messages: int = 0
    expired: tuple[ExpiredMessage, ...] = ()
    next_step: Step | None = None


async def inboxes_to_search(connection: Connection, now: int) -> list[int]:
    """Inboxes that may hold expired messages, and those of devices that can no longer fetch theirs."""
    rows = await connection.fetch(
        "SELECT o.inbox FROM inbox_offset AS o JOIN user_device AS d ON d.opaque_id = o.entity_id "
        "WHERE o.rows > 0 AND (o.earliest <= $1 OR d.status = 'revoked') ORDER BY o.inbox",
        now,
    )
    return [inbox for [inbox] in rows]


async def purge_messages(connection: Connection, step: Step, now: int) -> Found:
    """Take one step; call it in a transaction of its own."""
    owner = await connection.fetchrow(
        "SELECT o.entity_id, d.status = 'revoked' FROM inbox_offset AS o "
        "JOIN user_device AS d ON d.opaque_id = o.entity_id WHERE o.inbox = $1 FOR NO KEY UPDATE OF o",
        step.inbox,
    )
    if owner is None:
        return Found()  # It got a new epoch, and so another inbox id, since the search began.
    device_id, revoked = owner
    base = step.inbox << 32
    window = await connection.fetchrow(
        "SELECT count(*), max(position) FROM (SELECT position FROM relay_queue "
        "WHERE position BETWEEN $1 AND $2 ORDER BY position LIMIT $3) AS looked_at",
        base + step.number + 1,
        base + 2**32 - 1,
        STEP_ROWS,
    )
    assert window is not None, "an aggregate gives one row"
    looked_at, last = window
    earliest, gone = step.earliest, []
    if last is not None:
        gone = await _delete(connection, base + step.number + 1, last, now, everything=revoked)
        low = await connection.fetchval(
            "SELECT extract(epoch FROM min(expires_at))::bigint FROM relay_queue "
            "WHERE position BETWEEN $1 AND $2 AND isfinite(expires_at)",
            base + step.number + 1,
            last,
        )
        earliest = min(earliest, NEVER if low is None else low)
    ended = looked_at < STEP_ROWS
    await _subtract(connection, step.inbox, gone, earliest if ended else None)
    expired = tuple(
        ExpiredMessage(
            sender=row.reporter,
            channel=row.channel,
            device_id=device_id,
            number=row.number,
            reference=row.reference or b"",
            revoked=not row.expired,
        )
        for row in gone
        if row.reporter is not None
    )
    following = None if ended else Step(step.inbox, last - base, earliest)
    return Found(len(gone), expired, following)


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


@attrs.frozen
class _Gone:
    number: int
    channel: int
    size: int
    payload_id: int | None
    stranger: bool
    reporter: str | None
    reference: bytes | None
    expired: bool


async def _delete(
    connection: Connection, first: int, last: int, now: int, *, everything: bool
) -> list[_Gone]:
    """Delete what has expired at ``now``, or everything; in number order."""
    rows = await connection.fetch(
        "DELETE FROM relay_queue WHERE position BETWEEN $1 AND $2 "
        "AND ($4 OR expires_at <= to_timestamp($3::float8)) "
        "RETURNING position & 4294967295, channel, size, payload_id, stranger, reporter, reference, "
        "expires_at <= to_timestamp($3::float8)",
        first,
        last,
        now,
        everything,
    )
    gone = sorted((_Gone(*row) for row in rows), key=lambda row: row.number)
    await release_payloads(connection, [row.payload_id for row in gone if row.payload_id is not None])
    return gone


async def _subtract(connection: Connection, inbox: int, gone: list[_Gone], earliest: int | None) -> None:
    # Only the last step knows the whole inbox. Before it the old, lower bound stays, so that
    # an interrupted search is begun again.
    strangers = [row.size for row in gone if row.stranger]
    await connection.execute(
        "UPDATE inbox_offset SET rows = rows - $2, bytes = bytes - $3, shared = shared - $4, "
        "stranger_rows = stranger_rows - $5, stranger_bytes = stranger_bytes - $6, "
        "reports = reports - $7, earliest = coalesce($8, earliest) WHERE inbox = $1",
        inbox,
        len(gone),
        sum(row.size for row in gone),
        sum(row.payload_id is not None for row in gone),
        len(strangers),
        sum(strangers),
        sum(row.reporter is not None for row in gone),
        earliest,
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
