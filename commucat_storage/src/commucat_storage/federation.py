"""Other servers: who they are, and the queue of what is on its way to each of them.

The queue is one more inbox, the *outbox* of a domain: messages for devices of another server are stored in it
by the same transaction as those for devices of this one, and the ordinary :class:`Confirm` of ``@domain``
deletes what the peer has taken. Times are whole Unix seconds, where nothing else is said.
"""

import abc
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from commucat_storage.friends import RequestStatus
from commucat_storage.interface_operating import RecordOf
from commucat_storage.operating import OperatorRecord

MAX_DEAD_LETTERS = 10_000
"""Dead letters of one domain that are kept; the oldest go first."""
MAX_DEAD_LETTER_BYTES = 64 * 2**20
"""Payload bytes of them. A peer that refuses everything must not fill the disk."""

LATE_NUMBER = 2**32 - 2**26
"""An outbox whose next number is above this gets a new epoch even if it is not empty."""


GROUP_STATE = 0xF2
"""Type of an outbox row that tells a peer who the members of a group are; see :mod:`group_changes`."""
GROUP_REQUEST = 0xF3
"""Type of an outbox row that asks a group's home to change the group."""


def domain_of(device_id: str) -> str | None:
    """The domain behind the first ``@``, in lower case; None for the id of a device of this server."""
    _, at, domain = device_id.partition("@")
    return domain.lower() if at else None


def outbox_of(domain: str) -> str:
    """The name of the outbox of a domain, which stands where a device id does."""
    return "@" + domain.lower()


def is_device_elsewhere(device_id: str) -> bool:
    """Whether a device of another server can be called so: ``device@domain``, the domain in lower case."""
    device, at, domain = device_id.partition("@")
    return bool(
        device
        and at
        and domain
        and "@" not in domain
        and domain == domain.lower()
        and device_id.isprintable()
    )


def check_domain(domain: str) -> str:
    """The domain in lower case.

    Raises:
        ValueError: it cannot be one.
    """
    if not domain or "@" in domain or not domain.isprintable():
        raise ValueError(f"not a domain: {domain!r}")
    return domain.lower()


class PeerStatus(enum.Enum):
    """What an operator thinks of another server."""

    ACTIVE = "active"
    PENDING = "pending"
    """Found by discovery, and not spoken to yet."""
    BLOCKED = "blocked"


@attrs.frozen(kw_only=True)
class Peer:
    """Another server that an operator or discovery has stored; those of the configuration are not here."""

    domain: str
    endpoint: str
    public_key: bytes
    """Ed25519, 32 bytes."""
    status: PeerStatus
    next_key: bytes | None = None
    """Accepted beside the other one, for a rotation with overlap."""
    created_at: int
    updated_at: int


@attrs.frozen(kw_only=True)
class PeerStanding:
    """How a peer was when it was spoken to last."""

    domain: str
    status: str
    """``unknown``, ``online``, ``offline`` or ``unreachable``."""
    error_count: int
    last_seen_at: int | None
    last_error: str | None
    updated_at: int


@attrs.frozen(kw_only=True)
class OutboxRow:
    """One message on its way to another server."""

    number: int
    frame_type: int
    """0..255; opaque to the store."""
    channel: int
    payload: bytes = attrs.field(repr=False)
    expires_at: int
    sender: str
    """Id of a device of this server; empty for the server itself."""
    sender_handle: str | None
    """The handle of the sender's user when the page was read; None if that is gone."""
    target: str
    """As the submission named it: ``device@domain``, or ``@domain`` for the peer itself."""
    report: bool
    """Whether the sender asked to be told what becomes of it."""
    reference: bytes
    group_id: str | None = None
    """The group that it was written to, or tells of."""
    group_revision: int | None = None
    """Of that group, when the page was read; None if it is gone."""


@attrs.frozen
class OutboxPage:
    """Rows in number order, like :class:`InboxPage`; ``confirmed`` is the watermark."""

    epoch: str
    rows: tuple[OutboxRow, ...]
    head: int
    complete: bool
    confirmed: int


@attrs.frozen(kw_only=True)
class OutboxStanding:
    """An outbox as a worker or an operator sees it."""

    domain: str
    open: bool
    rows: int
    """Including what has expired and is not purged yet."""
    bytes: int
    earliest_expiry: int | None
    """When the oldest row expires; None when it is empty."""


