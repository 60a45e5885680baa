"""Users, devices, certificates, codes, sessions and secrets: one function for each statement or two.

Functions that write are called inside the writer's transaction; the others on any connection.
"""

import sqlite3

import attrs

from commucat_storage.errors import StorageError
from commucat_storage.inbox import InboxState
from commucat_storage.known_device import known_device_of
from commucat_storage.records import (
    CertificateRow,
    Device,
    DeviceStatus,
    EnrolmentCode,
    KeyEvent,
    KnownDevice,
    Secret,
    SessionRow,
    User,
)
from commucat_storage.sqlite.rows import first, insert, select


def _columns(alias: str, kind: type[attrs.AttrsInstance]) -> str:
    return ", ".join(f"{alias}.{field.name}" for field in attrs.fields(kind))


# One statement: each gives up the interpreter, and a busy event loop is slow to give it back.
_KNOWN_DEVICE = f"""
SELECT {_columns("d", Device)}, {_columns("u", User)}, {_columns("c", CertificateRow)}
FROM user_device AS d JOIN app_user AS u ON u.user_id = d.user_id
LEFT JOIN device_certificates AS c ON c.serial = (
    SELECT serial FROM device_certificates WHERE device_id = d.device_id AND revoked_at IS NULL
    ORDER BY issued_at DESC, rowid DESC LIMIT 1)
WHERE d.device_id = ?"""  # noqa: S608
_FULL_DEVICE = f"""
SELECT {_columns("d", Device)}, {_columns("u", User)}, o.epoch, o.next_number, o.confirmed
FROM user_device AS d JOIN app_user AS u ON u.user_id = d.user_id JOIN inbox_offset AS o ON o.inbox = d.inbox
WHERE d.device_id = ?"""  # noqa: S608
_DEVICE_NAMES, _USER_NAMES = ([field.name for field in attrs.fields(kind)] for kind in (Device, User))
_DEVICE_LEN = len(_DEVICE_NAMES)

# -- users -----------------------------------------------------------------------------------------


def load_user(connection: sqlite3.Connection, user_id: str) -> User | None:
    """The user with this id."""
    return first(select(connection, User, "app_user", "user_id = ?", (user_id,)))


def load_user_by_handle(connection: sqlite3.Connection, handle: str, domain: str) -> User | None:
    """The user with this handle within ``domain``."""
    return first(select(connection, User, "app_user", "handle = ? AND domain = ?", (handle, domain)))


def insert_user(connection: sqlite3.Connection, user: User) -> None:
    """Raises :class:`AlreadyExistsError` when the id or the handle is taken."""
    insert(
        connection, "app_user", user, taken=f"the id of {user.handle}@{user.domain}, or the handle, is taken"
    )


def update_profile(
    connection: sqlite3.Connection, user_id: str, display_name: str | None, avatar_url: str | None
) -> None:
    """Set what is not None."""
    if display_name is not None or avatar_url is not None:
        connection.execute(
            "UPDATE app_user SET display_name = coalesce(?, display_name), "
            "avatar_url = coalesce(?, avatar_url) WHERE user_id = ?",
            (display_name, avatar_url, user_id),
        )


def set_avatar(connection: sqlite3.Connection, user_id: str, avatar_url: str) -> str | None:
    """The avatar before, if it was another one and nobody has it any more. Raises :class:`StorageError`."""
    user = load_user(connection, user_id)
    if user is None:
        raise StorageError(f"there is no user with id {user_id}")
    update_profile(connection, user_id, None, avatar_url)
    before = user.avatar_url
    return None if before is None or has_avatar(connection, before) else before


def has_avatar(connection: sqlite3.Connection, avatar_url: str) -> bool:
    """Whether a user has this avatar."""
    found = connection.execute("SELECT 1 FROM app_user WHERE avatar_url = ? LIMIT 1", (avatar_url,))
    return found.fetchone() is not None


def insert_code(connection: sqlite3.Connection, code: EnrolmentCode) -> None:
    """Raises :class:`StorageError` without the user, :class:`AlreadyExistsError` for a known code."""
    if load_user(connection, code.user_id) is None:
        raise StorageError(f"there is no user with id {code.user_id}")
    insert(connection, "enrolment_code", code, taken="there is such an enrolment code already")


def use_code(connection: sqlite3.Connection, code_hash: bytes, device: Device, now: int) -> bool:
    """Consume the code for ``device``; False if it is unknown, used, expired or of another user."""
    used = connection.execute(
        "UPDATE enrolment_code SET used_at = ?, used_by = ? "
        "WHERE code_hash = ? AND user_id = ? AND used_at IS NULL AND expires_at > ?",
        (now, device.device_id, code_hash, device.user_id, now),
    )
    return used.rowcount == 1


# -- devices ---------------------------------------------------------------------------------------


def load_device(connection: sqlite3.Connection, device_id: str) -> Device | None:
    """The device with this id."""
    device = first(select(connection, Device, "user_device", "device_id = ?", (device_id,)))
    return None if device is None else attrs.evolve(device, status=DeviceStatus(device.status))


