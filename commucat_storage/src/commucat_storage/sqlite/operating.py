"""What commands of operators do: one function for each statement or two.

Functions that write are called inside the writer's transaction; the others on any connection.
"""

import sqlite3
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
from commucat_storage.records import CertificateRow, DeviceStatus, KeyEvent, Secret
from commucat_storage.sqlite import accounts
from commucat_storage.sqlite.rows import insert, select

_MOST_IDS = 4_096
EXPIRE_ROWS = 5_000
"""Rows that one step of :func:`expire_step` changes: some tens of milliseconds of the writer."""

# -- secrets ---------------------------------------------------------------------------------------


def secret_versions(connection: sqlite3.Connection, name: str | None) -> tuple[Secret, ...]:
    """All versions, by name, the newest first."""
    condition = "name = coalesce(?, name) ORDER BY name, version DESC"
    return tuple(select(connection, Secret, "server_secret", condition, (name,)))


def rotate_secret(connection: sqlite3.Connection, rotation: SecretRotation) -> None:
    """Raises :class:`AlreadyExistsError` when the version exists, or another is the newest."""
    if rotation.newest is not None:
        found = connection.execute(
            "SELECT version, secret FROM server_secret WHERE name = ? ORDER BY version DESC LIMIT 1",
            (rotation.secret.name,),
        ).fetchone()
        if found is None or tuple(found) != (rotation.newest.version, rotation.newest.secret):
            raise AlreadyExistsError(f"{rotation.secret.name} was changed meanwhile")
    accounts.insert_secret(connection, rotation.secret)
    for version, expires_at in rotation.until.items():
        _set_expiry(connection, rotation.secret.name, version, expires_at)
    add_record(connection, rotation.record)


def set_secret_expiry(
    connection: sqlite3.Connection,
    name: str,
    version: int,
    expires_at: int,
    record: OperatorRecord | None,
    before: int | None,
) -> bool:
    """False if there is no such version, or none that expires at ``before``."""
    found = _set_expiry(connection, name, version, expires_at, before)
    if found:
        add_record(connection, record)
    return found


def reseal_secrets(
    connection: sqlite3.Connection, changes: Sequence[Resealed], record: OperatorRecord | None
) -> None:
    """Raises :class:`StorageError` if a row is not the one that was read, or there are others of its name."""
    for change in changes:
        changed = connection.execute(
            "UPDATE server_secret SET secret = ?, metadata = ? WHERE name = ? AND version = ? AND secret = ?",
            (change.secret, change.metadata, change.name, change.version, change.before),
        )
        if changed.rowcount != 1:
            raise StorageError(f"{change.name} version {change.version} was changed meanwhile; try again")
    for name in {change.name for change in changes}:
        [count] = connection.execute("SELECT count(*) FROM server_secret WHERE name = ?", (name,)).fetchone()
        if count != sum(change.name == name for change in changes):
            raise StorageError(f"{name} has got a version meanwhile; try again")
    add_record(connection, record)


def forget_secrets(connection: sqlite3.Connection, before: int) -> int:
    """Never the newest of a name."""
    return connection.execute(
        "DELETE FROM server_secret WHERE expires_at < ? AND version < "
        "(SELECT max(version) FROM server_secret AS newer WHERE newer.name = server_secret.name)",
        (before,),
    ).rowcount


def _set_expiry(
    connection: sqlite3.Connection, name: str, version: int, expires_at: int, before: int | None = None
) -> bool:
    changed = connection.execute(
        "UPDATE server_secret SET expires_at = ? "
        "WHERE name = ? AND version = ? AND expires_at = coalesce(?, expires_at)",
        (expires_at, name, version, before),
    )
    return changed.rowcount == 1


# -- records ---------------------------------------------------------------------------------------


def add_record(connection: sqlite3.Connection, record: OperatorRecord | None) -> None:
    """Nothing for None."""
    if record is not None:
        insert(connection, "operator_record", record, taken=f"there is a record {record.record_id} already")


def add_records(connection: sqlite3.Connection, records: Sequence[OperatorRecord]) -> None:
    """All that tell of one change."""
    for record in records:
        add_record(connection, record)