@attrs.frozen(kw_only=True)
class DeadLetter:
    """A message that a peer has refused for good."""

    letter_id: str
    """``<epoch>-<number>`` of its row in the outbox."""
    domain: str
    sender: str
    target: str
    channel: int
    frame_type: int
    payload: bytes = attrs.field(repr=False)
    reason: str
    report: bool
    reference: bytes
    expires_at: int
    failed_at: int
    group_id: str | None = None


@attrs.frozen(kw_only=True)
class RemoteFriendRequest:
    """A user of this server asks one of another, or the other way round. There is one for each pair and
    direction. Times are microseconds, as in :class:`FriendRequest`."""

    request_id: str
    from_address: str
    """``handle@domain`` of the one who asks."""
    to_address: str
    status: RequestStatus
    message: str | None
    incoming: bool
    created_at: int
    updated_at: int
    user_id: str
    """The user of this server: who is asked, if it is incoming, else who asks."""

    @property
    def other_address(self) -> str:
        """Of the user of the other server."""
        return self.from_address if self.incoming else self.to_address


class FederationStore(abc.ABC):
    """The part of :class:`Storage` that is about other servers. Domains are compared in lower case."""

    # -- peers -------------------------------------------------------------------------------------

    @abc.abstractmethod
    async def peers(self) -> tuple[Peer, ...]:
        """All, by domain."""

    @abc.abstractmethod
    async def load_peer(self, domain: str) -> Peer | None: ...

    @abc.abstractmethod
    async def put_peer(self, peer: Peer, record: OperatorRecord | None = None) -> None:
        """Insert or replace.

        Raises:
            ValueError: the domain cannot be one, or a key has not 32 bytes.
        """

    @abc.abstractmethod
    async def activate_peer(self, domain: str, now: int) -> bool:
        """A peer that is pending is active from now on; False if there is none that is pending still."""

    @abc.abstractmethod
    async def remove_peer(self, domain: str, record: OperatorRecord | None = None) -> bool:
        """Delete the peer and its standing, and close its outbox, which keeps what it has; False if there is
        no such peer, and then nothing is changed."""

    @abc.abstractmethod
    async def note_peer(self, standing: PeerStanding) -> None:
        """Insert or replace."""

    @abc.abstractmethod
    async def peer_standings(self) -> tuple[PeerStanding, ...]:
        """All, by domain."""

    # -- outboxes ----------------------------------------------------------------------------------

    @abc.abstractmethod
    async def set_outbox(self, domain: str, *, open: bool) -> None:
        """Make the outbox if there is none, and let it take messages or not. A closed one keeps what it has.

        Raises:
            ValueError: the domain cannot be one.
        """

    @abc.abstractmethod
    async def outbox_page(
        self, domain: str, number: int, *, limit_rows: int, limit_bytes: int, now: int
    ) -> OutboxPage | None:
        """Unexpired rows above ``number`` and the watermark, in order; None if there is no such outbox.

        At least one row comes back when there is one, whatever ``limit_bytes`` says.
        """

    @abc.abstractmethod
    async def outboxes(self) -> tuple[OutboxStanding, ...]:
        """All, open or not, by domain."""

    @abc.abstractmethod
    async def purge_outbox(self, domain: str, record: RecordOf | None = None) -> int:
        """Let everything that waits for the peer expire now; how many messages.

        As ``expire_queue`` does for a device: nobody can read them then, and the next ``purge_expired``
        deletes them and tells senders that asked.
        """

    # -- dead letters ------------------------------------------------------------------------------

    @abc.abstractmethod
    async def bury(
        self, domain: str, epoch: str, letters: Sequence[tuple[int, str]], now: int
    ) -> tuple[DeadLetter, ...]:
        """Copy rows of the outbox, each given by number and reason, to the dead letters; again is harmless.

        The rows stay until they are confirmed. Returns those that are copied, now or before, in the order of
        their numbers. Of a domain at most :data:`MAX_DEAD_LETTERS` are kept, the newest.
        """

    @abc.abstractmethod
    async def dead_letters(self, domain: str | None, limit: int) -> tuple[DeadLetter, ...]:
        """Of one domain, or of all; the newest first."""

    @abc.abstractmethod
    async def dead_letter_counts(self) -> Mapping[str, int]:
        """By domain."""

    @abc.abstractmethod
    async def forget_dead_letters(self, letter_ids: Sequence[str]) -> int:
        """Delete these; how many there were."""

    # -- friends of other servers ------------------------------------------------------------------

    @abc.abstractmethod
    async def put_remote_request(self, request: RemoteFriendRequest) -> RemoteFriendRequest:
        """Store a request; what is stored.

        The same again (id, addresses, message) is what is stored, unchanged. A new one takes the place of
        the pair's old one, unless that is this server's own and pending.

        Raises:
            AlreadyExistsError: there is another request with this id.
            FriendRefusedError: ``REQUEST_PENDING``, or there are too many: ``TOO_MANY_SENT`` of the asker
                here, ``TOO_MANY_WAITING`` for the one asked here.
            StorageError: there is no such user here.
            ValueError: an empty id or address, or something that is no text.
        """

    @abc.abstractmethod
    async def remote_requests(self, user_id: str) -> tuple[RemoteFriendRequest, ...]:
        """Pending ones to the user, and all of the user; the newest first."""

    @abc.abstractmethod
    async def load_remote_request(self, request_id: str) -> RemoteFriendRequest | None: ...

    @abc.abstractmethod
    async def answer_remote_request(self, request_id: str, *, accept: bool, now: int) -> RemoteFriendRequest:
        """Accept or reject a pending request; ``now`` in microseconds. The request as it is then.

        Accepting puts the other side's address into the list of the user here, in the same transaction.
        The same answer again is harmless.

        Raises:
            FriendRefusedError: ``NO_REQUEST``, ``NOT_PENDING`` (answered otherwise), ``TOO_MANY_FRIENDS``.
        """


