"""A user's further devices and their keys: what is written is written inside a transaction."""

import hmac
from collections.abc import Sequence

import asyncpg
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
from commucat_storage.postgres import accounts, nodes, operating
from commucat_storage.postgres.admit import insert_with_inbox
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.rows import first, insert, select
from commucat_storage.records import CertificateRow, Device, DeviceStatus, KeyEvent

_OFFER = (
    "pair_code, user_id, issuer_device_id, "
    "extract(epoch FROM issued_at)::bigint, extract(epoch FROM expires_at)::bigint"
)

# -- pairing -----------------------------------------------------------------------------------------


async def offer(connection: Connection, offered: PairingOffer, most: int) -> None:
    """Store a code; raises :class:`PairingRefusedError` or :class:`AlreadyExistsError`."""
    # Locked: of several codes that one device asks for at once only so many may count themselves in.
    owner = await connection.fetchval(
        "SELECT user_id FROM user_device WHERE opaque_id = $1 AND status = 'active' FOR NO KEY UPDATE",
        offered.issuer_device_id,
    )
    if owner != offered.user_id:
        raise PairingRefusedError(PairingRefusal.ISSUER_INACTIVE)
    open_codes = await connection.fetchval(
        "SELECT count(*) FROM device_pairing WHERE issuer_device_id = $1 AND redeemed_at IS NULL "
        "AND expires_at > to_timestamp($2::float8)",
        offered.issuer_device_id,
        offered.issued_at,
    )
    if open_codes >= most:
        raise PairingRefusedError(PairingRefusal.CODE_LIMIT)
    done = await connection.execute(
        "INSERT INTO device_pairing (pair_code, user_id, issuer_device_id, issued_at, expires_at) "
        "VALUES ($1, $2, $3, to_timestamp($4::float8), to_timestamp($5::float8)) ON CONFLICT DO NOTHING",
        offered.code_hash,
        offered.user_id,
        offered.issuer_device_id,
        offered.issued_at,
        offered.expires_at,
    )
    if done != "INSERT 0 1":
        raise AlreadyExistsError("there is such a pairing code already")


async def load_offer(connection: Connection, code_hash: str) -> PairingOffer | None:
    """The offer, used or not."""
    row = await connection.fetchrow(f"SELECT {_OFFER} FROM device_pairing WHERE pair_code = $1", code_hash)  # noqa: S608
    if row is None:
        return None
    return PairingOffer(
        code_hash=row[0], user_id=row[1], issuer_device_id=row[2], issued_at=row[3], expires_at=row[4]
    )


async def claim(connection: Connection, claimed: PairingClaim) -> ClaimedPairing:
    """Check everything and write it, or raise :class:`PairingRefusedError`."""
    row = await connection.fetchrow(
        "SELECT user_id, issuer_device_id, expires_at <= to_timestamp($2::float8), redeemed_at IS NOT NULL, "
        "public_key FROM device_pairing WHERE pair_code = $1 FOR UPDATE",
        claimed.code_hash,
        claimed.now,
    )
    if row is None:
        raise PairingRefusedError(PairingRefusal.UNKNOWN)
    user_id, issuer_device_id, over, redeemed, used_by = row
    user = await accounts.load_user(connection, user_id)
    assert user is not None, "a foreign key ties the code to its user"
    device = claimed.device
    if redeemed:
        stored = await _repeated(connection, device, used_by)
        if stored is None or over:
            raise PairingRefusedError(PairingRefusal.INVALID)
        waits = await accounts.load_device(connection, device.device_id) is None
        return ClaimedPairing(
            device=stored, user=user, issuer_device_id=issuer_device_id, waits=waits, repeated=True
        )
    # Shared: a revocation of the issuer that comes at the same time is seen, or waits for the claim.
    issuer = await connection.fetchval(
        "SELECT true FROM user_device WHERE opaque_id = $1 AND status = 'active' FOR SHARE", issuer_device_id
    )
    if over or user_id != device.user_id or not issuer:
        raise PairingRefusedError(PairingRefusal.INVALID)
    await _lock_user(connection, user_id)
    await _refuse_taken(connection, device.device_id)
    await _refuse_too_many(connection, user_id, claimed.device_limit)
    waits = claimed.waits_until is not None
    try:
        if claimed.waits_until is not None:
            await _insert_pending(connection, claimed, issuer_device_id, claimed.waits_until)
        else:
            assert claimed.certificate is not None
            assert claimed.key_event is not None
            await _admit(connection, device, claimed.name, claimed.certificate, claimed.key_event)
    except AlreadyExistsError as exc:
        # A device of another user was quicker with the same id.
        raise PairingRefusedError(PairingRefusal.DEVICE_TAKEN) from exc
    await connection.execute(
        "UPDATE device_pairing SET redeemed_at = to_timestamp($2::float8), redeemed_device_id = $3, "
        "public_key = $4 WHERE pair_code = $1",
        claimed.code_hash,
        claimed.now,
        None if waits else device.device_id,
        device.public_key,
    )
    return ClaimedPairing(
        device=device, user=user, issuer_device_id=issuer_device_id, waits=waits, repeated=False
    )


