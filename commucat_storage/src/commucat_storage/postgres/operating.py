"""What commands of operators do: one function for each statement or two.

Functions that write are called inside a transaction; the others on any connection.
"""

from collections.abc import Sequence

import attrs

from commucat_storage.errors import AlreadyExistsError, StorageError
from commucat_storage.interface_operating import TAKEN_KEPT, RecordOf
from commucat_storage.operating import (
    ExpiryStep,
    GroupListing,
    OperatorRecord,
    QueueStanding,
    Resealed,
    SecretRotation,
    SessionListing,
)
from commucat_storage.postgres import accounts, nodes
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.rows import insert, select
from commucat_storage.records import CertificateRow, KeyEvent, Secret

_MOST_IDS = 4_096
EXPIRE_ROWS = 5_000
"""Rows that one step of :func:`expire_step` changes, under the lock of the inbox."""

# -- secrets ---------------------------------------------------------------------------------------


async def secret_versions(connection: Connection, name: str | None) -> tuple[Secret, ...]:
    """All versions, by name, the newest first."""
    condition = "name = coalesce($1, name) ORDER BY name, version DESC"
    return tuple(await select(connection, Secret, "server_secret", condition, name))


async def rotate_secret(connection: Connection, rotation: SecretRotation) -> None:
    """Raises :class:`AlreadyExistsError` when the version exists, or another is the newest."""
    if rotation.newest is not None:
        found = await connection.fetchrow(
            "SELECT version, secret FROM server_secret WHERE name = $1 "
            "ORDER BY version DESC LIMIT 1 FOR UPDATE",
            rotation.secret.name,
        )
        if found is None or tuple(found) != (rotation.newest.version, rotation.newest.secret):
            raise AlreadyExistsError(f"{rotation.secret.name} was changed meanwhile")
    await accounts.insert_secret(connection, rotation.secret)
    for version, expires_at in rotation.until.items():
        await _set_expiry(connection, rotation.secret.name, version, expires_at)
    await add_record(connection, rotation.record)


async def set_secret_expiry(
    connection: Connection,
    name: str,
    version: int,
    expires_at: int,
    record: OperatorRecord | None,
    before: int | None,
) -> bool:
    """False if there is no such version, or none that expires at ``before``."""
    found = await _set_expiry(connection, name, version, expires_at, before)
    if found:
        await add_record(connection, record)
    return found


async def reseal_secrets(
    connection: Connection, changes: Sequence[Resealed], record: OperatorRecord | None
) -> None:
    """Raises :class:`StorageError` if a row is not the one that was read, or there are others of its name."""
    for change in changes:
        changed = await connection.execute(
            "UPDATE server_secret SET secret = $1, metadata = $2::text::json "
            "WHERE name = $3 AND version = $4 AND secret = $5",
            change.secret,
            change.metadata,
            change.name,
            change.version,
            change.before,
        )
        if changed != "UPDATE 1":
            raise StorageError(f"{change.name} version {change.version} was changed meanwhile; try again")
    # A rotation holds the newest row of its name: whatever it has added is seen here.
    for name in {change.name for change in changes}:
        count = await connection.fetchval("SELECT count(*) FROM server_secret WHERE name = $1", name)
        if count != sum(change.name == name for change in changes):
            raise StorageError(f"{name} has got a version meanwhile; try again")
    await add_record(connection, record)


async def forget_secrets(connection: Connection, before: int) -> int:
    """Never the newest of a name."""
    return _count(
        await connection.execute(
            "DELETE FROM server_secret WHERE expires_at < to_timestamp($1::float8) AND version < "
            "(SELECT max(version) FROM server_secret AS newer WHERE newer.name = server_secret.name)",
            before,
        )
    )


async def _set_expiry(
    connection: Connection, name: str, version: int, expires_at: int, before: int | None = None
) -> bool:
    changed = await connection.execute(
        "UPDATE server_secret SET expires_at = to_timestamp($1::float8) WHERE name = $2 AND version = $3 "
        "AND expires_at = coalesce(to_timestamp($4::float8), expires_at)",
        expires_at,
        name,
        version,
        before,
    )
    return changed == "UPDATE 1"


# -- records ---------------------------------------------------------------------------------------


async def add_record(connection: Connection, record: OperatorRecord | None) -> None:
    """Nothing for None."""
    if record is not None:
        taken = f"there is a record {record.record_id} already"
        await insert(connection, "operator_record", record, taken=taken)


