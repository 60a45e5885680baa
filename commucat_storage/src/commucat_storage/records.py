"""The rows of the store as values. All times are whole Unix seconds; all ids are text."""

import enum

import attrs


class DeviceStatus(enum.Enum):
    """Life of a device; only an active one may connect or receive."""

    ACTIVE = "active"
    REVOKED = "revoked"
    DIAGNOSTIC = "diagnostic"


@attrs.frozen(kw_only=True)
class User:
    """An account. ``handle`` is unique within ``domain``."""

    user_id: str
    handle: str
    domain: str
    created_at: int
    display_name: str | None = None
    avatar_url: str | None = None


@attrs.frozen(kw_only=True)
class Device:
    """A device and its Ed25519 public key (32 bytes)."""

    device_id: str
    user_id: str
    public_key: bytes
    status: DeviceStatus
    created_at: int

    def is_active_with(self, public_key: bytes) -> bool:
        """Whether it may act, and this is its key."""
        return self.status is DeviceStatus.ACTIVE and self.public_key == public_key


@attrs.frozen(kw_only=True)
class CertificateRow:
    """A device certificate as issued; ``serial`` is an unsigned 64-bit number."""

    serial: int
    user_id: str
    device_id: str
    public_key: bytes
    issuer: bytes
    issued_at: int
    expires_at: int
    signature: bytes
    source: str
    """What caused it: ``register``, ``certificate``, ``rotate``, ``pair-claim``."""
    revoked_at: int | None = None


@attrs.frozen(kw_only=True)
class KeyEvent:
    """One entry of the audit trail of a device's keys."""

    event_id: str
    device_id: str
    public_key: bytes
    recorded_at: int


@attrs.frozen(kw_only=True)
class KnownDevice:
    """What is stored about a device that says Hello."""

    device: Device
    user: User
    certificate: CertificateRow | None
    """The newest that is not revoked, expired or not."""


@attrs.frozen(kw_only=True)
class SessionRow:
    """A bearer session. Only the hash of the token is stored."""

    token_hash: str
    """Hex of BLAKE3 over the token's text."""
    user_id: str
    device_id: str
    created_at: int
    refreshed_at: int
    ttl_seconds: int
    tls_fingerprint: str = ""

    @property
    def expires_at(self) -> int:
        return self.refreshed_at + self.ttl_seconds


@attrs.frozen(kw_only=True)
class EnrolmentCode:
    """A one-time code that lets one more device join ``user_id``; stored hashed."""

    code_hash: bytes = attrs.field(repr=False)
    user_id: str
    created_at: int
    expires_at: int


@attrs.frozen(kw_only=True)
class Secret:
    """One version of a server secret, such as a Noise static key."""

    name: str
    version: int
    secret: bytes = attrs.field(repr=False)
    public: bytes | None = None
    metadata: str = "{}"
    """JSON text."""
    created_at: int
    valid_after: int
    rotates_at: int
    expires_at: int


@attrs.frozen(kw_only=True)
class Route:
    """Where a device's own frames on one channel go: to named devices, or to a group's members."""

    members: frozenset[str] = frozenset()
    relay: bool = False
    group_id: str | None = None
    """The group whose members, read when a message commits, are meant; ``members`` is empty then. For a
    route to an open room, ``room_id`` of the channel."""


class GroupRole(enum.Enum):
    """What a member may do to a group; each may act only on those strictly below."""

    OWNER = "owner"
    CO_OWNER = "co-owner"
    ADMIN = "admin"
    MEMBER = "member"


@attrs.frozen(kw_only=True)
class Group:
    """A group and its members; exactly one of them is the owner."""

    group_id: str
    created_at: int
    relay: bool
    members: dict[str, GroupRole]
    home: str | None = None
    """The domain to which it belongs, if this is a replica."""
    revision: int = attrs.field(default=0, eq=False)
    """Rises with each change of the members."""


@attrs.frozen(kw_only=True)
class Presence:
    """What a device last told about itself; forgotten at ``expires_at``."""

    device_id: str
    state: str
    expires_at: int


@attrs.frozen(kw_only=True)
class ExpiredMessage:
    """A message that was deleted before ``device_id`` confirmed it, and whose sender wants to know.

    ``number`` counts in the inbox's epoch at that time.
    """

    sender: str
    channel: int
    device_id: str
    number: int
    reference: bytes = b""
    """What its sender named it by."""
    revoked: bool = False
    """Its time was not over; the receiver was revoked."""


@attrs.frozen(kw_only=True)
class Purged:
    """How many rows an upkeep run deleted."""

    messages: int
    sessions: int
    codes: int
    expired: tuple[ExpiredMessage, ...] = ()
    """Of the messages, those whose sender asked for a report. Told once: what was found by a run
    that fails or is cancelled before its end is not told again. Includes those of revoked devices."""
    more: bool = False
    """The run ended early, because ``expired`` has grown long; run again for the rest."""
