"""Encrypted attachments: what a store keeps of each. The bytes are files, which the server looks after."""

import abc

import attrs

from commucat_storage.errors import StorageError


@attrs.frozen(kw_only=True)
class Attachment:
    """A blob that a user uploads, or has uploaded."""

    id_hash: str
    """Hex of BLAKE3 over the id's text: whoever knows the id may download, so it is not kept."""
    user_id: str
    size: int
    """Bytes it has, or will have; at least 1."""
    received: int = 0
    """Bytes that are on disk."""
    created_at: int
    expires_at: int
    """An upload that is not complete is given up then; a complete attachment is deleted."""

    @property
    def complete(self) -> bool:
        return self.received == self.size


class AttachmentQuotaError(StorageError):
    """The user's attachments would take more than they may; nothing was stored."""


class AttachmentStore(abc.ABC):
    """The part of :class:`Storage` that is about attachments."""

    @abc.abstractmethod
    async def add_attachment(self, attachment: Attachment, *, quota: int) -> None:
        """Store one that begins. ``quota``: bytes of all attachments of the user together.

        Raises:
            AttachmentQuotaError: they would be more.
            AlreadyExistsError: the hash is taken.
        """

    @abc.abstractmethod
    async def load_attachment(self, id_hash: str) -> Attachment | None:
        """Complete or not, expired or not."""

    @abc.abstractmethod
    async def advance_attachment(
        self, id_hash: str, *, before: int, received: int, expires_at: int, now: int
    ) -> bool:
        """Bytes from ``before`` to ``received`` are on disk. False, and nothing is written, if it did not
        stand at ``before``, or is gone, or its time is over ``now``: then it is about to be deleted."""

    @abc.abstractmethod
    async def delete_attachment(self, id_hash: str) -> bool:
        """Forget it; call this when its file is gone. False if it is not there."""

    @abc.abstractmethod
    async def expired_attachments(self, now: int, limit: int) -> tuple[Attachment, ...]:
        """At most ``limit`` whose time is over, the oldest first."""
