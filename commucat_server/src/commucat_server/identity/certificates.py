"""Issuing and checking device certificates."""

from collections.abc import Callable

from commucat_crypto import CERTIFICATE_LIFETIME, DeviceCertificate, DeviceKeyPair
from commucat_server.identity.tokens import new_event_id, new_serial
from commucat_server.ops.finishing import finished
from commucat_storage import CertificateRow, Device, DeviceStatus, KeyEvent, Storage

RENEW_BEFORE = 10 * 86_400
"""Seconds: a certificate with less life left is replaced at the next connect."""
CLOCK_SKEW = 300
"""Seconds by which a certificate may come from the future."""


class CertificateIssuer:
    """The server's certificate authority (its federation key)."""

    def __init__(
        self,
        authority: DeviceKeyPair,
        storage: Storage,
        clock: Callable[[], float],
        renewed: Callable[[DeviceCertificate, KeyEvent], None] | None = None,
    ) -> None:
        self._authority = authority
        self._storage = storage
        self._clock = clock
        # Told of certificates that :meth:`current` has issued, once they are stored.
        self._renewed = renewed

    @property
    def public_key(self) -> bytes:
        return self._authority.public

    def issue(self, *, user_id: str, device_id: str, public_key: bytes) -> DeviceCertificate:
        """A fresh certificate, valid for 30 days. Storing it is up to the caller."""
        now = int(self._clock())
        return DeviceCertificate.issue(
            self._authority,
            serial=new_serial(),
            user_id=user_id,
            device_id=device_id,
            public_key=public_key,
            issued_at=now,
            expires_at=now + CERTIFICATE_LIFETIME,
        )

    def needs_renewal(self, certificate: DeviceCertificate | CertificateRow) -> bool:
        return certificate.expires_at < self._clock() + RENEW_BEFORE

    async def current(self, device: Device) -> DeviceCertificate | None:
        """The certificate that peers may rely on for this device; renewed when it runs out.

        None if the device is not active, or turns out not to be any more.
        """
        if device.status is not DeviceStatus.ACTIVE:
            return None
        row = await self._storage.newest_certificate(device.device_id)
        if row is not None and row.public_key == device.public_key and not self.needs_renewal(row):
            return certificate_of(row)
        fresh = self.issue(user_id=device.user_id, device_id=device.device_id, public_key=device.public_key)
        event = KeyEvent(
            event_id=new_event_id(),
            device_id=device.device_id,
            public_key=device.public_key,
            recorded_at=int(self._clock()),
        )

        async def add() -> bool:
            added = await self._storage.add_certificate(row_of(fresh, "certificate"), event)
            if added and self._renewed is not None:
                self._renewed(fresh, event)
            return added

        if not await finished(add):
            # Revoked meanwhile, or it has another key, which is told of already.
            changed = await self._storage.load_device(device.device_id)
            return None if changed is None else await self.current(changed)
        return fresh


def row_of(certificate: DeviceCertificate, source: str) -> CertificateRow:
    """``source`` says what caused it."""
    return CertificateRow(
        serial=certificate.serial,
        user_id=certificate.user_id,
        device_id=certificate.device_id,
        public_key=certificate.public_key,
        issuer=certificate.issuer,
        issued_at=certificate.issued_at,
        expires_at=certificate.expires_at,
        signature=certificate.signature,
        source=source,
    )


def certificate_of(row: CertificateRow) -> DeviceCertificate:
    """The certificate as its device and its peers see it."""
    return DeviceCertificate(
        serial=row.serial,
        user_id=row.user_id,
        device_id=row.device_id,
        public_key=row.public_key,
        issuer=row.issuer,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        signature=row.signature,
    )
