"""Admitting a proved device, in one transaction."""

import hmac
import secrets

import attrs

from commucat_storage.admission import RENEWAL_NUMBER, Admission, AdmissionKind, Admitted
from commucat_storage.errors import AdmissionRefusal, AdmissionRefusedError
from commucat_storage.inbox import MAX_INBOX_NUMBER, InboxState
from commucat_storage.known_device import known_device_of
from commucat_storage.postgres import accounts, nodes, operating
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.rows import columns_of
from commucat_storage.records import CertificateRow, Device, DeviceStatus, User

# Locked, so that a revocation which comes at the same time is seen, or waits: first what whoever sends to
# the device locks too, then the row that is judged, or it would be judged as it was before the wait.
_LOCK_KNOWN = f"""SELECT o.epoch, o.next_number, o.confirmed,
    {columns_of(Device, "user_device", "d")}, {columns_of(User, "app_user", "u")}
FROM inbox_offset AS o JOIN user_device AS d ON d.opaque_id = o.entity_id
JOIN app_user AS u ON u.user_id = d.user_id
WHERE o.entity_id = $1 FOR NO KEY UPDATE OF o FOR SHARE OF d"""  # noqa: S608
_NO_CERTIFICATE = [None] * len(attrs.fields(CertificateRow))


async def admit(connection: Connection, admission: Admission, node: str | None) -> Admitted:
    """Check everything again and write it, or raise :class:`AdmissionRefusedError`.

    ``node``: for whom the device is claimed, if the admission claims; None outside of a cluster.
    """
    device = admission.device
    if admission.kind is AdmissionKind.KNOWN_DEVICE:
        stored, user, inbox = await _known(connection, device)
    else:
        stored = device
        user, inbox = await _enrol(connection, admission)
    user = await _updated(connection, user, admission)
    if admission.certificate is not None:
        await accounts.insert_certificate(connection, admission.certificate)
    if admission.key_event is not None:
        await accounts.insert_key_event(connection, admission.key_event)
    if admission.session is not None:
        await accounts.insert_session(connection, admission.session)
    await operating.add_records(connection, admission.records)
    claim, displaced = 0, None
    if admission.claims and admission.session is not None and node is not None:
        # Under the lock under which the inbox was read: whoever commits a message after this sees us.
        session = admission.session.token_hash
        claim, displaced = await nodes.claim(connection, stored.device_id, node, session)
    return Admitted(user=user, device=stored, inbox=inbox, claim=claim, displaced=displaced)


async def _known(connection: Connection, device: Device) -> tuple[Device, User, InboxState]:
    row = await connection.fetchrow(_LOCK_KNOWN, device.device_id)
    if row is None:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_UNKNOWN)
    state = InboxState(*row[:3])
    found = known_device_of((*row[3:], *_NO_CERTIFICATE))
    stored = found.device
    if stored.status is not DeviceStatus.ACTIVE:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_INACTIVE)
    if stored.user_id != device.user_id or not hmac.compare_digest(stored.public_key, device.public_key):
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_CHANGED)
    return stored, found.user, await _renewed(connection, stored.device_id, state)


async def _updated(connection: Connection, user: User, admission: Admission) -> User:
    """The user with the profile that the admission has, if it has one."""
    name, avatar = admission.display_name, admission.avatar_url
    changed = attrs.evolve(
        user,
        display_name=user.display_name if name is None else name,
        avatar_url=user.avatar_url if avatar is None else avatar,
    )
    if changed != user:
        await accounts.update_profile(connection, user.user_id, name, avatar)
    return changed


async def _enrol(connection: Connection, admission: Admission) -> tuple[User, InboxState]:
    device = admission.device
    if "@" in device.device_id:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_ELSEWHERE)
    if await accounts.load_device(connection, device.device_id) is not None:
        raise AdmissionRefusedError(AdmissionRefusal.DEVICE_TAKEN)
    if admission.kind is AdmissionKind.NEW_USER:
        user = admission.user
        assert user is not None, "check_admission was called"
        await _refuse_taken(connection, user)
        await accounts.insert_user(connection, user)
    else:
        await _join(connection, admission)
        user = await accounts.load_user(connection, device.user_id)
        assert user is not None, "it is locked"
    return user, await insert_with_inbox(connection, device)


async def insert_with_inbox(connection: Connection, device: Device) -> InboxState:
    """Insert a device and its empty inbox. Raises :class:`AlreadyExistsError` when the id is taken."""
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


async def _renewed(connection: Connection, device_id: str, state: InboxState) -> InboxState:
    """The inbox of the device, with a new epoch if its numbers come near their end."""
    return state if state.next_number <= RENEWAL_NUMBER else await renew_inbox(connection, device_id)


async def renew_inbox(connection: Connection, device_id: str) -> InboxState:
    """Give an inbox, which the caller has locked, a new epoch; how it stands.

    The rows move to a fresh inbox id, numbered from 1: their new positions cannot meet the old.
    """
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
