"""The one interface of the store. Every backend keeps these promises; one test class checks them.

The server calls :meth:`Storage.enqueue` for everything on a message's way and the other
methods for the slow paths (connect, REST, operators).
"""

import abc
from collections.abc import Callable, Sequence
from typing import NoReturn

from commucat_storage.account_links import AccountLinkStore
from commucat_storage.admission import Admission, Admitted
from commucat_storage.attachments import AttachmentStore
from commucat_storage.calls import CallStore
from commucat_storage.errors import CommitFailedError
from commucat_storage.federation import FederationStore
from commucat_storage.friends import FriendStore
from commucat_storage.inbox import InboxPage, InboxState, Operation, Outcome
from commucat_storage.interface_devices import DeviceStore
from commucat_storage.interface_operating import OperatingStorage
from commucat_storage.limits import InboxLimits
from commucat_storage.metering import MeteredStorage
from commucat_storage.nodes import NodeStorage
from commucat_storage.operating import OperatorRecord
from commucat_storage.records import (
    CertificateRow,
    Device,
    EnrolmentCode,
    Group,
    KeyEvent,
    KnownDevice,
    Presence,
    Purged,
    Route,
    Secret,
    SessionRow,
    User,
)

Done = Callable[[tuple[Outcome, ...] | CommitFailedError], None]


