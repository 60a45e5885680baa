"""The part of the store's interface for secrets that rotate and for commands of operators.

Every change may be made beside a running server, by another process. A change that a ledger shall know of
takes an :class:`OperatorRecord`, which is stored in the same transaction.
"""

import abc
from collections.abc import Callable, Sequence
from typing import TypeAlias

from commucat_storage.operating import (
    CleanedUp,
    GroupListing,
    OperatorRecord,
    QueueStanding,
    Resealed,
    SecretRotation,
    SessionListing,
)
from commucat_storage.records import CertificateRow, KeyEvent, Secret

RecordOf: TypeAlias = Callable[[int], OperatorRecord]
"""Makes the record of a change that concerned so many; called inside the transaction, perhaps again."""
TAKEN_KEPT = 60
"""Seconds for which a record stays after it was taken, so that every node sees it."""


class OperatingStorage(abc.ABC):
    """What a backend does for operators."""

    # -- versions of secrets -----------------------------------------------------------------------

    @abc.abstractmethod
    async def secret_versions(self, name: str | None = None) -> tuple[Secret, ...]:
        """All stored versions, active or not: by name, the newest of each first."""

    @abc.abstractmethod
    async def rotate_secret(self, rotation: SecretRotation) -> None:
        """Store a new version and set when earlier ones expire, in one transaction.

        Raises:
            AlreadyExistsError: the version exists: somebody was faster. Nothing is changed.
        """

    @abc.abstractmethod
    async def set_secret_expiry(
        self,
        name: str,
        version: int,
        expires_at: int,
        record: OperatorRecord | None = None,
        *,
        before: int | None = None,
    ) -> bool:
        """Change when a version expires.

        False if there is none, or it does not expire at ``before`` any more; then nothing is recorded either.
        """

    @abc.abstractmethod
    async def reseal_secrets(self, changes: Sequence[Resealed], record: OperatorRecord | None = None) -> None:
        """Store all of them in their new form.

        Raises:
            StorageError: one has changed since it was read, or is gone, or there are other versions of its
                name; nothing is changed.
        """

    @abc.abstractmethod
    async def forget_secrets(self, before: int) -> int:
        """Delete versions that expired before that second, never the newest of a name; how many."""

    # -- what the ledger is to be told ---------------------------------------------------------------

    @abc.abstractmethod
    async def add_operator_record(self, record: OperatorRecord) -> None: ...

    @abc.abstractmethod
    async def operator_record_ids(self) -> frozenset[str]:
        """All that are stored, taken or not, at most some thousand. Cheap: asked for all the time."""

    @abc.abstractmethod
    async def operator_records(self, limit: int) -> tuple[OperatorRecord, ...]:
        """Those that are not taken yet, the oldest first."""

    @abc.abstractmethod
    async def take_operator_records(self, record_ids: Sequence[str], now: int) -> None:
        """They are in the ledger; deletes those that were taken :data:`TAKEN_KEPT` seconds ago."""

    # -- sessions, queues, groups --------------------------------------------------------------------

    @abc.abstractmethod
    async def list_sessions(
        self, *, now: int, limit: int, device_id: str | None = None, user_id: str | None = None
    ) -> tuple[SessionListing, ...]:
        """Bearer sessions that have not expired, the newest first."""

    @abc.abstractmethod
    async def end_sessions(self, device_id: str, record: RecordOf | None = None) -> int:
        """Delete the sessions of a device; how many. A live one ends once its server notices."""

    @abc.abstractmethod
    async def queues(
        self, *, now: int, limit: int, device_id: str | None = None
    ) -> tuple[QueueStanding, ...]:
        """Inboxes, the one with most messages first; also empty ones. Of one device if it is named."""

    @abc.abstractmethod
    async def expire_queue(self, device_id: str, record: RecordOf | None = None) -> int | None:
        """Let everything that waits for the device expire now; how many messages, None for no device.

        In bounded steps, the first of which stores the record. Nobody can read them then. The next purge of
        a server deletes them, counts them, and tells senders that asked: as for any other message that
        expires.
        """

    @abc.abstractmethod
    async def list_groups(self, *, limit: int, device_id: str | None = None) -> tuple[GroupListing, ...]:
        """Groups, the largest first, or those that a device is in. Open rooms are no groups."""

    # -- keys ----------------------------------------------------------------------------------------

    @abc.abstractmethod
    async def replace_device_key(
        self, certificate: CertificateRow, event: KeyEvent, record: OperatorRecord
    ) -> bool:
        """Give the device of the certificate the key of the certificate; False if there is no such device
        of that user, or if it is not active.

        Earlier certificates are marked revoked, and its sessions end.
        """

    # -- cleaning up ---------------------------------------------------------------------------------

    @abc.abstractmethod
    async def clean_up(self, *, now: int, secrets_before: int) -> CleanedUp:
        """Delete what nothing needs any more, in bounded steps; messages are the business of
        ``purge_expired``."""
