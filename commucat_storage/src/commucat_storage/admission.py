"""Admitting a proved device: what the one transaction re-checks and writes."""

import enum

import attrs

from commucat_storage.inbox import InboxState
from commucat_storage.operating import OperatorRecord
from commucat_storage.records import CertificateRow, Device, KeyEvent, SessionRow, User

RENEWAL_NUMBER = 2**31
"""An inbox whose next number is above this gets a new epoch at the next connect. The other half of
the numbers is what one connection can use up before its device must connect again."""


class AdmissionKind(enum.Enum):
    """On what ground the device may come in."""

    KNOWN_DEVICE = "known_device"
    """The device exists: it must still be active, of this user, with this key."""
    NEW_USER = "new_user"
    """Handle and device id must both be free; creates the user and its first device."""
    BY_CODE = "by_code"
    """An existing user's one-time code; it is consumed."""
    BY_HANDLE = "by_handle"
    """An existing user without a code, up to ``device_limit`` active devices."""


@attrs.frozen(kw_only=True)
class Admission:
    """Everything that is written when a device is admitted, or nothing of it."""

    kind: AdmissionKind
    device: Device
    user: User | None = None
    """The user to create, for ``NEW_USER``; otherwise ``device.user_id`` must exist."""
    code_hash: bytes | None = attrs.field(default=None, repr=False)
    device_limit: int | None = None
    certificate: CertificateRow | None = None
    """A certificate issued at this connect, to be stored."""
    key_event: KeyEvent | None = None
    session: SessionRow | None = None
    """None for a send-only or enrolment connection that gets no bearer session."""
    claims: bool = False
    """The session shall be the device's live one: whatever other node has an older one must give it up."""
    display_name: str | None = None
    avatar_url: str | None = None
    """Profile changes to apply; None leaves the stored value."""
    records: tuple[OperatorRecord, ...] = ()
    """For admissions by an operator's command: what the ledger is to be told."""
    now: int


@attrs.frozen(kw_only=True)
class Admitted:
    """The rows as they stand after the transaction."""

    user: User
    device: Device
    inbox: InboxState
    claim: int = 0
    """The number of the session's claim, where several nodes share the store; the highest one counts."""
    displaced: str | None = None
    """The node whose session had the device before, perhaps this one."""


def check_admission(admission: Admission) -> None:
    """Raises :class:`ValueError` when a field that the kind needs is missing."""
    match admission.kind:
        case AdmissionKind.NEW_USER:
            if admission.user is None or admission.user.user_id != admission.device.user_id:
                raise ValueError("a new user's admission needs the user of the device")
        case AdmissionKind.BY_CODE:
            if admission.code_hash is None:
                raise ValueError("an admission by code needs the code's hash")
        case AdmissionKind.BY_HANDLE:
            if admission.device_limit is None:
                raise ValueError("an admission by handle needs a device limit")