async def _insert_pending(
    connection: Connection, claimed: PairingClaim, issuer_device_id: str, until: int
) -> None:
    waiting = PendingDevice(
        device_id=claimed.device.device_id,
        user_id=claimed.device.user_id,
        public_key=claimed.device.public_key,
        name=claimed.name,
        issuer_device_id=issuer_device_id,
        requested_at=claimed.now,
        expires_at=until,
    )
    await insert(connection, "pending_device", waiting, taken="such a device waits already")


async def _repeated(connection: Connection, device: Device, used_by: bytes | None) -> Device | None:
    """The device that has used the code, if it is this one."""
    if used_by is None or not hmac.compare_digest(used_by, device.public_key):
        return None
    stored = await accounts.load_device(connection, device.device_id)
    if stored is not None:
        same = stored.public_key == device.public_key and stored.status is DeviceStatus.ACTIVE
        return stored if same else None
    waiting = await load_pending(connection, device.device_id)
    return device if waiting is not None and waiting.public_key == device.public_key else None


async def _lock_user(connection: Connection, user_id: str) -> None:
    """Of several devices that come at once only as many as the limit allows may count themselves in."""
    await connection.fetchval("SELECT true FROM app_user WHERE user_id = $1 FOR NO KEY UPDATE", user_id)


async def _refuse_taken(connection: Connection, device_id: str) -> None:
    if (
        "@" in device_id  # that would be a device of another server
        or await accounts.load_device(connection, device_id) is not None
        or await load_pending(connection, device_id) is not None
    ):
        raise PairingRefusedError(PairingRefusal.DEVICE_TAKEN)


async def _refuse_too_many(connection: Connection, user_id: str, limit: int) -> None:
    waiting = await connection.fetchval("SELECT count(*) FROM pending_device WHERE user_id = $1", user_id)
    if await accounts.count_active_devices(connection, user_id) + waiting >= limit:
        raise PairingRefusedError(PairingRefusal.DEVICE_LIMIT)


async def _admit(
    connection: Connection, device: Device, name: str | None, certificate: CertificateRow, event: KeyEvent
) -> None:
    await insert_with_inbox(connection, device)
    await accounts.insert_certificate(connection, certificate)
    await accounts.insert_key_event(connection, event)
    if name is not None:
        await connection.execute(
            "INSERT INTO device_name (device_id, name) VALUES ($1, $2)", device.device_id, name
        )


# -- devices -----------------------------------------------------------------------------------------


async def devices_of(connection: Connection, user_id: str) -> tuple[NamedDevice, ...]:
    """The oldest first."""
    condition = "user_id = $1 ORDER BY created_at, opaque_id"
    found = await select(connection, Device, "user_device", condition, user_id)
    rows = await connection.fetch(
        "SELECT n.device_id, n.name FROM device_name AS n JOIN user_device AS d ON d.opaque_id = n.device_id "
        "WHERE d.user_id = $1",
        user_id,
    )
    names: dict[str, str] = dict(rows)
    return tuple(
        NamedDevice(
            device=attrs.evolve(device, status=DeviceStatus(device.status)), name=names.get(device.device_id)
        )
        for device in found
    )


async def load_pending(connection: Connection, device_id: str) -> PendingDevice | None:
    """The device that waits under this id."""
    return await first(connection, PendingDevice, "pending_device", "device_id = $1", device_id)


async def pending_devices(connection: Connection, user_id: str | None) -> tuple[PendingDevice, ...]:
    """The oldest request first."""
    condition = "($1::text IS NULL OR user_id = $1) ORDER BY requested_at, device_id"
    return tuple(await select(connection, PendingDevice, "pending_device", condition, user_id))


async def approve(
    connection: Connection,
    pending: PendingDevice,
    certificate: CertificateRow,
    event: KeyEvent,
    device_limit: int,
    records: Sequence[OperatorRecord] = (),
) -> Device:
    """Admit a device that waits, or raise :class:`PairingRefusedError`."""
    await _lock_user(connection, pending.user_id)
    if await load_pending(connection, pending.device_id) != pending:
        raise PairingRefusedError(PairingRefusal.UNKNOWN)
    if not await reject(connection, pending.device_id):
        raise PairingRefusedError(PairingRefusal.UNKNOWN)
    await _refuse_taken(connection, pending.device_id)
    await _refuse_too_many(connection, pending.user_id, device_limit)
    device = Device(
        device_id=pending.device_id,
        user_id=pending.user_id,
        public_key=pending.public_key,
        status=DeviceStatus.ACTIVE,
        created_at=event.recorded_at,
    )
    try:
        await _admit(connection, device, pending.name, certificate, event)
    except AlreadyExistsError as exc:
        raise PairingRefusedError(PairingRefusal.DEVICE_TAKEN) from exc
    await operating.add_records(connection, records)
    return device


