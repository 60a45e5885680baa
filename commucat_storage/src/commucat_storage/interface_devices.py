"""The part of the store's interface that is about a user's further devices and their keys."""

import abc
from collections.abc import Sequence

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


class DeviceStore(abc.ABC):
    """Each method is one transaction."""

    @abc.abstractmethod
    async def offer_pairing(self, offer: PairingOffer, *, most: int) -> None:
        """Store a code; its device may have at most ``most`` that are open.

        Raises:
            AlreadyExistsError: there is such a code; make another one.
            PairingRefusedError: ``ISSUER_INACTIVE`` or ``CODE_LIMIT``.
        """

    @abc.abstractmethod
    async def load_pairing(self, code_hash: str) -> PairingOffer | None:
        """Whose the code is; says nothing about whether it is still good."""

    @abc.abstractmethod
    async def claim_pairing(self, claim: PairingClaim) -> ClaimedPairing:
        """Use a code up, and admit the device or let it wait, in one transaction.

        Again with the same code, device id and key, as by a device that did not get the answer, it says the
        same and writes nothing.

        Raises:
            PairingRefusedError: a check failed; the code is not used up.
        """

    @abc.abstractmethod
    async def devices_of(self, user_id: str) -> tuple[NamedDevice, ...]:
        """All devices of the user, the oldest first."""

    @abc.abstractmethod
    async def pending_devices(self, user_id: str | None = None) -> tuple[PendingDevice, ...]:
        """Devices that wait, of one user or of all, the oldest request first."""

    @abc.abstractmethod
    async def approve_device(
        self,
        pending: PendingDevice,
        certificate: CertificateRow,
        event: KeyEvent,
        *,
        device_limit: int,
        records: Sequence[OperatorRecord] = (),
    ) -> Device:
        """Admit a device that waits, exactly as it was read; ``records`` are stored with it.

        Raises:
            PairingRefusedError: ``UNKNOWN``: it does not wait any more. ``DEVICE_TAKEN``, ``DEVICE_LIMIT``.
        """

    @abc.abstractmethod
    async def reject_device(self, device_id: str, records: Sequence[OperatorRecord] = ()) -> bool:
        """Forget a device that waits; False if it does not, and then nothing is recorded."""

    @abc.abstractmethod
    async def rotate_device_key(self, rotation: Rotation) -> None:
        """Change the key of an active device: certificates of the old key are revoked and its sessions
        deleted.

        Raises:
            RotationRefusedError: a check failed; nothing was written.
        """

    @abc.abstractmethod
    async def sessions_ended(self, token_hashes: Sequence[str]) -> frozenset[str]:
        """Those that are no session of an active device (any more)."""
