"""A user's further devices and their keys, inside the writer's transaction."""

import hmac
import sqlite3
from collections.abc import Sequence

import attrs

from commucat_storage.errors import AlreadyExistsError
from commucat_storage.operating import OperatorRecord
from commucat_storage.pairing import (
    ClaimedPairing,
    NamedDevice,
    PairingClaim,
    PairingOffer,
    PairingRefusal,
    PairingRefusedError,
    PendingDevice,
    Rotation,
    RotationRefusal,
    RotationRefusedError,
)
from commucat_storage.records import CertificateRow, Device, DeviceStatus, KeyEvent
from commucat_storage.sqlite import accounts, operating
from commucat_storage.sqlite.admit import insert_with_inbox
from commucat_storage.sqlite.rows import first, insert, select
from commucat_storage.sqlite.writer import Transaction

_SECOND = 1_000_000  # the tables that other servers have too count microseconds

# -- pairing -----------------------------------------------------------------------------------------


def offer(transaction: Transaction, offered: PairingOffer, most: int) -> None:
    """Store a code; raises :class:`PairingRefusedError` or :class:`AlreadyExistsError`."""
    connection = transaction.connection
    issuer = accounts.load_device(connection, offered.issuer_device_id)
    if issuer is None or issuer.status is not DeviceStatus.ACTIVE or issuer.user_id != offered.user_id:
        raise PairingRefusedError(PairingRefusal.ISSUER_INACTIVE)
    [open_codes] = connection.execute(
        "SELECT count(*) FROM device_pairing WHERE issuer_device_id = ? AND redeemed_at IS NULL "
        "AND expires_at > ?",
        (offered.issuer_device_id, offered.issued_at * _SECOND),
    ).fetchone()
    if open_codes >= most:
        raise PairingRefusedError(PairingRefusal.CODE_LIMIT)
    done = connection.execute(
        "INSERT INTO device_pairing (pair_code, user_id, issuer_device_id, issued_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            offered.code_hash,
            offered.user_id,
            offered.issuer_device_id,
            offered.issued_at * _SECOND,
            offered.expires_at * _SECOND,
        ),
    )
    if done.rowcount != 1:
        raise AlreadyExistsError("there is such a pairing code already")


def load_offer(connection: sqlite3.Connection, code_hash: str) -> PairingOffer | None:
    """The offer, used or not."""
    row = connection.execute(
        "SELECT pair_code, user_id, issuer_device_id, issued_at, expires_at FROM device_pairing "
        "WHERE pair_code = ?",
        (code_hash,),
    ).fetchone()
    if row is None:
        return None
    return PairingOffer(
        code_hash=row[0],
        user_id=row[1],
        issuer_device_id=row[2],
        issued_at=row[3] // _SECOND,
        expires_at=row[4] // _SECOND,
    )


def claim(transaction: Transaction, claimed: PairingClaim) -> ClaimedPairing:
    """Check everything and write it, or raise :class:`PairingRefusedError`."""
    connection = transaction.connection
    row = connection.execute(
        "SELECT user_id, issuer_device_id, expires_at, redeemed_at, public_key FROM device_pairing "
        "WHERE pair_code = ?",
        (claimed.code_hash,),
    ).fetchone()
    if row is None:
        raise PairingRefusedError(PairingRefusal.UNKNOWN)
    user_id, issuer_device_id, expires_at, redeemed_at, used_by = row
    user = accounts.load_user(connection, user_id)
    assert user is not None, "a foreign key ties the code to its user"
    device = claimed.device
    if redeemed_at is not None:
        stored = _repeated(connection, device, used_by)
        if stored is None or expires_at <= claimed.now * _SECOND:
            raise PairingRefusedError(PairingRefusal.INVALID)
        waits = accounts.load_device(connection, device.device_id) is None
        return ClaimedPairing(
            device=stored, user=user, issuer_device_id=issuer_device_id, waits=waits, repeated=True
        )
    issuer = accounts.load_device(connection, issuer_device_id)
    if (
        expires_at <= claimed.now * _SECOND
        or user_id != device.user_id
        or issuer is None
        or issuer.status is not DeviceStatus.ACTIVE
    ):
        raise PairingRefusedError(PairingRefusal.INVALID)
    _refuse_taken(connection, device.device_id)
    _refuse_too_many(connection, user_id, claimed.device_limit)
    waits = claimed.waits_until is not None
    if claimed.waits_until is not None:
        waiting = PendingDevice(
            device_id=device.device_id,
            user_id=user_id,
            public_key=device.public_key,
            name=claimed.name,
            issuer_device_id=issuer_device_id,
            requested_at=claimed.now,
            expires_at=claimed.waits_until,
        )
        insert(connection, "pending_device", waiting, taken="such a device waits already")
    else:
        assert claimed.certificate is not None
        assert claimed.key_event is not None
        _admit(transaction, device, claimed.name, claimed.certificate, claimed.key_event)
    connection.execute(
        "UPDATE device_pairing SET redeemed_at = ?, redeemed_device_id = ?, public_key = ? "
        "WHERE pair_code = ?",
        (
            claimed.now * _SECOND,
            None if waits else device.device_id,
            device.public_key,
            claimed.code_hash,
        ),
    )
    return ClaimedPairing(
        device=device, user=user, issuer_device_id=issuer_device_id, waits=waits, repeated=False
    )


