"""Users, devices, certificates, codes, sessions and secrets: one function for each statement or two.

Functions that write are called inside a transaction; the others on any connection.
"""

import attrs

from commucat_storage.errors import StorageError
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.rows import first, insert, select
from commucat_storage.records import (
    CertificateRow,
    Device,
    DeviceStatus,
    EnrolmentCode,
    KeyEvent,
    Secret,
    SessionRow,
    User,
)


async def lock_device(connection: Connection, device_id: str, *, changes: bool) -> bool:
    """Lock the device's inbox, which whoever sends to it locks too; False for an unknown device.

    With ``changes`` everybody forgets what is remembered of the device's status, routes and groups.
    """
    if changes:
        done = await connection.execute(
            "UPDATE inbox_offset SET relations = relations + 1 WHERE entity_id = $1", device_id
        )
        return done == "UPDATE 1"
    return bool(
        await connection.fetchval(
            "SELECT true FROM inbox_offset WHERE entity_id = $1 FOR NO KEY UPDATE", device_id
        )
    )


# -- users -----------------------------------------------------------------------------------------


async def load_user(connection: Connection, user_id: str) -> User | None:
    """The user with this id."""
    return await first(connection, User, "app_user", "user_id = $1", user_id)


async def load_user_by_handle(connection: Connection, handle: str, domain: str) -> User | None:
    """The user with this handle within ``domain``."""
    return await first(connection, User, "app_user", "handle = $1 AND domain = $2", handle, domain)


async def insert_user(connection: Connection, user: User) -> None:
    """Raises :class:`AlreadyExistsError` when the id or the handle is taken."""
    taken = f"the id of {user.handle}@{user.domain}, or the handle, is taken"
    await insert(connection, "app_user", user, taken=taken)


async def update_profile(
    connection: Connection, user_id: str, display_name: str | None, avatar_url: str | None
) -> None:
    """Set what is not None."""
    if display_name is not None or avatar_url is not None:
        await connection.execute(
            "UPDATE app_user SET display_name = coalesce($1, display_name), "
            "avatar_url = coalesce($2, avatar_url), updated_at = now() WHERE user_id = $3",
            display_name,
            avatar_url,
            user_id,
        )


async def set_avatar(connection: Connection, user_id: str, avatar_url: str) -> str | None:
    """The avatar before, if it was another one and nobody has it any more. Raises :class:`StorageError`."""
    row = await connection.fetchrow(
        "SELECT avatar_url FROM app_user WHERE user_id = $1 FOR NO KEY UPDATE", user_id
    )
    if row is None:
        raise StorageError(f"there is no user with id {user_id}")
    await update_profile(connection, user_id, None, avatar_url)
    before: str | None = row[0]
    return None if before is None or await has_avatar(connection, before) else before


async def has_avatar(connection: Connection, avatar_url: str) -> bool:
    """Whether a user has this avatar."""
    return bool(
        await connection.fetchval("SELECT EXISTS (SELECT 1 FROM app_user WHERE avatar_url = $1)", avatar_url)
    )


async def insert_code(connection: Connection, code: EnrolmentCode) -> None:
    """Raises :class:`StorageError` without the user, :class:`AlreadyExistsError` for a known code."""
    if await load_user(connection, code.user_id) is None:
        raise StorageError(f"there is no user with id {code.user_id}")
    await insert(connection, "enrolment_code", code, taken="there is such an enrolment code already")


async def use_code(connection: Connection, code_hash: bytes, device: Device, now: int) -> bool:
    """Consume the code for ``device``; False if it is unknown, used, expired or of another user."""
    used = await connection.execute(
        "UPDATE enrolment_code SET used_at = to_timestamp($1::float8), used_by = $2 WHERE code_hash = $3 "
        "AND user_id = $4 AND used_at IS NULL AND expires_at > to_timestamp($1::float8)",
        now,
        device.device_id,
        code_hash,
        device.user_id,
    )
    return used == "UPDATE 1"


# -- devices ---------------------------------------------------------------------------------------