def known_device(connection: sqlite3.Connection, device_id: str) -> KnownDevice | None:
    """The device, its user and its newest certificate that is not revoked."""
    row = connection.execute(_KNOWN_DEVICE, (device_id,)).fetchone()
    return None if row is None else known_device_of(row)


def device_with_inbox(
    connection: sqlite3.Connection, device_id: str
) -> tuple[Device, User, InboxState] | None:
    """The device, its user and where its inbox stands."""
    row = connection.execute(_FULL_DEVICE, (device_id,)).fetchone()
    if row is None:
        return None
    columns = dict(zip(_DEVICE_NAMES, row[:_DEVICE_LEN], strict=True))
    columns["status"] = DeviceStatus(columns["status"])
    user = User(**dict(zip(_USER_NAMES, row[_DEVICE_LEN:-3], strict=True)))
    return Device(**columns), user, InboxState(*row[-3:])


def insert_device(connection: sqlite3.Connection, device: Device, inbox: int) -> None:
    """Raises :class:`AlreadyExistsError` when the id is taken."""
    insert(
        connection,
        "user_device",
        device,
        taken=f"there is a device {device.device_id} already",
        status=device.status.value,
        inbox=inbox,
    )


def count_active_devices(connection: sqlite3.Connection, user_id: str) -> int:
    """How many devices of the user may connect."""
    [count] = connection.execute(
        "SELECT count(*) FROM user_device WHERE user_id = ? AND status = ?",
        (user_id, DeviceStatus.ACTIVE.value),
    ).fetchone()
    return int(count)


def insert_key_event(connection: sqlite3.Connection, event: KeyEvent) -> None:
    """Raises :class:`AlreadyExistsError` when the event id is taken."""
    insert(connection, "device_key_event", event, taken=f"there is a key event {event.event_id} already")


def newest_certificate(connection: sqlite3.Connection, device_id: str) -> CertificateRow | None:
    """The newest certificate of the device that is not revoked."""
    condition = "device_id = ? AND revoked_at IS NULL ORDER BY issued_at DESC, rowid DESC LIMIT 1"
    found = first(select(connection, CertificateRow, "device_certificates", condition, (device_id,)))
    return None if found is None else attrs.evolve(found, serial=int(found.serial))


def insert_certificate(connection: sqlite3.Connection, certificate: CertificateRow) -> None:
    """Raises :class:`AlreadyExistsError` when the serial is taken."""
    insert(
        connection,
        "device_certificates",
        certificate,
        taken=f"there is a certificate {certificate.serial} already",
        serial=str(certificate.serial),
    )


def add_certificate(
    connection: sqlite3.Connection, certificate: CertificateRow, event: KeyEvent | None
) -> bool:
    """False if there is an event and the device is not active with its key."""
    if event is not None:
        device = load_device(connection, event.device_id)
        if device is None or not device.is_active_with(event.public_key):
            return False
        insert_key_event(connection, event)
    insert_certificate(connection, certificate)
    return True


# -- sessions --------------------------------------------------------------------------------------


def load_session(connection: sqlite3.Connection, token_hash: str) -> SessionRow | None:
    """The session, expired or not."""
    return first(select(connection, SessionRow, "session", "token_hash = ?", (token_hash,)))


def insert_session(connection: sqlite3.Connection, session: SessionRow) -> None:
    """Raises :class:`AlreadyExistsError` when the token's hash is taken."""
    insert(connection, "session", session, taken="there is a session with this token already")


def refresh_session(connection: sqlite3.Connection, token_hash: str, now: int) -> bool:
    """Start the session's lifetime anew; False if there is none."""
    changed = connection.execute(
        "UPDATE session SET refreshed_at = ? WHERE token_hash = ?", (now, token_hash)
    )
    return changed.rowcount == 1


def delete_session(connection: sqlite3.Connection, token_hash: str) -> bool:
    """False if there is none."""
    return connection.execute("DELETE FROM session WHERE token_hash = ?", (token_hash,)).rowcount == 1


# -- secrets ---------------------------------------------------------------------------------------


def insert_secret(connection: sqlite3.Connection, secret: Secret) -> None:
    """Raises :class:`AlreadyExistsError` when the version exists."""
    taken = f"there is a version {secret.version} of {secret.name} already"
    insert(connection, "server_secret", secret, taken=taken)


def active_secrets(connection: sqlite3.Connection, name: str, now: int) -> tuple[Secret, ...]:
    """Versions valid at ``now``, newest first."""
    condition = "name = ? AND valid_after <= ? AND expires_at > ? ORDER BY version DESC"
    return tuple(select(connection, Secret, "server_secret", condition, (name, now, now)))


def latest_secret_version(connection: sqlite3.Connection, name: str) -> int:
    """0 when there is none."""
    [version] = connection.execute(
        "SELECT max(version) FROM server_secret WHERE name = ?", (name,)
    ).fetchone()
    return version or 0