def _repeated(connection: sqlite3.Connection, device: Device, used_by: bytes | None) -> Device | None:
    """The device that has used the code, if it is this one."""
    if used_by is None or not hmac.compare_digest(used_by, device.public_key):
        return None
    stored = accounts.load_device(connection, device.device_id)
    if stored is not None:
        same = stored.public_key == device.public_key and stored.status is DeviceStatus.ACTIVE
        return stored if same else None
    waiting = load_pending(connection, device.device_id)
    return device if waiting is not None and waiting.public_key == device.public_key else None


def _refuse_taken(connection: sqlite3.Connection, device_id: str) -> None:
    if (
        "@" in device_id  # that would be a device of another server
        or accounts.load_device(connection, device_id) is not None
        or load_pending(connection, device_id) is not None
    ):
        raise PairingRefusedError(PairingRefusal.DEVICE_TAKEN)


def _refuse_too_many(connection: sqlite3.Connection, user_id: str, limit: int) -> None:
    [waiting] = connection.execute(
        "SELECT count(*) FROM pending_device WHERE user_id = ?", (user_id,)
    ).fetchone()
    if accounts.count_active_devices(connection, user_id) + waiting >= limit:
        raise PairingRefusedError(PairingRefusal.DEVICE_LIMIT)


def _admit(
    transaction: Transaction, device: Device, name: str | None, certificate: CertificateRow, event: KeyEvent
) -> None:
    connection = transaction.connection
    insert_with_inbox(connection, device)
    transaction.inboxes.forget(device.device_id)
    accounts.insert_certificate(connection, certificate)
    accounts.insert_key_event(connection, event)
    if name is not None:
        connection.execute(
            "INSERT INTO device_name (device_id, name) VALUES (?, ?)", (device.device_id, name)
        )


# -- devices -----------------------------------------------------------------------------------------


def devices_of(connection: sqlite3.Connection, user_id: str) -> tuple[NamedDevice, ...]:
    """The oldest first."""
    condition = "user_id = ? ORDER BY created_at, device_id"
    found = select(connection, Device, "user_device", condition, (user_id,))
    names = dict(
        connection.execute(
            "SELECT n.device_id, n.name FROM device_name AS n JOIN user_device AS d USING (device_id) "
            "WHERE d.user_id = ?",
            (user_id,),
        )
    )
    return tuple(
        NamedDevice(
            device=attrs.evolve(device, status=DeviceStatus(device.status)), name=names.get(device.device_id)
        )
        for device in found
    )


def load_pending(connection: sqlite3.Connection, device_id: str) -> PendingDevice | None:
    """The device that waits under this id."""
    return first(select(connection, PendingDevice, "pending_device", "device_id = ?", (device_id,)))


def pending_devices(connection: sqlite3.Connection, user_id: str | None) -> tuple[PendingDevice, ...]:
    """The oldest request first."""
    order = "ORDER BY requested_at, device_id"
    if user_id is None:
        return tuple(select(connection, PendingDevice, "pending_device", f"true {order}", ()))
    return tuple(select(connection, PendingDevice, "pending_device", f"user_id = ? {order}", (user_id,)))


def approve(
    transaction: Transaction,
    pending: PendingDevice,
    certificate: CertificateRow,
    event: KeyEvent,
    device_limit: int,
    records: Sequence[OperatorRecord] = (),
) -> Device:
    """Admit a device that waits, or raise :class:`PairingRefusedError`."""
    connection = transaction.connection
    if load_pending(connection, pending.device_id) != pending:
        raise PairingRefusedError(PairingRefusal.UNKNOWN)
    reject(connection, pending.device_id)
    _refuse_taken(connection, pending.device_id)
    _refuse_too_many(connection, pending.user_id, device_limit)
    device = Device(
        device_id=pending.device_id,
        user_id=pending.user_id,
        public_key=pending.public_key,
        status=DeviceStatus.ACTIVE,
        created_at=event.recorded_at,
    )
    _admit(transaction, device, pending.name, certificate, event)
    operating.add_records(connection, records)
    return device


