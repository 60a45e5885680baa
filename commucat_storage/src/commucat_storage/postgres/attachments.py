"""Attachments in PostgreSQL."""

from typing import TYPE_CHECKING

from commucat_storage.attachments import Attachment, AttachmentQuotaError, AttachmentStore
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.rows import first, insert, select

if TYPE_CHECKING:
    from commucat_storage.postgres.pool import Pool


class PostgresAttachments(AttachmentStore):
    """For the store that has a pool of connections."""

    _pool: "Pool"

    async def add_attachment(self, attachment: Attachment, *, quota: int) -> None:
        await self._pool.write(lambda connection: _add(connection, attachment, quota))

    async def load_attachment(self, id_hash: str) -> Attachment | None:
        return await self._pool.read(
            lambda connection: first(connection, Attachment, "attachment", "id_hash = $1", id_hash)
        )

    async def advance_attachment(
        self, id_hash: str, *, before: int, received: int, expires_at: int, now: int
    ) -> bool:
        async def unit(connection: Connection) -> bool:
            done = await connection.execute(
                "UPDATE attachment SET received = $3, expires_at = to_timestamp($4::float8) "
                "WHERE id_hash = $1 AND received = $2 AND expires_at > to_timestamp($5::float8)",
                id_hash,
                before,
                received,
                expires_at,
                now,
            )
            return done == "UPDATE 1"

        return await self._pool.write(unit)

    async def delete_attachment(self, id_hash: str) -> bool:
        async def unit(connection: Connection) -> bool:
            return (
                await connection.execute("DELETE FROM attachment WHERE id_hash = $1", id_hash) == "DELETE 1"
            )

        return await self._pool.write(unit)

    async def expired_attachments(self, now: int, limit: int) -> tuple[Attachment, ...]:
        async def unit(connection: Connection) -> tuple[Attachment, ...]:
            condition = "expires_at <= to_timestamp($1::float8) ORDER BY expires_at LIMIT $2"
            return tuple(await select(connection, Attachment, "attachment", condition, now, limit))

        return await self._pool.read(unit)


async def _add(connection: Connection, attachment: Attachment, quota: int) -> None:
    # Locked, without keeping connects of the user waiting: two uploads that begin at once must not both
    # find the same room.
    await connection.execute("SELECT FROM app_user WHERE user_id = $1 FOR NO KEY UPDATE", attachment.user_id)
    used = await connection.fetchval(
        "SELECT coalesce(sum(size), 0)::bigint FROM attachment WHERE user_id = $1", attachment.user_id
    )
    if used + attachment.size > quota:
        raise AttachmentQuotaError(f"{used} of {quota} bytes are taken")
    await insert(connection, "attachment", attachment, taken="there is such an attachment already")