async def add_records(connection: Connection, records: Sequence[OperatorRecord]) -> None:
    """All that tell of one change."""
    for record in records:
        await add_record(connection, record)


async def record_ids(connection: Connection) -> frozenset[str]:
    """The ids of all records."""
    rows = await connection.fetch("SELECT record_id FROM operator_record LIMIT $1", _MOST_IDS)
    return frozenset(record_id for [record_id] in rows)


async def records(connection: Connection, limit: int) -> tuple[OperatorRecord, ...]:
    """Those that are not taken yet, the oldest first."""
    condition = "taken_at IS NULL ORDER BY recorded_at, record_id LIMIT $1"
    return tuple(await select(connection, OperatorRecord, "operator_record", condition, limit))


async def take_records(connection: Connection, record_ids: Sequence[str], now: int) -> None:
    """Mark these, and delete those that were marked long ago."""
    await connection.execute(
        "UPDATE operator_record SET taken_at = to_timestamp($1::float8) "
        "WHERE record_id = ANY ($2::text[]) AND taken_at IS NULL",
        now,
        list(record_ids),
    )
    await forget_records(connection, now)


async def forget_records(connection: Connection, now: int) -> int:
    """Delete those that were taken long ago."""
    return _count(
        await connection.execute(
            "DELETE FROM operator_record WHERE taken_at <= to_timestamp($1::float8)", now - TAKEN_KEPT
        )
    )


# -- sessions --------------------------------------------------------------------------------------

_SESSIONS = """
SELECT left(s.opaque_id, 16), s.device_id, s.user_id, u.handle, extract(epoch FROM s.created_at)::bigint,
    extract(epoch FROM s.refreshed_at)::bigint, extract(epoch FROM s.refreshed_at)::bigint + s.ttl_seconds
FROM session AS s JOIN app_user AS u ON u.user_id = s.user_id
WHERE extract(epoch FROM s.refreshed_at)::bigint + s.ttl_seconds > $1::bigint
    AND s.device_id = coalesce($2, s.device_id) AND s.user_id = coalesce($3, s.user_id)
ORDER BY s.refreshed_at DESC, s.opaque_id LIMIT $4"""


async def list_sessions(
    connection: Connection, now: int, limit: int, device_id: str | None, user_id: str | None
) -> tuple[SessionListing, ...]:
    """Sessions that have not ended, the newest first."""
    return tuple(
        SessionListing(
            session_id=row[0],
            device_id=row[1],
            user_id=row[2],
            handle=row[3],
            created_at=row[4],
            refreshed_at=row[5],
            expires_at=row[6],
        )
        for row in await connection.fetch(_SESSIONS, now, device_id, user_id, limit)
    )


async def end_sessions(connection: Connection, device_id: str, record: RecordOf | None) -> int:
    """How many there were."""
    count = _count(await connection.execute("DELETE FROM session WHERE device_id = $1", device_id))
    await add_record(connection, record and record(count))
    return count


# -- queues ----------------------------------------------------------------------------------------

_QUEUES = """
SELECT o.entity_id, d.user_id, u.handle, d.status, o.rows, o.bytes, o.next_number, o.confirmed, gone.rows,
    gone.bytes, gone.first
FROM (
    SELECT * FROM inbox_offset WHERE entity_id = coalesce($2, entity_id) AND left(entity_id, 1) <> '@'
    ORDER BY rows DESC, entity_id LIMIT $3
) AS o
JOIN user_device AS d ON d.opaque_id = o.entity_id JOIN app_user AS u ON u.user_id = d.user_id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE q.expires_at <= to_timestamp($1::float8)) AS rows,
        coalesce(sum(q.size) FILTER (WHERE q.expires_at <= to_timestamp($1::float8)), 0)::bigint AS bytes,
        extract(epoch FROM min(q.expires_at) FILTER (
            WHERE q.expires_at > to_timestamp($1::float8) AND isfinite(q.expires_at)))::bigint AS first
    FROM relay_queue AS q
    WHERE o.rows > 0 AND q.position >= o.inbox << 32 AND q.position < (o.inbox + 1) << 32
) AS gone
ORDER BY o.rows DESC, o.entity_id"""


async def queues(
    connection: Connection, now: int, limit: int, device_id: str | None
) -> tuple[QueueStanding, ...]:
    """Inboxes, the longest first."""
    return tuple(
        QueueStanding(
            device_id=row[0],
            user_id=row[1],
            handle=row[2],
            status=row[3],
            waiting=row[4] - row[8],
            waiting_bytes=row[5] - row[9],
            expired=row[8],
            next_number=row[6],
            confirmed=row[7],
            first_expiry=row[10],
        )
        for row in await connection.fetch(_QUEUES, now, device_id, limit)
    )


