"""What a user's devices, or the operator, do with the user's other devices."""

from collections.abc import Callable, Sequence

from commucat_server.identity.certificates import CertificateIssuer, row_of
from commucat_server.identity.pairing import SOURCE, key_event_of
from commucat_server.ops.audit import Audit, Entry, key_entry, paired_entry, revoked_entry
from commucat_server.ops.finishing import finished
from commucat_server.provision.operator_records import record_of
from commucat_storage import (
    Device,
    DeviceStatus,
    OperatorRecord,
    PairingRefusal,
    PairingRefusedError,
    PendingDevice,
    Storage,
)


class Devices:
    """Used by the server, and by commands on the store beside it.

    The server tells its ledger once a change is stored. A command has no ``audit``: what it has to tell is
    stored in the transaction of the change.
    """

    def __init__(
        self,
        storage: Storage,
        issuer: CertificateIssuer,
        audit: Audit | None,
        clock: Callable[[], float],
        *,
        devices_per_user: int,
    ) -> None:
        self._storage = storage
        self._issuer = issuer
        self._audit = audit
        self._clock = clock
        self.devices_per_user = devices_per_user

    async def pending(self, user_id: str, device_id: str) -> PendingDevice | None:
        """The user's device that waits under this id."""
        for pending in await self._storage.pending_devices(user_id):
            if pending.device_id == device_id:
                return pending
        return None

    async def approve(self, pending: PendingDevice, by: str) -> Device:
        """Admit a device that waits; ``by`` is who says so, a device id or ``operator``.

        Raises:
            PairingRefusedError: it does not wait any more, or the user has too many devices.
        """
        now = int(self._clock())
        certificate = self._issuer.issue(
            user_id=pending.user_id, device_id=pending.device_id, public_key=pending.public_key
        )
        event = key_event_of(_as_device(pending), now)
        entries = (
            key_entry(certificate, "certificate", SOURCE, event.event_id),
            paired_entry(_as_device(pending), by, "approve"),
        )

        async def approve() -> Device:
            # Its own place in the count is the one it has had while it waited.
            device = await self._storage.approve_device(
                pending,
                row_of(certificate, SOURCE),
                event,
                device_limit=self.devices_per_user,
                records=self._to_store(entries, now),
            )
            self._tell(entries)
            return device

        return await finished(approve)

    async def reject(self, pending: PendingDevice, by: str) -> None:
        """Turn a device away that waits.

        Raises:
            PairingRefusedError: it does not wait any more.
        """
        entries = (paired_entry(_as_device(pending), by, "reject"),)
        records = self._to_store(entries, int(self._clock()))

        async def reject() -> None:
            if not await self._storage.reject_device(pending.device_id, records):
                raise PairingRefusedError(PairingRefusal.UNKNOWN)
            self._tell(entries)

        await finished(reject)

    async def revoke(self, device: Device, by: str) -> bool:
        """End a device for good; False if it was revoked before.

        Its sessions end where they are within a second, and its queue goes with the next purge.
        """
        if device.status is DeviceStatus.REVOKED:
            return False
        event = key_event_of(device, int(self._clock()))
        entries = (revoked_entry(device, by, event.event_id),)
        now = event.recorded_at

        async def revoke() -> None:
            await self._storage.revoke_device(device.device_id, now, event, self._to_store(entries, now))
            self._tell(entries)

        await finished(revoke)
        return True

    def _to_store(self, entries: Sequence[Entry], now: int) -> tuple[OperatorRecord, ...]:
        if self._audit is not None:
            return ()
        return tuple(record_of(digest, metadata, now) for digest, metadata in entries)

    def _tell(self, entries: Sequence[Entry]) -> None:
        if self._audit is not None:
            for digest, metadata in entries:
                self._audit.record(digest, metadata)


def _as_device(pending: PendingDevice) -> Device:
    return Device(
        device_id=pending.device_id,
        user_id=pending.user_id,
        public_key=pending.public_key,
        status=DeviceStatus.ACTIVE,
        created_at=pending.requested_at,
    )
