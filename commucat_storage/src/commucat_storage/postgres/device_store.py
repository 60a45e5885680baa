"""The PostgreSQL store's side of :class:`DeviceStore`."""

from collections.abc import Sequence
from functools import partial

from commucat_storage.interface_devices import DeviceStore
from commucat_storage.operating import OperatorRecord
from commucat_storage.pairing import (
    ClaimedPairing,
    NamedDevice,
    PairingClaim,
    PairingOffer,
    PendingDevice,
    Rotation,
)
from commucat_storage.postgres import devices, reads
from commucat_storage.postgres.pool import Pool
from commucat_storage.records import CertificateRow, Device, KeyEvent


class PostgresDevices(DeviceStore):
    """Needs the pool of the store that it is a part of."""

    _pool: Pool

    async def offer_pairing(self, offer: PairingOffer, *, most: int) -> None:
        await self._pool.write(partial(devices.offer, offered=offer, most=most))

    async def load_pairing(self, code_hash: str) -> PairingOffer | None:
        return await self._pool.read(partial(devices.load_offer, code_hash=code_hash))

    async def claim_pairing(self, claim: PairingClaim) -> ClaimedPairing:
        return await self._pool.write(partial(devices.claim, claimed=claim))

    async def devices_of(self, user_id: str) -> tuple[NamedDevice, ...]:
        return await self._pool.read(partial(devices.devices_of, user_id=user_id))

    async def pending_devices(self, user_id: str | None = None) -> tuple[PendingDevice, ...]:
        return await self._pool.read(partial(devices.pending_devices, user_id=user_id))

    async def approve_device(
        self,
        pending: PendingDevice,
        certificate: CertificateRow,
        event: KeyEvent,
        *,
        device_limit: int,
        records: Sequence[OperatorRecord] = (),
    ) -> Device:
        return await self._pool.write(
            partial(
                devices.approve,
                pending=pending,
                certificate=certificate,
                event=event,
                device_limit=device_limit,
                records=records,
            )
        )

    async def reject_device(self, device_id: str, records: Sequence[OperatorRecord] = ()) -> bool:
        return await self._pool.write(partial(devices.reject, device_id=device_id, records=records))

    async def rotate_device_key(self, rotation: Rotation) -> None:
        await self._pool.write(partial(devices.rotate, rotation=rotation))

    async def sessions_ended(self, token_hashes: Sequence[str]) -> frozenset[str]:
        return await self._pool.read(partial(reads.sessions_ended, token_hashes=token_hashes))