def record_ids(connection: sqlite3.Connection) -> frozenset[str]:
    """The ids of all records."""
    rows = connection.execute("SELECT record_id FROM operator_record LIMIT ?", (_MOST_IDS,))
    return frozenset(record_id for [record_id] in rows)


def records(connection: sqlite3.Connection, limit: int) -> tuple[OperatorRecord, ...]:
    """Those that are not taken yet, the oldest first."""
    condition = "taken_at IS NULL ORDER BY recorded_at, record_id LIMIT ?"
    return tuple(select(connection, OperatorRecord, "operator_record", condition, (limit,)))


def take_records(connection: sqlite3.Connection, record_ids: Sequence[str], now: int) -> None:
    """Mark these, and delete those that were marked long ago."""
    connection.executemany(
        "UPDATE operator_record SET taken_at = ? WHERE record_id = ? AND taken_at IS NULL",
        [(now, record_id) for record_id in record_ids],
    )
    forget_records(connection, now)


def forget_records(connection: sqlite3.Connection, now: int) -> int:
    """Delete those that were taken long ago."""
    return connection.execute("DELETE FROM operator_record WHERE taken_at <= ?", (now - TAKEN_KEPT,)).rowcount


# -- sessions --------------------------------------------------------------------------------------

_SESSIONS = """
SELECT substr(s.token_hash, 1, 16), s.device_id, s.user_id, u.handle, s.created_at, s.refreshed_at,
    s.refreshed_at + s.ttl_seconds AS ends
FROM session AS s JOIN app_user AS u ON u.user_id = s.user_id
WHERE ends > ?1 AND s.device_id = coalesce(?2, s.device_id) AND s.user_id = coalesce(?3, s.user_id)
ORDER BY s.refreshed_at DESC, s.token_hash LIMIT ?4"""


def list_sessions(
    connection: sqlite3.Connection, now: int, limit: int, device_id: str | None, user_id: str | None
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
        for row in connection.execute(_SESSIONS, (now, device_id, user_id, limit))
    )


def end_sessions(connection: sqlite3.Connection, device_id: str, record: RecordOf | None) -> int:
    """How many there were."""
    count = connection.execute("DELETE FROM session WHERE device_id = ?", (device_id,)).rowcount
    add_record(connection, record and record(count))
    return count


# -- queues ----------------------------------------------------------------------------------------

_QUEUES = """
SELECT d.device_id, d.user_id, u.handle, d.status, o.rows, o.bytes, o.next_number, o.confirmed, o.earliest,
    o.inbox
FROM user_device AS d JOIN inbox_offset AS o ON o.inbox = d.inbox JOIN app_user AS u ON u.user_id = d.user_id
WHERE d.device_id = coalesce(?1, d.device_id) ORDER BY o.rows DESC, d.device_id LIMIT ?2"""
_EXPIRED = """
SELECT count(*) FILTER (WHERE expires_at <= ?3),
    coalesce(sum(size) FILTER (WHERE expires_at <= ?3), 0), min(expires_at) FILTER (WHERE expires_at > ?3)
FROM relay_queue WHERE position BETWEEN ?1 AND ?2"""


def queues(
    connection: sqlite3.Connection, now: int, limit: int, device_id: str | None
) -> tuple[QueueStanding, ...]:
    """Inboxes, the longest first."""
    found = []
    for row in connection.execute(_QUEUES, (device_id, limit)).fetchall():
        expired, expired_bytes, first_expiry = 0, 0, None
        if row[4]:
            base = row[9] << 32
            window = (base, base + 2**32 - 1, now)
            expired, expired_bytes, first_expiry = connection.execute(_EXPIRED, window).fetchone()
        found.append(
            QueueStanding(
                device_id=row[0],
                user_id=row[1],
                handle=row[2],
                status=row[3],
                waiting=row[4] - expired,
                waiting_bytes=row[5] - expired_bytes,
                expired=expired,
                next_number=row[6],
                confirmed=row[7],
                first_expiry=first_expiry,
            )
        )
    return tuple(found)