def reject(connection: sqlite3.Connection, device_id: str, records: Sequence[OperatorRecord] = ()) -> bool:
    """Forget a device that waits; False if it does not."""
    if connection.execute("DELETE FROM pending_device WHERE device_id = ?", (device_id,)).rowcount != 1:
        return False
    operating.add_records(connection, records)
    return True


def revoke(
    transaction: Transaction,
    device_id: str,
    now: int,
    event: KeyEvent | None,
    records: Sequence[OperatorRecord],
) -> bool:
    """Mark the device and its certificates revoked, delete its sessions; False if it is unknown."""
    connection = transaction.connection
    transaction.inboxes.forget(device_id)
    device = accounts.load_device(connection, device_id)
    if device is None:
        return False
    if device.status is not DeviceStatus.REVOKED:
        if event is not None:
            accounts.insert_key_event(connection, event)
        operating.add_records(connection, records)
    connection.execute(
        "UPDATE user_device SET status = ? WHERE device_id = ?", (DeviceStatus.REVOKED.value, device_id)
    )
    connection.execute(
        "UPDATE device_certificates SET revoked_at = ? WHERE device_id = ? AND revoked_at IS NULL",
        (now, device_id),
    )
    connection.execute("DELETE FROM session WHERE device_id = ?", (device_id,))
    return True


# -- keys and sessions ---------------------------------------------------------------------------------


def rotate(transaction: Transaction, rotation: Rotation) -> None:
    """Change a key, or raise :class:`RotationRefusedError`."""
    connection, device_id = transaction.connection, rotation.device_id
    stored = accounts.load_device(connection, device_id)
    if stored is None or stored.status is not DeviceStatus.ACTIVE:
        raise RotationRefusedError(RotationRefusal.UNKNOWN)
    if not hmac.compare_digest(stored.public_key, rotation.old_public_key):
        raise RotationRefusedError(RotationRefusal.KEY_CHANGED)
    [changed_at] = connection.execute(
        "SELECT max(applied_at) FROM device_rotation_audit WHERE device_id = ?", (device_id,)
    ).fetchone()
    since = stored.created_at if changed_at is None else changed_at // _SECOND
    if rotation.applied_at - since < rotation.min_interval:
        raise RotationRefusedError(RotationRefusal.TOO_SOON, retry_at=since + rotation.min_interval)
    new_key = rotation.new_public_key
    used = connection.execute(
        "SELECT 1 FROM user_device WHERE public_key = ?2 UNION ALL SELECT 1 FROM device_key_event "
        "WHERE device_id = ?1 AND public_key = ?2 UNION ALL SELECT 1 FROM device_rotation_audit "
        "WHERE device_id = ?1 AND ?2 IN (old_public_key, new_public_key) LIMIT 1",
        (device_id, new_key),
    ).fetchone()
    if used is not None:
        raise RotationRefusedError(RotationRefusal.KEY_USED)
    connection.execute("UPDATE user_device SET public_key = ? WHERE device_id = ?", (new_key, device_id))
    connection.execute(
        "UPDATE device_certificates SET revoked_at = ? WHERE device_id = ? AND revoked_at IS NULL",
        (rotation.applied_at, device_id),
    )
    connection.execute("DELETE FROM session WHERE device_id = ?", (device_id,))
    connection.execute(
        "INSERT INTO device_rotation_audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            rotation.rotation_id,
            device_id,
            rotation.old_public_key,
            new_key,
            rotation.signature,
            rotation.nonce,
            rotation.proof_expires_at * _SECOND,
            rotation.applied_at * _SECOND,
        ),
    )
    accounts.insert_key_event(connection, rotation.key_event)
    accounts.insert_certificate(connection, rotation.certificate)
    transaction.inboxes.forget(device_id)


# -- expiry -------------------------------------------------------------------------------------------


def purge(now: int, transaction: Transaction) -> int:
    """Delete codes and requests whose time is over; how many."""
    connection = transaction.connection
    codes = connection.execute("DELETE FROM device_pairing WHERE expires_at <= ?", (now * _SECOND,)).rowcount
    waiting = connection.execute("DELETE FROM pending_device WHERE expires_at <= ?", (now,)).rowcount
    return codes + waiting