_PEER_FIELDS = [field.name for field in attrs.fields(Peer)]
_STANDING_FIELDS = [field.name for field in attrs.fields(PeerStanding)]
_LETTER_FIELDS = [field.name for field in attrs.fields(DeadLetter)]
_REQUEST_FIELDS = [field.name for field in attrs.fields(RemoteFriendRequest)]


def cleaned(text: str) -> str:
    """Text of others without what no database takes: surrogates that stand alone."""
    return text.encode(errors="replace").decode()


def check_request(request: RemoteFriendRequest) -> None:
    """Raises :class:`ValueError` for a request that may not be stored."""
    for text in (request.request_id, request.from_address, request.to_address, request.message or "-"):
        if not text or cleaned(text) != text:
            raise ValueError("a friend request with something that is no text")


def check_peer(peer: Peer) -> None:
    """Raises :class:`ValueError` for a peer that may not be stored."""
    check_domain(peer.domain)
    if any(len(key) != 32 for key in (peer.public_key, peer.next_key) if key is not None):
        raise ValueError("the key of a peer has 32 bytes")


def is_same_request(stored: RemoteFriendRequest, request: RemoteFriendRequest) -> bool:
    """Whether one is the other, sent again."""
    return (stored.from_address, stored.to_address, stored.message, stored.incoming, stored.user_id) == (
        request.from_address,
        request.to_address,
        request.message,
        request.incoming,
        request.user_id,
    )


def outbox_row(columns: Sequence[Any]) -> OutboxRow:
    """From the columns of a row in the order of its fields."""
    number, frame_type, channel, payload, expires_at, sender, handle, target, report, *others = columns
    reference, group_id, group_revision = others
    return OutboxRow(
        number=number,
        frame_type=frame_type,
        channel=channel,
        payload=payload,
        expires_at=expires_at,
        sender=sender,
        sender_handle=handle,
        target=target,
        report=bool(report),
        reference=reference or b"",
        group_id=group_id,
        group_revision=group_revision,
    )


def peer_of(columns: Sequence[Any]) -> Peer:
    """From the columns of a peer in the order of its fields."""
    values = dict(zip(_PEER_FIELDS, columns, strict=True))
    return Peer(**values | {"status": PeerStatus(values["status"])})


def standing_of(columns: Sequence[Any]) -> PeerStanding:
    """From the columns of a standing in the order of its fields."""
    return PeerStanding(**dict(zip(_STANDING_FIELDS, columns, strict=True)))


def request_of(columns: Sequence[Any]) -> RemoteFriendRequest:
    """From the columns of a request in the order of its fields."""
    values = dict(zip(_REQUEST_FIELDS, columns, strict=True))
    values |= {"status": RequestStatus(values["status"]), "incoming": bool(values["incoming"])}
    return RemoteFriendRequest(**values)


def letter_of(row: Sequence[Any]) -> DeadLetter:
    """From the columns of a letter in the order of its fields."""
    values = dict(zip(_LETTER_FIELDS, row, strict=True))
    return DeadLetter(**values | {"report": bool(values["report"])})
