"""Attachments in the embedded store."""

import abc
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from commucat_storage.attachments import Attachment, AttachmentQuotaError, AttachmentStore
from commucat_storage.sqlite.rows import first, insert, select

if TYPE_CHECKING:
    from commucat_storage.sqlite.reads import ReaderPool
    from commucat_storage.sqlite.writer import Transaction

T = TypeVar("T")


class SqliteAttachments(AttachmentStore):
    """For the store that has readers, and a way to do work in the writer's thread."""

    _readers: "ReaderPool"

    @abc.abstractmethod
    async def _write(self, work: "Callable[[Transaction], T]") -> T:
        """What ``work`` returns of the open transaction."""

    async def add_attachment(self, attachment: Attachment, *, quota: int) -> None:
        await self._write(lambda transaction: _add(transaction.connection, attachment, quota))

    async def load_attachment(self, id_hash: str) -> Attachment | None:
        return await self._readers.run(_load, id_hash)

    async def advance_attachment(
        self, id_hash: str, *, before: int, received: int, expires_at: int, now: int
    ) -> bool:
        return await self._write(
            lambda transaction: (
                transaction.connection.execute(
                    "UPDATE attachment SET received = ?, expires_at = ? "
                    "WHERE id_hash = ? AND received = ? AND expires_at > ?",
                    (received, expires_at, id_hash, before, now),
                ).rowcount
                == 1
            )
        )

    async def delete_attachment(self, id_hash: str) -> bool:
        return await self._write(
            lambda transaction: (
                transaction.connection.execute(
                    "DELETE FROM attachment WHERE id_hash = ?", (id_hash,)
                ).rowcount
                == 1
            )
        )

    async def expired_attachments(self, now: int, limit: int) -> tuple[Attachment, ...]:
        return await self._readers.run(_expired, now, limit)


def _add(connection: sqlite3.Connection, attachment: Attachment, quota: int) -> None:
    [used] = connection.execute(
        "SELECT coalesce(sum(size), 0) FROM attachment WHERE user_id = ?", (attachment.user_id,)
    ).fetchone()
    if used + attachment.size > quota:
        raise AttachmentQuotaError(f"{used} of {quota} bytes are taken")
    insert(connection, "attachment", attachment, taken="there is such an attachment already")


def _load(connection: sqlite3.Connection, id_hash: str) -> Attachment | None:
    return first(select(connection, Attachment, "attachment", "id_hash = ?", (id_hash,)))


def _expired(connection: sqlite3.Connection, now: int, limit: int) -> tuple[Attachment, ...]:
    condition = "expires_at <= ? ORDER BY expires_at LIMIT ?"
    return tuple(select(connection, Attachment, "attachment", condition, (now, limit)))