async def load_device(connection: Connection, device_id: str) -> Device | None:
    """The device with this id."""
    device = await first(connection, Device, "user_device", "opaque_id = $1", device_id)
    return None if device is None else attrs.evolve(device, status=DeviceStatus(device.status))


async def insert_device(connection: Connection, device: Device) -> None:
    """Raises :class:`AlreadyExistsError` when the id is taken."""
    taken = f"there is a device {device.device_id} already"
    await insert(connection, "user_device", device, taken=taken, status=device.status.value)


async def count_active_devices(connection: Connection, user_id: str) -> int:
    """How many devices of the user may connect."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM user_device WHERE user_id = $1 AND status = 'active'", user_id
        )
    )


async def insert_key_event(connection: Connection, event: KeyEvent) -> None:
    """Raises :class:`AlreadyExistsError` when the event id is taken."""
    taken = f"there is a key event {event.event_id} already"
    await insert(connection, "device_key_event", event, taken=taken)


async def newest_certificate(connection: Connection, device_id: str) -> CertificateRow | None:
    """The newest certificate of the device that is not revoked."""
    condition = "device_id = $1 AND revoked_at IS NULL ORDER BY issued_at DESC, position DESC LIMIT 1"
    found = await first(connection, CertificateRow, "device_certificates", condition, device_id)
    return None if found is None else attrs.evolve(found, serial=int(found.serial))


async def insert_certificate(connection: Connection, certificate: CertificateRow) -> None:
    """Raises :class:`AlreadyExistsError` when the serial is taken."""
    taken = f"there is a certificate {certificate.serial} already"
    await insert(connection, "device_certificates", certificate, taken=taken, serial=str(certificate.serial))


async def add_certificate(
    connection: Connection, certificate: CertificateRow, event: KeyEvent | None
) -> bool:
    """False if there is an event and the device is not active with its key."""
    if event is not None:
        # Whoever changes the key or revokes the device locks it, too.
        if not await lock_device(connection, event.device_id, changes=False):
            return False
        device = await load_device(connection, event.device_id)
        if device is None or not device.is_active_with(event.public_key):
            return False
        await insert_key_event(connection, event)
    await insert_certificate(connection, certificate)
    return True


# -- sessions --------------------------------------------------------------------------------------


async def load_session(connection: Connection, token_hash: str) -> SessionRow | None:
    """The session, expired or not."""
    return await first(connection, SessionRow, "session", "opaque_id = $1", token_hash)


async def insert_session(connection: Connection, session: SessionRow) -> None:
    """Raises :class:`AlreadyExistsError` when the token's hash is taken."""
    await insert(connection, "session", session, taken="there is a session with this token already")


async def refresh_session(connection: Connection, token_hash: str, now: int) -> bool:
    """Start the session's lifetime anew; False if there is none."""
    changed = await connection.execute(
        "UPDATE session SET refreshed_at = to_timestamp($1::float8) WHERE opaque_id = $2", now, token_hash
    )
    return changed == "UPDATE 1"


async def delete_session(connection: Connection, token_hash: str) -> bool:
    """False if there is none."""
    return await connection.execute("DELETE FROM session WHERE opaque_id = $1", token_hash) == "DELETE 1"


# -- secrets ---------------------------------------------------------------------------------------


async def insert_secret(connection: Connection, secret: Secret) -> None:
    """Raises :class:`AlreadyExistsError` when the version exists."""
    taken = f"there is a version {secret.version} of {secret.name} already"
    await insert(connection, "server_secret", secret, taken=taken)


async def active_secrets(connection: Connection, name: str, now: int) -> tuple[Secret, ...]:
    """Versions valid at ``now``, newest first."""
    condition = (
        "name = $1 AND valid_after <= to_timestamp($2::float8) AND expires_at > to_timestamp($2::float8) "
        "ORDER BY version DESC"
    )
    return tuple(await select(connection, Secret, "server_secret", condition, name, now))


async def latest_secret_version(connection: Connection, name: str) -> int:
    """0 when there is none."""
    return int(
        await connection.fetchval("SELECT coalesce(max(version), 0) FROM server_secret WHERE name = $1", name)
    )