async def expire_step(
    connection: Connection, device_id: str, before: ExpiryStep | None, record: RecordOf | None
) -> ExpiryStep | None:
    """Let the next messages that wait for the device expire; None for no device.

    The first step counts and records; each looks at :data:`EXPIRE_ROWS` rows, so that a long queue does not
    hold up messages.
    """
    # A change of relations: what processes remember of the inbox does not hold any more.
    row = await connection.fetchrow(
        "UPDATE inbox_offset SET relations = relations + 1, "
        "earliest = CASE WHEN rows > 0 THEN 0 ELSE earliest END WHERE entity_id = $1 "
        "RETURNING inbox, next_number - 1",
        device_id,
    )
    if row is None:
        return None
    inbox, head = row
    base = inbox << 32
    if before is None:
        count = await connection.fetchval(
            "SELECT count(*) FROM relay_queue WHERE position BETWEEN $1 AND $2 "
            "AND expires_at > to_timestamp(0)",
            base,
            base + head,
        )
        await add_record(connection, record and record(count))
        before = ExpiryStep(count, head, 0)
    last = await connection.fetchval(
        "SELECT max(position) FROM (SELECT position FROM relay_queue WHERE position > $1 AND position <= $2 "
        "ORDER BY position LIMIT $3) AS step",
        base + before.done,
        base + before.until,
        EXPIRE_ROWS,
    )
    if last is None:
        return attrs.evolve(before, done=before.until)
    await connection.execute(
        "UPDATE relay_queue SET expires_at = to_timestamp(0) WHERE position > $1 AND position <= $2",
        base + before.done,
        last,
    )
    return attrs.evolve(before, done=last - base)


# -- groups ----------------------------------------------------------------------------------------

# An open room is a group without an owner.
_GROUPS = """
SELECT g.group_id, owner.device_id,
    (SELECT count(*) FROM group_member AS m WHERE m.group_id = g.group_id) AS n,
    g.relay, extract(epoch FROM g.created_at)::bigint
FROM chat_group AS g JOIN group_member AS owner ON owner.group_id = g.group_id AND owner.role = 'owner'
WHERE $1::text IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.group_id = g.group_id AND m.device_id = $1)
ORDER BY n DESC, g.group_id LIMIT $2"""


async def list_groups(connection: Connection, limit: int, device_id: str | None) -> tuple[GroupListing, ...]:
    """Groups, the largest first."""
    return tuple(
        GroupListing(group_id=row[0], owner=row[1], members=row[2], relay=row[3], created_at=row[4])
        for row in await connection.fetch(_GROUPS, device_id, limit)
    )


# -- keys ------------------------------------------------------------------------------------------


async def replace_device_key(
    connection: Connection, certificate: CertificateRow, event: KeyEvent, record: OperatorRecord
) -> bool:
    """False if there is no such active device of that user."""
    device_id = certificate.device_id
    # First, as everybody does who changes a device: connects and senders wait, and see the new key.
    if not await accounts.lock_device(connection, device_id, changes=True):
        return False
    changed = await connection.execute(
        "UPDATE user_device SET pubkey = $1 WHERE opaque_id = $2 AND user_id = $3 AND status = 'active'",
        certificate.public_key,
        device_id,
        certificate.user_id,
    )
    if changed != "UPDATE 1":
        return False
    await connection.execute(
        "UPDATE device_certificates SET revoked_at = to_timestamp($2::float8) "
        "WHERE device_id = $1 AND revoked_at IS NULL",
        device_id,
        event.recorded_at,
    )
    await connection.execute("DELETE FROM session WHERE device_id = $1", device_id)
    await accounts.insert_certificate(connection, certificate)
    await accounts.insert_key_event(connection, event)
    await nodes.have_looked_at(connection, device_id)
    await add_record(connection, record)
    return True


# -- cleaning up -----------------------------------------------------------------------------------


async def delete_unused_payloads(connection: Connection) -> int:
    """Payloads that no row of the queue refers to."""
    return _count(await connection.execute("DELETE FROM relay_payload WHERE refs = 0"))


async def delete_empty_groups(connection: Connection) -> int:
    """Groups that nobody is in."""
    return _count(
        await connection.execute(
            "DELETE FROM chat_group WHERE NOT EXISTS "
            "(SELECT 1 FROM group_member WHERE group_member.group_id = chat_group.group_id)"
        )
    )


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