def expire_step(
    connection: sqlite3.Connection, device_id: str, before: ExpiryStep | None, record: RecordOf | None
) -> ExpiryStep | None:
    """Let the next messages that wait for the device expire; None for no device.

    The first step counts and records; each looks at :data:`EXPIRE_ROWS` rows, so that a long queue does not
    hold up messages.
    """
    row = connection.execute(
        "SELECT o.inbox, o.next_number - 1 FROM inbox_offset AS o WHERE o.inbox IN ("
        "SELECT inbox FROM user_device WHERE device_id = ?1 "
        "UNION ALL SELECT inbox FROM outbox WHERE '@' || domain = ?1)",
        (device_id,),
    ).fetchone()
    if row is None:
        return None
    inbox, head = row
    base = inbox << 32
    if before is None:
        [count] = connection.execute(
            "SELECT count(*) FROM relay_queue WHERE position BETWEEN ? AND ? AND expires_at > 0",
            (base, base + head),
        ).fetchone()
        add_record(connection, record and record(count))
        before = ExpiryStep(count, head, 0)
    [last] = connection.execute(
        "SELECT max(position) FROM (SELECT position FROM relay_queue WHERE position > ? AND position <= ? "
        "ORDER BY position LIMIT ?)",
        (base + before.done, base + before.until, EXPIRE_ROWS),
    ).fetchone()
    if last is None:
        return attrs.evolve(before, done=before.until)
    connection.execute(
        "UPDATE relay_queue SET expires_at = 0 WHERE position > ? AND position <= ?",
        (base + before.done, last),
    )
    connection.execute("UPDATE inbox_offset SET earliest = 0 WHERE inbox = ?", (inbox,))
    return attrs.evolve(before, done=last - base)


# -- groups ----------------------------------------------------------------------------------------

# An open room is a group whose id begins with a character that no client can send, and has no owner.
_GROUPS = """
SELECT g.group_id, owner.device_id,
    (SELECT count(*) FROM group_member AS m WHERE m.group_id = g.group_id) AS n,
    g.relay, g.created_at
FROM chat_group AS g JOIN group_member AS owner ON owner.group_id = g.group_id AND owner.role = 'owner'
WHERE ?1 IS NULL OR EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.group_id = g.group_id AND m.device_id = ?1)
ORDER BY n DESC, g.group_id LIMIT ?2"""


def list_groups(
    connection: sqlite3.Connection, limit: int, device_id: str | None
) -> tuple[GroupListing, ...]:
    """Groups, the largest first."""
    return tuple(
        GroupListing(group_id=row[0], owner=row[1], members=row[2], relay=bool(row[3]), created_at=row[4])
        for row in connection.execute(_GROUPS, (device_id, limit))
    )


# -- keys ------------------------------------------------------------------------------------------


def replace_device_key(
    connection: sqlite3.Connection, certificate: CertificateRow, event: KeyEvent, record: OperatorRecord
) -> bool:
    """False if there is no such active device of that user."""
    changed = connection.execute(
        "UPDATE user_device SET public_key = ? WHERE device_id = ? AND user_id = ? AND status = ?",
        (
            certificate.public_key,
            certificate.device_id,
            certificate.user_id,
            DeviceStatus.ACTIVE.value,
        ),
    )
    if changed.rowcount == 0:
        return False
    connection.execute(
        "UPDATE device_certificates SET revoked_at = ? WHERE device_id = ? AND revoked_at IS NULL",
        (event.recorded_at, certificate.device_id),
    )
    connection.execute("DELETE FROM session WHERE device_id = ?", (certificate.device_id,))
    accounts.insert_certificate(connection, certificate)
    accounts.insert_key_event(connection, event)
    add_record(connection, record)
    return True


# -- cleaning up -----------------------------------------------------------------------------------


def delete_unused_payloads(connection: sqlite3.Connection) -> int:
    """Payloads that no row of the queue refers to."""
    return connection.execute("DELETE FROM relay_payload WHERE refs = 0").rowcount


def delete_empty_groups(connection: sqlite3.Connection) -> int:
    """Groups that nobody is in."""
    return connection.execute(
        "DELETE FROM chat_group WHERE NOT EXISTS "
        "(SELECT 1 FROM group_member WHERE group_member.group_id = chat_group.group_id)"
    ).rowcount
