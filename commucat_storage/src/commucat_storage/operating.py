"""What commands for operators read and change in a store, as values. Times are whole Unix seconds."""

from collections.abc import Mapping

import attrs

from commucat_storage.records import Secret


@attrs.frozen(kw_only=True)
class OperatorRecord:
    """Something that an operator's command did, to be told to the server's ledger."""

    record_id: str
    """Random: what names it until it is in the ledger."""
    digest: bytes
    """32 bytes that name the object of the record."""
    metadata: str
    """JSON text: the members of the ledger record."""
    recorded_at: int


@attrs.frozen(kw_only=True)
class SecretRotation:
    """A new version of a secret, and until when earlier ones count beside it."""

    secret: Secret
    until: Mapping[int, int] = attrs.field(factory=dict)
    """New ``expires_at`` of earlier versions, by version; the others stay as they are."""
    record: OperatorRecord | None = None
    newest: Secret | None = None
    """The newest version as it was read, which it must still be; None: whichever there is."""


@attrs.frozen(kw_only=True)
class Resealed:
    """A version of a secret that is to be stored in another form, if it is still the one that was read."""

    name: str
    version: int
    before: bytes = attrs.field(repr=False)
    """The column ``secret`` as it was read."""
    secret: bytes = attrs.field(repr=False)
    metadata: str


@attrs.frozen(kw_only=True)
class SessionListing:
    """A bearer session and whose it is; not its token, nor anything that opens one."""

    session_id: str
    """The first 16 hex digits of the stored hash: enough to tell sessions apart."""
    device_id: str
    user_id: str
    handle: str
    created_at: int
    refreshed_at: int
    expires_at: int


@attrs.frozen(kw_only=True)
class QueueStanding:
    """An inbox as an operator sees it."""

    device_id: str
    user_id: str
    handle: str
    status: str
    waiting: int
    """Messages that the device can still get."""
    waiting_bytes: int
    expired: int
    """Messages whose time is over, and that the next purge deletes."""
    next_number: int
    """One more than the highest number given out in this epoch of the inbox."""
    confirmed: int
    """Everything up to it was confirmed by the device."""
    first_expiry: int | None
    """When the first of the waiting messages expires; None without any."""


@attrs.frozen
class ExpiryStep:
    """How far the expiry of a queue has come."""

    count: int
    """Messages that were to expire when it began."""
    until: int
    """The last number that is concerned; what came later is not."""
    done: int
    """Everything up to this number has expired."""

    @property
    def ended(self) -> bool:
        return self.done >= self.until


@attrs.frozen(kw_only=True)
class GroupListing:
    """A group without its members."""

    group_id: str
    owner: str
    members: int
    relay: bool
    created_at: int


@attrs.frozen(kw_only=True)
class CleanedUp:
    """How many rows of which kind were deleted."""

    sessions: int
    codes: int
    secrets: int
    payloads: int
    """Payloads that no message refers to."""
    groups: int
    """Groups without a member, left by devices that were deleted."""
    idempotency: int
    """Names of messages that are stored once, whose time is over."""
    operator_records: int
    """Those that are in the ledger."""
