"""Admitting a proved device, in one transaction."""

import hmac
import secrets

from commucat_storage.admission import RENEWAL_NUMBER, Admission, AdmissionKind, Admitted
from commucat_storage.errors import AdmissionRefusal, AdmissionRefusedError
from commucat_storage.inbox import MAX_INBOX_NUMBER, InboxState
from commucat_storage.postgres import accounts
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.reads import inbox_state
from commucat_storage.records import Device, DeviceStatus, User


async def admit(connection: Connection, admission: Admission) -> Admitted:
    """Check everything again and write it, or raise :class:`AdmissionRefusedError`."""
    device = admission.device
    if admission.kind is AdmissionKind.KNOWN_DEVICE:
        stored = await _known(connection, device)
        inbox = await _renewed(connection, stored.device_id)
    else:
        stored = device
        inbox = await _enrol(connection, admission)
    await accounts.update_profile(connection, stored.user_id, admission.display_name, admission.avatar_url)
    if admission.certificate is not None:
        await accounts.insert_certificate(connection, admission.certificate)
    if admission.key_event is not None:
        await accounts.insert_key_event(connection, admission.key_event)
    if admission.session is not None:
        await accounts.insert_session(connection, admission.session)
    return Admitted(user=await _owner(connection, stored), device=stored, inbox=inbox)


async def _known(connection: Connection, device: Device) -> Device:
    # Before it is read: a revocation that comes at the same time must be seen, or wait.
    known = await accounts.lock_device(connection, device.device_id, changes=False)
    stored = await accounts.load_device(connection, device.device_id) if known else None
    if stored is None:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_UNKNOWN)
    if stored.status is not DeviceStatus.ACTIVE:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_INACTIVE)
    if stored.user_id != device.user_id or not hmac.compare_digest(stored.public_key, device.public_key):
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_CHANGED)
    return stored


async def _enrol(connection: Connection, admission: Admission) -> InboxState:
    device = admission.device
    if await accounts.load_device(connection, device.device_id) is not None:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_TAKEN)
    if admission.kind is AdmissionKind.NEW_USER:
        user = admission.user
        assert user is not None, "check_admission was called"
        await _refuse_taken(connection, user)
        await accounts.insert_user(connection, user)
    else:
        await _join(connection, admission)
    await accounts.insert_device(connection, device)
    epoch = secrets.token_hex(16)
    await connection.execute(
        "INSERT INTO inbox_offset (entity_id, epoch) VALUES ($1, $2)", device.device_id, epoch
    )
    return InboxState(epoch, 1, 0)


async def _refuse_taken(connection: Connection, user: User) -> None:
    if (
        await accounts.load_user_by_handle(connection, user.handle, user.domain) is not None
        or await accounts.load_user(connection, user.user_id) is not None
    ):
        raise AdmissionRefusedError(AdmissionRefusal.HANDLE_TAKEN)


async def _join(connection: Connection, admission: Admission) -> None:
    """Let one more device join a user that exists."""
    device = admission.device
    # Locked: of several that come at once only as many as the limit allows may count themselves in.
    known = await connection.fetchval(
        "SELECT true FROM app_user WHERE user_id = $1 FOR NO KEY UPDATE", device.user_id
    )
    if not known:
        raise AdmissionRefusedError(AdmissionRefusal.USER_UNKNOWN)
    limit = admission.device_limit
    if limit is not None and await accounts.count_active_devices(connection, device.user_id) >= limit:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_LIMIT)
    if admission.kind is AdmissionKind.BY_CODE:
        code_hash = admission.code_hash
        assert code_hash is not None, "check_admission was called"
        if not await accounts.use_code(connection, code_hash, device, admission.now):
            raise AdmissionRefusedError(AdmissionRefusal.CODE_INVALID)


async def _owner(connection: Connection, device: Device) -> User:
    user = await accounts.load_user(connection, device.user_id)
    assert user is not None, "a foreign key ties the device to its user"
    return user


async def _renewed(connection: Connection, device_id: str) -> InboxState:
    """The inbox of the device, with a new epoch if its numbers come near their end.

    The rows move to a fresh inbox id, numbered from 1: their new positions cannot meet the old.
    """
    state = await inbox_state(connection, device_id)
    assert state is not None, "a device has an inbox"
    if state.next_number <= RENEWAL_NUMBER:
        return state
    epoch = secrets.token_hex(16)
    old = await connection.fetchval("SELECT inbox FROM inbox_offset WHERE entity_id = $1", device_id)
    new, rows = await _fresh_inbox(connection, device_id, epoch)
    await connection.execute(
        "UPDATE relay_queue AS q SET position = n.position FROM ("
        "SELECT position AS old, $1 + row_number() OVER (ORDER BY position) AS position FROM relay_queue "
        "WHERE position BETWEEN $2 AND $3) AS n WHERE q.position = n.old",
        new << 32,
        old << 32,
        (old << 32) + MAX_INBOX_NUMBER,
    )
    return InboxState(epoch, rows + 1, 0)


async def _fresh_inbox(connection: Connection, device_id: str, epoch: str) -> tuple[int, int]:
    row = await connection.fetchrow(
        "UPDATE inbox_offset SET inbox = nextval(pg_get_serial_sequence('inbox_offset', 'inbox')), "
        "epoch = $2, next_number = rows + 1, confirmed = 0 WHERE entity_id = $1 RETURNING inbox, rows",
        device_id,
        epoch,
    )
    assert row is not None, "the row is locked"
    return row[0], row[1]
