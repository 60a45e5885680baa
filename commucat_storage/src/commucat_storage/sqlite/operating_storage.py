"""The part of the SQLite store that is for operators."""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from commucat_storage.interface_operating import OperatingStorage, RecordOf
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
from commucat_storage.records import CertificateRow, KeyEvent, Secret
from commucat_storage.sqlite import expiry, operating
from commucat_storage.sqlite.reads import ReaderPool
from commucat_storage.sqlite.writer import Transaction

T = TypeVar("T")


class SqliteOperating(OperatingStorage, abc.ABC):
    """Needs the readers and the writer of the store that it is a part of."""

    _readers: ReaderPool

    @abc.abstractmethod
    async def _write(self, work: Callable[[Transaction], T]) -> T: ...

    @abc.abstractmethod
    async def _purge(self, step: Callable[[int, Transaction], int], now: int) -> int: ...

    async def secret_versions(self, name: str | None = None) -> tuple[Secret, ...]:
        return await self._readers.run(operating.secret_versions, name)

    async def rotate_secret(self, rotation: SecretRotation) -> None:
        await self._write(lambda transaction: operating.rotate_secret(transaction.connection, rotation))

    async def set_secret_expiry(
        self,
        name: str,
        version: int,
        expires_at: int,
        record: OperatorRecord | None = None,
        *,
        before: int | None = None,
    ) -> bool:
        return await self._write(
            lambda transaction: operating.set_secret_expiry(
                transaction.connection, name, version, expires_at, record, before
            )
        )

    async def reseal_secrets(self, changes: Sequence[Resealed], record: OperatorRecord | None = None) -> None:
        await self._write(
            lambda transaction: operating.reseal_secrets(transaction.connection, changes, record)
        )

    async def forget_secrets(self, before: int) -> int:
        return await self._write(lambda transaction: operating.forget_secrets(transaction.connection, before))

    async def add_operator_record(self, record: OperatorRecord) -> None:
        await self._write(lambda transaction: operating.add_record(transaction.connection, record))

    async def operator_record_ids(self) -> frozenset[str]:
        return await self._readers.run(operating.record_ids)

    async def operator_records(self, limit: int) -> tuple[OperatorRecord, ...]:
        return await self._readers.run(operating.records, limit)

    async def take_operator_records(self, record_ids: Sequence[str], now: int) -> None:
        await self._write(lambda transaction: operating.take_records(transaction.connection, record_ids, now))

    async def list_sessions(
        self, *, now: int, limit: int, device_id: str | None = None, user_id: str | None = None
    ) -> tuple[SessionListing, ...]:
        return await self._readers.run(operating.list_sessions, now, limit, device_id, user_id)

    async def end_sessions(self, device_id: str, record: RecordOf | None = None) -> int:
        return await self._write(
            lambda transaction: operating.end_sessions(transaction.connection, device_id, record)
        )

    async def queues(
        self, *, now: int, limit: int, device_id: str | None = None
    ) -> tuple[QueueStanding, ...]:
        return await self._readers.run(operating.queues, now, limit, device_id)

    async def expire_queue(self, device_id: str, record: RecordOf | None = None) -> int | None:
        step: ExpiryStep | None = None

        def work(transaction: Transaction) -> ExpiryStep | None:
            transaction.inboxes.forget(device_id)
            return operating.expire_step(transaction.connection, device_id, step, record)

        while step is None or not step.ended:
            step = await self._write(work)
            if step is None:
                return None
        return step.count

    async def list_groups(self, *, limit: int, device_id: str | None = None) -> tuple[GroupListing, ...]:
        return await self._readers.run(operating.list_groups, limit, device_id)

    async def replace_device_key(
        self, certificate: CertificateRow, event: KeyEvent, record: OperatorRecord
    ) -> bool:
        def work(transaction: Transaction) -> bool:
            transaction.inboxes.forget(certificate.device_id)
            return operating.replace_device_key(transaction.connection, certificate, event, record)

        return await self._write(work)

    async def clean_up(self, *, now: int, secrets_before: int) -> CleanedUp:
        return CleanedUp(
            sessions=await self._purge(expiry.purge_sessions, now),
            codes=await self._purge(expiry.purge_codes, now),
            secrets=await self.forget_secrets(secrets_before),
            payloads=await self._write(lambda t: operating.delete_unused_payloads(t.connection)),
            groups=await self._write(lambda t: operating.delete_empty_groups(t.connection)),
            idempotency=await self._purge(expiry.purge_names, now),
            operator_records=await self._write(functools.partial(_forget_records, now)),
        )


def _forget_records(now: int, transaction: Transaction) -> int:
    return operating.forget_records(transaction.connection, now)