class Storage(
    NodeStorage,
    DeviceStore,
    FriendStore,
    FederationStore,
    AccountLinkStore,
    AttachmentStore,
    CallStore,
    MeteredStorage,
    OperatingStorage,
    abc.ABC,
):
    """Durable state of one server. All methods are for the Trio thread that opened it."""

    @property
    @abc.abstractmethod
    def inbox_limits(self) -> InboxLimits:
        """What one inbox may hold; change the numbers and they hold from the next message on."""

    # -- the journal ---------------------------------------------------------------------------

    @abc.abstractmethod
    async def enqueue(self, batch: Sequence[Operation], done: Done) -> None:
        """Put a batch in the journal; wait only while the journal is full.

        ``done`` is called exactly once, in the event-loop thread, when the batch is on disk
        (with one outcome for each operation) or has failed (with the error; then nothing
        of the batch is stored). Calls come in commit order: of two messages to one device,
        the one with the lower number is told first. ``done`` must not wait and not raise.

        Operations apply in their order, after all batches enqueued before. A batch of nothing but
        confirmations may be kept back for a moment, to be committed together with what comes next;
        :meth:`hurry` ends that. Batches of nothing but :class:`Resolve` change nothing: they pass by
        what is kept back, and are told before it.
        Cancelled while it waits for room, nothing of the batch is taken.

        Raises:
            ValueError: an operation is out of range (channel, type, empty batch).
            CommitFailedError: the store is closed.
        """

    @abc.abstractmethod
    def enqueue_now(self, batch: Sequence[Operation], done: Done) -> bool:
        """:meth:`enqueue` without waiting: ``False``, and nothing is taken, if the journal is full.

        Raises:
            ValueError: an operation is out of range (channel, type, empty batch).
            CommitFailedError: the store is closed.
        """

    def hurry(self) -> None:
        """Commit now what :meth:`enqueue` may have kept back; for callers that wait for their ``done``."""
        return

    @abc.abstractmethod
    async def settle(self) -> None:
        """Return when everything that was taken before is on disk or has failed, and was told.

        Raises:
            CommitFailedError: the store is closed, or fails.
        """

    def attend(self) -> None:
        """To be called in the event-loop thread between pieces of work that follow each other without a turn
        for others, such as writes to many connections. A store whose threads have something to say says it
        then, so ``done`` may be called. It takes a fraction of a millisecond at most beside that."""

    def on_rounds(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Have ``begin`` called before, and ``end`` after, the ``done`` calls of all batches that were
        committed together, in the event-loop thread. A store may leave it; neither may wait or raise."""
        return

    @abc.abstractmethod
    async def commit(self, batch: Sequence[Operation]) -> tuple[Outcome, ...]:
        """Like :meth:`enqueue`, and wait for the outcome.

        Once the journal has taken the batch, cancelling the wait does not undo it.

        Raises:
            CommitFailedError: nothing of the batch is stored.
        """

    @abc.abstractmethod
    async def read_after(
        self, device_id: str, number: int, *, limit_rows: int, limit_bytes: int, now: int
    ) -> InboxPage:
        """Committed, unexpired rows of the device above ``number`` and above its watermark, in order.

        At least one row comes back when there is one, whatever ``limit_bytes`` says.
        """

    @abc.abstractmethod
    async def inbox_state(self, device_id: str) -> InboxState | None:
        """Where the inbox of the device stands; None for an unknown device."""

    @abc.abstractmethod
    async def routes_of(self, device_id: str) -> dict[int, Route]:
        """The device's own routes by channel."""

    @abc.abstractmethod
    async def load_group(self, group_id: str) -> Group | None:
        """The group with all its members. Open rooms are no groups that can be asked for."""

    @abc.abstractmethod
    async def peers_of(self, device_id: str, limit: int) -> tuple[str, ...]:
        """Active devices that may know of this one's presence, at most ``limit``: members of its groups
        (both must have agreed to be in it, or a stranger could put them together), devices of which
        each has a route to the other on the same channel, and devices of users of which each lists the
        other as a friend."""

    async def peers_of_each(self, device_ids: Sequence[str], limit: int) -> tuple[tuple[str, ...], ...]:
        """:meth:`peers_of` for each of the devices, in their order."""
        return tuple([await self.peers_of(device_id, limit) for device_id in device_ids])

    # -- accounts ------------------------------------------------------------------------------

    @abc.abstractmethod
    async def create_user(self, user: User, code: EnrolmentCode | None = None) -> None:
        """Insert a user and, with it, an enrolment code.

        Raises:
            AlreadyExistsError: the handle or the id is taken.
        """

    @abc.abstractmethod
    async def set_avatar(self, user_id: str, avatar_url: str) -> str | None:
        """Give the user another avatar; the address of the one before, if nobody has that any more.

        Raises:
            StorageError: there is no such user.
        """

    @abc.abstractmethod
    async def has_avatar(self, avatar_url: str) -> bool:
        """Whether a user has this avatar."""

    @abc.abstractmethod
    async def add_enrolment_code(self, code: EnrolmentCode) -> None:
        """Store one more code for an existing user.

        Raises:
            StorageError: the user does not exist.
        """

    @abc.abstractmethod
    async def load_user(self, user_id: str) -> User | None: ...

    @abc.abstractmethod
    async def load_user_by_handle(self, handle: str, domain: str) -> User | None: ...

    @abc.abstractmethod
    async def load_device(self, device_id: str) -> Device | None: ...

    async def known_device(self, device_id: str) -> KnownDevice | None:
        """What a connect has to know about its device, read at once where the store can; None if unknown.

        It may be overtaken at any time: :meth:`admit` checks again.
        """
        device = await self.load_device(device_id)
        user = None if device is None else await self.load_user(device.user_id)
        if device is None or user is None:
            return None
        return KnownDevice(device=device, user=user, certificate=await self.newest_certificate(device_id))

    @abc.abstractmethod
    async def admit(self, admission: Admission) -> Admitted:
        """Admit a proved device in one transaction, or write nothing.

        Creates the inbox of a new device, and gives an inbox a new epoch (rows kept,
        renumbered from 1) when its numbers come near their end.

        Raises:
            AdmissionRefusedError: a check failed; nothing was written.
            CommitFailedError: the disk failed; nothing was written.
        """

    @abc.abstractmethod
    async def revoke_device(
        self,
        device_id: str,
        now: int,
        event: KeyEvent | None = None,
        records: Sequence[OperatorRecord] = (),
    ) -> bool:
        """Mark the device revoked, its certificates too, delete its sessions; False if unknown.

        ``event`` and ``records`` are stored with it, unless the device was revoked before."""

    @abc.abstractmethod
    async def not_active(self, device_ids: Sequence[str]) -> frozenset[str]:
        """Those of the devices that do not exist or are not active (any more)."""

    @abc.abstractmethod
    async def newest_certificate(self, device_id: str) -> CertificateRow | None:
        """The newest certificate that is not revoked, expired or not."""

    @abc.abstractmethod
    async def add_certificate(self, certificate: CertificateRow, event: KeyEvent | None = None) -> bool:
        """Store a certificate and, with it, the event that tells of it.

        False, and nothing is stored, if there is an event and the device is not active with its key any more.
        """

    # -- key events ----------------------------------------------------------------------------

    @abc.abstractmethod
    async def key_events(self, device_id: str) -> tuple[KeyEvent, ...]:
        """What has happened to the keys of the device, the oldest first."""

    @abc.abstractmethod
    async def old_key_events(self, before: int, limit: int) -> tuple[KeyEvent, ...]:
        """At most ``limit`` events recorded before that second, the oldest first; never the newest of a
        device."""

    @abc.abstractmethod
    async def forget_key_events(self, event_ids: Sequence[str]) -> int:
        """Delete events that were put into an archive; how many there were."""

    # -- sessions ------------------------------------------------------------------------------

    @abc.abstractmethod
    async def load_session(self, token_hash: str) -> SessionRow | None: ...

    @abc.abstractmethod
    async def refresh_session(self, token_hash: str, now: int) -> bool:
        """Start the session's lifetime anew; False if there is no such session."""

    @abc.abstractmethod
    async def delete_session(self, token_hash: str) -> bool: ...

    # -- secrets -------------------------------------------------------------------------------

    @abc.abstractmethod
    async def insert_secret(self, secret: Secret) -> None:
        """Raises :class:`AlreadyExistsError` when the version exists."""

    @abc.abstractmethod
    async def active_secrets(self, name: str, now: int) -> tuple[Secret, ...]:
        """``valid_after <= now < expires_at``, newest version first."""

    @abc.abstractmethod
    async def latest_secret_version(self, name: str) -> int:
        """0 when there is none."""

    # -- presence ------------------------------------------------------------------------------

    @abc.abstractmethod
    async def publish_presence(self, presence: Presence) -> None: ...

    @abc.abstractmethod
    async def read_presence(self, device_id: str, now: int) -> Presence | None: ...

    # -- upkeep --------------------------------------------------------------------------------

    @abc.abstractmethod
    async def purge_expired(self, now: int) -> Purged:
        """Delete what has expired (messages, sessions, codes, dead letters, names of messages that are stored
        once), in bounded steps.

        Ends early with ``more`` when the report of expired messages has grown long, and without it
        when the store fails after some were deleted.

        Raises:
            StorageError: it failed before a message was deleted.
        """

    @abc.abstractmethod
    async def wait_failed(self) -> NoReturn:
        """Wait until the store cannot commit any more, for good; a full disk is not such a case.

        A server that goes on without it could only refuse: it should end and be started again.

        Raises:
            StorageError: that has happened.
        """

    @abc.abstractmethod
    async def check(self) -> None:
        """Readiness: prove that the store answers and can write.

        Raises:
            StorageError: it cannot; the text says why.
        """
