"""Further devices of a user: codes that are offered and claimed, requests that wait, keys that change.

All times are whole Unix seconds.
"""

import enum

import attrs

from commucat_storage.errors import StorageError
from commucat_storage.records import CertificateRow, Device, KeyEvent, User


@attrs.frozen(kw_only=True)
class PairingOffer:
    """A code with which a device lets another one into its account, once."""

    code_hash: str = attrs.field(repr=False)
    """What the store keeps of the code; the caller decides how it is made."""
    user_id: str
    issuer_device_id: str
    issued_at: int
    expires_at: int


class PairingRefusal(enum.Enum):
    """Why nothing was written."""

    UNKNOWN = "unknown"
    """There is no such code, or no such request."""
    INVALID = "invalid"
    """The code has expired or was used, or the device that issued it is not active any more."""
    DEVICE_TAKEN = "device_taken"
    DEVICE_LIMIT = "device_limit"
    """The user has as many devices, those that wait included, as it may have."""
    CODE_LIMIT = "code_limit"
    """The device has as many open codes as it may have."""
    ISSUER_INACTIVE = "issuer_inactive"


class PairingRefusedError(StorageError):
    """A code was not issued or claimed, or a request not approved."""

    def __init__(self, refusal: PairingRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@attrs.frozen(kw_only=True)
class PairingClaim:
    """Everything that is written when a code is claimed, or nothing of it."""

    code_hash: str = attrs.field(repr=False)
    device: Device
    """Of the user that the code is for."""
    name: str | None = None
    """What its owner calls it."""
    certificate: CertificateRow | None
    key_event: KeyEvent | None
    waits_until: int | None = None
    """Not None: the device is not admitted but waits, until then at most, for somebody's approval."""
    device_limit: int
    now: int


@attrs.frozen(kw_only=True)
class ClaimedPairing:
    """What a claim has come to."""

    device: Device
    user: User
    issuer_device_id: str
    waits: bool
    repeated: bool
    """The same key has claimed the same code before: nothing was written this time."""


@attrs.frozen(kw_only=True)
class PendingDevice:
    """A device that waits for approval. It is no device yet: nobody can reach it or count it as one."""

    device_id: str
    user_id: str
    public_key: bytes
    name: str | None
    issuer_device_id: str
    requested_at: int
    expires_at: int


@attrs.frozen(kw_only=True)
class NamedDevice:
    """A device of a user, as its owner sees it."""

    device: Device
    name: str | None


@attrs.frozen(kw_only=True)
class Rotation:
    """A device gets another key, on the word of the one it has."""

    rotation_id: str
    device_id: str
    old_public_key: bytes
    new_public_key: bytes
    signature: bytes = attrs.field(repr=False)
    """By the old key; see docs/protocol.md."""
    nonce: bytes | None
    proof_expires_at: int
    applied_at: int
    key_event: KeyEvent
    certificate: CertificateRow
    min_interval: int
    """Seconds since the device was made, or had its key changed, that must have passed; 0 for none."""


class RotationRefusal(enum.Enum):
    """Why the key was not changed."""

    UNKNOWN = "unknown"
    """The device is not there, or not active."""
    KEY_CHANGED = "key_changed"
    """The old key is not the device's any more."""
    TOO_SOON = "too_soon"
    KEY_USED = "key_used"
    """The device has had the new key before, or another device has it."""


class RotationRefusedError(StorageError):
    """The key was not changed, and nothing was written."""

    def __init__(self, refusal: RotationRefusal, *, retry_at: int | None = None) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.retry_at = retry_at
        """Unix seconds from when on it is not too soon any more, if that was the reason."""