async def reject(connection: Connection, device_id: str, records: Sequence[OperatorRecord] = ()) -> bool:
    """Forget a device that waits; False if it does not."""
    done = await connection.execute("DELETE FROM pending_device WHERE device_id = $1", device_id)
    if done != "DELETE 1":
        return False
    await operating.add_records(connection, records)
    return True


async def revoke(
    connection: Connection,
    device_id: str,
    now: int,
    event: KeyEvent | None,
    records: Sequence[OperatorRecord],
) -> bool:
    """Mark the device and its certificates revoked, delete its sessions; False if it is unknown."""
    if not await accounts.lock_device(connection, device_id, changes=True):
        return False
    device = await accounts.load_device(connection, device_id)
    if device is not None and device.status is not DeviceStatus.REVOKED:
        if event is not None:
            await accounts.insert_key_event(connection, event)
        await operating.add_records(connection, records)
    await connection.execute(
        "UPDATE user_device SET status = $2 WHERE opaque_id = $1", device_id, DeviceStatus.REVOKED.value
    )
    await connection.execute(
        "UPDATE device_certificates SET revoked_at = to_timestamp($2::float8) "
        "WHERE device_id = $1 AND revoked_at IS NULL",
        device_id,
        now,
    )
    await connection.execute("DELETE FROM session WHERE device_id = $1", device_id)
    await nodes.have_looked_at(connection, device_id)
    return True


# -- keys ----------------------------------------------------------------------------------------------


async def rotate(connection: Connection, rotation: Rotation) -> None:
    """Change a key, or raise :class:`RotationRefusedError`."""
    device_id, new_key = rotation.device_id, rotation.new_public_key
    # First what admissions lock, too: none of the old key can come in behind this.
    if not await accounts.lock_device(connection, device_id, changes=True):
        raise RotationRefusedError(RotationRefusal.UNKNOWN)
    stored = await accounts.load_device(connection, device_id)
    if stored is None or stored.status is not DeviceStatus.ACTIVE:
        raise RotationRefusedError(RotationRefusal.UNKNOWN)
    if not hmac.compare_digest(stored.public_key, rotation.old_public_key):
        raise RotationRefusedError(RotationRefusal.KEY_CHANGED)
    changed_at = await connection.fetchval(
        "SELECT extract(epoch FROM max(applied_at))::bigint FROM device_rotation_audit WHERE device_id = $1",
        device_id,
    )
    since = stored.created_at if changed_at is None else changed_at
    if rotation.applied_at - since < rotation.min_interval:
        raise RotationRefusedError(RotationRefusal.TOO_SOON, retry_at=since + rotation.min_interval)
    used = await connection.fetchval(
        "SELECT EXISTS (SELECT 1 FROM user_device WHERE pubkey = $2) OR EXISTS (SELECT 1 FROM "
        "device_key_event WHERE device_id = $1 AND public_key = $2) OR EXISTS (SELECT 1 FROM "
        "device_rotation_audit WHERE device_id = $1 AND $2 IN (old_public_key, new_public_key))",
        device_id,
        new_key,
    )
    if used:
        raise RotationRefusedError(RotationRefusal.KEY_USED)
    await connection.execute("UPDATE user_device SET pubkey = $2 WHERE opaque_id = $1", device_id, new_key)
    await connection.execute(
        "UPDATE device_certificates SET revoked_at = to_timestamp($2::float8) "
        "WHERE device_id = $1 AND revoked_at IS NULL",
        device_id,
        rotation.applied_at,
    )
    await connection.execute("DELETE FROM session WHERE device_id = $1", device_id)
    try:
        await connection.execute(
            "INSERT INTO device_rotation_audit (rotation_id, device_id, old_public_key, new_public_key, "
            "signature, nonce, proof_expires_at, applied_at) VALUES "
            "($1, $2, $3, $4, $5, $6, to_timestamp($7::float8), to_timestamp($8::float8))",
            rotation.rotation_id,
            device_id,
            rotation.old_public_key,
            new_key,
            rotation.signature,
            rotation.nonce,
            rotation.proof_expires_at,
            rotation.applied_at,
        )
    except asyncpg.UniqueViolationError as exc:
        raise RotationRefusedError(RotationRefusal.KEY_USED) from exc
    await accounts.insert_key_event(connection, rotation.key_event)
    await accounts.insert_certificate(connection, rotation.certificate)
    await nodes.have_looked_at(connection, device_id)


# -- expiry -------------------------------------------------------------------------------------------


async def purge(connection: Connection, now: int) -> int:
    """Delete codes and requests whose time is over; how many."""
    codes = await connection.execute(
        "DELETE FROM device_pairing WHERE expires_at <= to_timestamp($1::float8)", now
    )
    waiting = await connection.execute(
        "DELETE FROM pending_device WHERE expires_at <= to_timestamp($1::float8)", now
    )
    return int(codes.rpartition(" ")[2]) + int(waiting.rpartition(" ")[2])
