"""Deleting what has expired, in steps small enough not to hold up messages."""

import sqlite3

import attrs

from commucat_storage.device_inbox import NEVER
from commucat_storage.records import ExpiredMessage
from commucat_storage.sqlite.writer import Transaction

STEP_ROWS = 1_000
"""Rows one step looks at: about a millisecond of the writer."""
STEP_INBOXES = 50
"""Inboxes one step looks at, however few rows they hold."""
LONG_REPORT = 10_000
"""Expired messages in a report at which the search is left to the next run."""


@attrs.frozen
class Step:
    """How far the search through one inbox has come: ``number`` is the last one looked at, and
    no row up to it expires before ``earliest``."""

    inbox: int
    number: int = 0
    earliest: int = NEVER


def inboxes_to_search(connection: sqlite3.Connection, now: int) -> list[int]:
    """Inboxes that may hold expired messages, and those of devices that can no longer fetch theirs."""
    rows = connection.execute(
        "SELECT o.inbox FROM inbox_offset AS o LEFT JOIN user_device AS d ON d.inbox = o.inbox "
        "WHERE o.rows > 0 AND (o.earliest <= ? OR d.status = 'revoked') ORDER BY o.inbox",
        (now,),
    )
    return [inbox for [inbox] in rows]


@attrs.define
class Found:
    """What one or more steps have deleted."""

    messages: int = 0
    expired: list[ExpiredMessage] = attrs.Factory(list)


def purge_messages(steps: list[Step], now: int, transaction: Transaction) -> tuple[Found, list[Step]]:
    """Take steps until about :data:`STEP_ROWS` rows were looked at; (what was deleted, what is left)."""
    found = Found()
    looked_at = 0
    for index, first in enumerate(steps):
        step: Step | None = first
        while step is not None:
            if looked_at >= STEP_ROWS:
                return found, [step, *steps[index + 1 :]]
            looked, step = _search(transaction, step, now, found)
            looked_at += looked
    return found, []


def purge_sessions(now: int, transaction: Transaction) -> int:
    """Delete at most :data:`STEP_ROWS` sessions that have ended."""
    return transaction.connection.execute(
        "DELETE FROM session WHERE token_hash IN "
        "(SELECT token_hash FROM session WHERE refreshed_at + ttl_seconds <= ? LIMIT ?)",
        (now, STEP_ROWS),
    ).rowcount


def purge_codes(now: int, transaction: Transaction) -> int:
    """Delete at most :data:`STEP_ROWS` codes that have expired, used or not."""
    return transaction.connection.execute(
        "DELETE FROM enrolment_code WHERE code_hash IN "
        "(SELECT code_hash FROM enrolment_code WHERE expires_at <= ? LIMIT ?)",
        (now, STEP_ROWS),
    ).rowcount


def purge_names(now: int, transaction: Transaction) -> int:
    """Delete at most :data:`STEP_ROWS` names of messages that are stored once, whose time is over."""
    return transaction.connection.execute(
        "DELETE FROM idempotency WHERE (key, scope) IN "
        "(SELECT key, scope FROM idempotency WHERE expires_at <= ? LIMIT ?)",
        (now, STEP_ROWS),
    ).rowcount


def _search(transaction: Transaction, step: Step, now: int, found: Found) -> tuple[int, Step | None]:
    """Search the next rows of one inbox; (rows looked at, the next step if any)."""
    connection = transaction.connection
    owner = connection.execute(
        "SELECT device_id, status = 'revoked' FROM user_device WHERE inbox = ?1 "
        "UNION ALL SELECT '@' || domain, 0 FROM outbox WHERE inbox = ?1",
        (step.inbox,),
    ).fetchone()
    if owner is None:
        return 0, None  # It got a new epoch, and so another inbox id, since the search began.
    device_id, revoked = owner
    base = step.inbox << 32
    first = base + step.number + 1
    [looked_at, last] = connection.execute(
        "SELECT count(*), max(position) FROM "
        "(SELECT position FROM relay_queue WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?)",
        (first, base + 2**32 - 1, STEP_ROWS),
    ).fetchone()
    limit = NEVER if revoked else now
    rows = size = shared = reports = stranger_rows = stranger_bytes = 0
    earliest = step.earliest
    if last is not None:
        window = (first, last, limit)
        [rows, size, shared, stranger_rows, stranger_bytes, reports] = connection.execute(
            "SELECT count(*), coalesce(sum(size), 0), count(payload_id), coalesce(sum(stranger), 0), "
            "coalesce(sum(size * stranger), 0), count(reporter) FROM relay_queue "
            "WHERE position BETWEEN ? AND ? AND expires_at <= ?",
            window,
        ).fetchone()
        if reports:
            found.expired += _reports(connection, device_id, window, now)
        if shared:
            connection.execute(
                "UPDATE relay_payload SET refs = refs - gone.n FROM (SELECT payload_id AS id, count(*) AS n "
                "FROM relay_queue WHERE position BETWEEN ? AND ? AND expires_at <= ? "
                "AND payload_id IS NOT NULL GROUP BY 1) AS gone WHERE payload_id = gone.id",
                window,
            )
            connection.execute("DELETE FROM relay_payload WHERE refs = 0")
        if rows:
            connection.execute(
                "DELETE FROM relay_queue WHERE position BETWEEN ? AND ? AND expires_at <= ?", window
            )
        [low] = connection.execute(
            "SELECT min(expires_at) FROM relay_queue WHERE position BETWEEN ? AND ?", (first, last)
        ).fetchone()
        earliest = min(earliest, NEVER if low is None else low)
    ended = looked_at < STEP_ROWS
    # Only the last step knows the whole inbox. Before it the old, lower bound stays, so that
    # an interrupted search is begun again.
    connection.execute(
        "UPDATE inbox_offset SET rows = rows - ?, bytes = bytes - ?, shared = shared - ?, "
        "reports = reports - ?, stranger_rows = stranger_rows - ?, stranger_bytes = stranger_bytes - ?, "
        "earliest = CASE WHEN ? THEN ? ELSE earliest END WHERE inbox = ?",
        (rows, size, shared, reports, stranger_rows, stranger_bytes, ended, earliest, step.inbox),
    )
    transaction.inboxes.forget(device_id)
    found.messages += rows
    return looked_at, None if ended else Step(step.inbox, last - base, earliest)


def _reports(
    connection: sqlite3.Connection, device_id: str, window: tuple[int, int, int], now: int
) -> list[ExpiredMessage]:
    rows = connection.execute(
        "SELECT reporter, channel, position & 4294967295, reference, expires_at, target FROM relay_queue "
        "WHERE position BETWEEN ? AND ? AND expires_at <= ? AND reporter IS NOT NULL ORDER BY position",
        window,
    )
    return [
        ExpiredMessage(
            sender=sender,
            channel=channel,
            device_id=device_id if target is None else target,
            number=number,
            reference=reference or b"",
            revoked=expires_at > now,
        )
        for sender, channel, number, reference, expires_at, target in rows
    ]
