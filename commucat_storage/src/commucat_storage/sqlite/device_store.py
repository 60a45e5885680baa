"""The embedded store's side of :class:`DeviceStore`."""

import abc
from collections.abc import Callable, Sequence
from typing import TypeVar

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
from commucat_storage.records import CertificateRow, Device, KeyEvent
from commucat_storage.sqlite import devices
from commucat_storage.sqlite.reads import ReaderPool
from commucat_storage.sqlite.session_watch import SessionWatch
from commucat_storage.sqlite.writer import Transaction

T = TypeVar("T")


class SqliteDevices(DeviceStore):
    """Needs the readers and the writer of the store that it is a part of."""

    _readers: ReaderPool
    _session_watch: SessionWatch

    @abc.abstractmethod
    async def _write(self, work: Callable[[Transaction], T]) -> T:
        """Do ``work`` in the writer's thread."""

    async def offer_pairing(self, offer: PairingOffer, *, most: int) -> None:
        await self._write(lambda transaction: devices.offer(transaction, offer, most))

    async def load_pairing(self, code_hash: str) -> PairingOffer | None:
        return await self._readers.run(devices.load_offer, code_hash)

    async def claim_pairing(self, claim: PairingClaim) -> ClaimedPairing:
        return await self._write(lambda transaction: devices.claim(transaction, claim))

    async def devices_of(self, user_id: str) -> tuple[NamedDevice, ...]:
        return await self._readers.run(devices.devices_of, user_id)

    async def pending_devices(self, user_id: str | None = None) -> tuple[PendingDevice, ...]:
        return await self._readers.run(devices.pending_devices, user_id)

    async def approve_device(
        self,
        pending: PendingDevice,
        certificate: CertificateRow,
        event: KeyEvent,
        *,
        device_limit: int,
        records: Sequence[OperatorRecord] = (),
    ) -> Device:
        return await self._write(
            lambda transaction: devices.approve(
                transaction, pending, certificate, event, device_limit, records
            )
        )

    async def reject_device(self, device_id: str, records: Sequence[OperatorRecord] = ()) -> bool:
        return await self._write(
            lambda transaction: devices.reject(transaction.connection, device_id, records)
        )

    async def rotate_device_key(self, rotation: Rotation) -> None:
        await self._write(lambda transaction: devices.rotate(transaction, rotation))

    async def sessions_ended(self, token_hashes: Sequence[str]) -> frozenset[str]:
        return await self._readers.run(self._session_watch.ended, token_hashes)
