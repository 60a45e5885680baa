"""Admitting a proved device, inside the writer's transaction."""

import hmac
import secrets
import sqlite3

import attrs

from commucat_storage.admission import RENEWAL_NUMBER, Admission, AdmissionKind, Admitted
from commucat_storage.device_inbox import NEVER
from commucat_storage.errors import AdmissionRefusal, AdmissionRefusedError
from commucat_storage.inbox import MAX_INBOX_NUMBER, InboxState
from commucat_storage.records import Device, DeviceStatus, User
from commucat_storage.sqlite import accounts, operating
from commucat_storage.sqlite.writer import Transaction

_ROW = """frame_type, channel, expires_at, size, payload, payload_id, stranger, reporter, reference, sender,
    target, group_id"""


def admit(transaction: Transaction, admission: Admission) -> Admitted:
    """Check everything again and write it, or raise :class:`AdmissionRefusedError`."""
    connection = transaction.connection
    device = admission.device
    name, avatar = admission.display_name, admission.avatar_url
    if admission.kind is AdmissionKind.KNOWN_DEVICE:
        stored, user, inbox = _known(connection, device)
        changed = attrs.evolve(
            user,
            display_name=user.display_name if name is None else name,
            avatar_url=user.avatar_url if avatar is None else avatar,
        )
        if changed != user:
            accounts.update_profile(connection, stored.user_id, name, avatar)
            user = changed
        inbox = _renewed(connection, stored.device_id, inbox)
    else:
        stored = device
        inbox = _enrol(connection, admission)
        accounts.update_profile(connection, stored.user_id, name, avatar)
        user = _owner(connection, stored)
    transaction.inboxes.forget(stored.device_id)
    if admission.certificate is not None:
        accounts.insert_certificate(connection, admission.certificate)
    if admission.key_event is not None:
        accounts.insert_key_event(connection, admission.key_event)
    if admission.session is not None:
        accounts.insert_session(connection, admission.session)
    operating.add_records(connection, admission.records)
    return Admitted(user=user, device=stored, inbox=inbox)


def _known(connection: sqlite3.Connection, device: Device) -> tuple[Device, User, InboxState]:
    found = accounts.device_with_inbox(connection, device.device_id)
    if found is None:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_UNKNOWN)
    stored = found[0]
    if stored.status is not DeviceStatus.ACTIVE:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_INACTIVE)
    if stored.user_id != device.user_id or not hmac.compare_digest(stored.public_key, device.public_key):
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_CHANGED)
    return found


def _enrol(connection: sqlite3.Connection, admission: Admission) -> InboxState:
    device = admission.device
    if "@" in device.device_id:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_ELSEWHERE)
    if accounts.load_device(connection, device.device_id) is not None:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_TAKEN)
    if admission.kind is AdmissionKind.NEW_USER:
        user = admission.user
        assert user is not None, "check_admission was called"
        _refuse_taken(connection, user)
        accounts.insert_user(connection, user)
    else:
        _join(connection, admission)
    return insert_with_inbox(connection, device)


def insert_with_inbox(connection: sqlite3.Connection, device: Device) -> InboxState:
    """Insert a device and its empty inbox. Raises :class:`AlreadyExistsError` when the id is taken."""
    inbox, state = insert_inbox(connection)
    accounts.insert_device(connection, device, inbox)
    return state


def insert_inbox(connection: sqlite3.Connection) -> tuple[int, InboxState]:
    """Insert an empty inbox for whom the caller says; its id and how it stands."""
    epoch = secrets.token_hex(16)
    cursor = connection.execute(
        "INSERT INTO inbox_offset (epoch, next_number, confirmed, rows, bytes, shared, earliest) "
        "VALUES (?, 1, 0, 0, 0, 0, ?) RETURNING inbox",
        (epoch, NEVER),
    )
    [[inbox]] = cursor.fetchall()
    return inbox, InboxState(epoch, 1, 0)


def _refuse_taken(connection: sqlite3.Connection, user: User) -> None:
    if (
        accounts.load_user_by_handle(connection, user.handle, user.domain) is not None
        or accounts.load_user(connection, user.user_id) is not None
    ):
        raise AdmissionRefusedError(AdmissionRefusal.HANDLE_TAKEN)


def _join(connection: sqlite3.Connection, admission: Admission) -> None:
    """Let one more device join a user that exists."""
    device = admission.device
    if accounts.load_user(connection, device.user_id) is None:
        raise AdmissionRefusedError(AdmissionRefusal.USER_UNKNOWN)
    limit = admission.device_limit
    if limit is not None and accounts.count_active_devices(connection, device.user_id) >= limit:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_LIMIT)
    if admission.kind is AdmissionKind.BY_CODE:
        code_hash = admission.code_hash
        assert code_hash is not None, "check_admission was called"
        if not accounts.use_code(connection, code_hash, device, admission.now):
            raise AdmissionRefusedError(AdmissionRefusal.CODE_INVALID)


def _owner(connection: sqlite3.Connection, device: Device) -> User:
    user = accounts.load_user(connection, device.user_id)
    assert user is not None, "a foreign key ties the device to its user"
    return user


def _renewed(connection: sqlite3.Connection, device_id: str, state: InboxState) -> InboxState:
    """The inbox, which stands at ``state``; with a new epoch if its numbers come near their end."""
    if state.next_number <= RENEWAL_NUMBER:
        return state
    [[old]] = connection.execute("SELECT inbox FROM user_device WHERE device_id = ?", (device_id,)).fetchall()
    new, state = renew_inbox(connection, old)
    connection.execute("UPDATE user_device SET inbox = ? WHERE device_id = ?", (new, device_id))
    connection.execute("DELETE FROM inbox_offset WHERE inbox = ?", (old,))
    return state


def renew_inbox(connection: sqlite3.Connection, old: int) -> tuple[int, InboxState]:
    """Give an inbox a new epoch; its new id and how it stands.

    The rows move to a fresh inbox id, numbered from 1: their new positions cannot meet the old. The caller
    ties the owner to the new id, and deletes the old one.
    """
    epoch = secrets.token_hex(16)
    [[rows]] = connection.execute("SELECT rows FROM inbox_offset WHERE inbox = ?", (old,)).fetchall()
    [[new]] = connection.execute(
        "INSERT INTO inbox_offset (epoch, next_number, confirmed, rows, bytes, shared, earliest, "
        "stranger_rows, stranger_bytes, reports) SELECT ?, rows + 1, 0, rows, bytes, shared, earliest, "
        "stranger_rows, stranger_bytes, reports FROM inbox_offset WHERE inbox = ? RETURNING inbox",
        (epoch, old),
    ).fetchall()
    old_positions = (old << 32, (old << 32) + MAX_INBOX_NUMBER)
    connection.execute(
        f"INSERT INTO relay_queue (position, {_ROW}) "  # noqa: S608 - names of ours
        f"SELECT ? + row_number() OVER (ORDER BY position), {_ROW} FROM relay_queue "
        "WHERE position BETWEEN ? AND ?",
        (new << 32, *old_positions),
    )
    connection.execute("DELETE FROM relay_queue WHERE position BETWEEN ? AND ?", old_positions)
    return new, InboxState(epoch, rows + 1, 0)
