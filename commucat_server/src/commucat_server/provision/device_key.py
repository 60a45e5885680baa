"""Keys of devices that the operator gives out, such as for a bot, or in place of a lost one."""

from collections.abc import Mapping
from typing import Any

from commucat_crypto import CERTIFICATE_LIFETIME, DeviceCertificate, DeviceKeyPair
from commucat_server.identity.certificates import row_of
from commucat_server.identity.tokens import new_event_id, new_serial
from commucat_server.ops.audit import key_metadata
from commucat_server.provision.errors import ProvisionError
from commucat_server.provision.operator_records import record_of
from commucat_storage import (
    Admission,
    AdmissionKind,
    AdmissionRefusedError,
    Device,
    DeviceStatus,
    KeyEvent,
    Storage,
    User,
)

_NO_LIMIT = 2**31
SOURCE = "operator"
"""In the ledger and in stored certificates."""


def certificate_for_key(
    authority: DeviceKeyPair, user: User, device_id: str, public_key: bytes, now: int
) -> DeviceCertificate:
    """The certificate that :func:`give_device_key` stores; worth nothing until then."""
    return DeviceCertificate.issue(
        authority,
        serial=new_serial(),
        user_id=user.user_id,
        device_id=device_id,
        public_key=public_key,
        issued_at=now,
        expires_at=now + CERTIFICATE_LIFETIME,
    )


async def give_device_key(storage: Storage, user: User, certificate: DeviceCertificate, now: int) -> None:
    """Make the key of the certificate that of the user's device, which is created if there is none.

    Device, certificate, key event and the record for the ledger are one transaction. Sessions and
    certificates with an earlier key of the device end.

    Raises:
        ProvisionError: the device is somebody else's, or was revoked.
        StorageError: the store failed.
    """
    device_id, public_key = certificate.device_id, certificate.public_key
    event = KeyEvent(event_id=new_event_id(), device_id=device_id, public_key=public_key, recorded_at=now)
    row = row_of(certificate, "rotate")

    def metadata(action: str) -> Mapping[str, Any]:
        return key_metadata(certificate, action, SOURCE, event.event_id)

    rotated = record_of(public_key, metadata("rotate"), now)
    if await storage.replace_device_key(row, event, rotated):
        return
    known = await storage.load_device(device_id)
    if known is not None:
        ours = known.user_id == user.user_id
        whose = "is revoked" if ours else f"belongs to another user than {user.handle}"
        raise ProvisionError(f"the device {device_id} {whose}; name another one")
    admission = Admission(
        kind=AdmissionKind.BY_HANDLE,
        device=Device(
            device_id=device_id,
            user_id=user.user_id,
            public_key=public_key,
            status=DeviceStatus.ACTIVE,
            created_at=now,
        ),
        device_limit=_NO_LIMIT,
        certificate=row_of(certificate, "register"),
        key_event=event,
        records=(record_of(public_key, metadata("register"), now),),
        now=now,
    )
    try:
        await storage.admit(admission)
    except AdmissionRefusedError as exc:
        raise ProvisionError(f"the device {device_id} appeared at this moment; try again ({exc})") from exc
