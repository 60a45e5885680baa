"""The part of the PostgreSQL store that is for operators."""

from collections.abc import Sequence

from commucat_storage.interface_operating import OperatingStorage, RecordOf
from commucat_storage.journaled import until_less
from commucat_storage.operating import (
    CleanedUp,
    ExpiryStep,
    GroupListing,
    OperatorRecord,
    QueueStanding,
    Resealed,
    SecretRotation,
    SessionListing,
)
from commucat_storage.postgres import expiry, operating
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.pool import Pool
from commucat_storage.records import CertificateRow, KeyEvent, Secret


class PostgresOperating(OperatingStorage):
    """Needs the pool of the store that it is a part of."""

    _pool: Pool

    async def secret_versions(self, name: str | None = None) -> tuple[Secret, ...]:
        return await self._pool.read(lambda connection: operating.secret_versions(connection, name))

    async def rotate_secret(self, rotation: SecretRotation) -> None:
        await self._pool.write(lambda connection: operating.rotate_secret(connection, rotation))

    async def set_secret_expiry(
        self,
        name: str,
        version: int,
        expires_at: int,
        record: OperatorRecord | None = None,
        *,
        before: int | None = None,
    ) -> bool:
        return await self._pool.write(
            lambda connection: operating.set_secret_expiry(
                connection, name, version, expires_at, record, before
            )
        )

    async def reseal_secrets(self, changes: Sequence[Resealed], record: OperatorRecord | None = None) -> None:
        await self._pool.write(lambda connection: operating.reseal_secrets(connection, changes, record))

    async def forget_secrets(self, before: int) -> int:
        return await self._pool.repeat(lambda connection: operating.forget_secrets(connection, before))

    async def add_operator_record(self, record: OperatorRecord) -> None:
        await self._pool.write(lambda connection: operating.add_record(connection, record))

    async def operator_record_ids(self) -> frozenset[str]:
        return await self._pool.read(operating.record_ids)

    async def operator_records(self, limit: int) -> tuple[OperatorRecord, ...]:
        return await self._pool.read(lambda connection: operating.records(connection, limit))

    async def take_operator_records(self, record_ids: Sequence[str], now: int) -> None:
        await self._pool.write(lambda connection: operating.take_records(connection, record_ids, now))

    async def list_sessions(
        self, *, now: int, limit: int, device_id: str | None = None, user_id: str | None = None
    ) -> tuple[SessionListing, ...]:
        return await self._pool.read(
            lambda connection: operating.list_sessions(connection, now, limit, device_id, user_id)
        )

    async def end_sessions(self, device_id: str, record: RecordOf | None = None) -> int:
        return await self._pool.write(
            lambda connection: operating.end_sessions(connection, device_id, record)
        )

    async def queues(
        self, *, now: int, limit: int, device_id: str | None = None
    ) -> tuple[QueueStanding, ...]:
        return await self._pool.read(lambda connection: operating.queues(connection, now, limit, device_id))

    async def expire_queue(self, device_id: str, record: RecordOf | None = None) -> int | None:
        step: ExpiryStep | None = None

        async def unit(connection: Connection) -> ExpiryStep | None:
            return await operating.expire_step(connection, device_id, step, record)

        while step is None or not step.ended:
            step = await self._pool.write(unit)
            if step is None:
                return None
        return step.count

    async def list_groups(self, *, limit: int, device_id: str | None = None) -> tuple[GroupListing, ...]:
        return await self._pool.read(lambda connection: operating.list_groups(connection, limit, device_id))

    async def replace_device_key(
        self, certificate: CertificateRow, event: KeyEvent, record: OperatorRecord
    ) -> bool:
        return await self._pool.write(
            lambda connection: operating.replace_device_key(connection, certificate, event, record)
        )

    async def clean_up(self, *, now: int, secrets_before: int) -> CleanedUp:
        pool = self._pool
        return CleanedUp(
            sessions=await until_less(
                expiry.STEP_ROWS, lambda: pool.repeat(lambda c: expiry.purge_sessions(c, now))
            ),
            codes=await until_less(
                expiry.STEP_ROWS, lambda: pool.repeat(lambda c: expiry.purge_codes(c, now))
            ),
            secrets=await self.forget_secrets(secrets_before),
            payloads=await pool.repeat(operating.delete_unused_payloads),
            groups=await pool.repeat(operating.delete_empty_groups),
            idempotency=await until_less(
                expiry.STEP_ROWS, lambda: pool.repeat(lambda c: expiry.purge_names(c, now))
            ),
            operator_records=await pool.repeat(lambda c: operating.forget_records(c, now)),
        )
