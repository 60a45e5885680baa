"""What operators change with commands beside the running server: noticed at once, told to the ledger."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
import trio

from commucat_ledger import Ledger, LedgerClosedError, LedgerError, LedgerRecord
from commucat_server.ops.counters import Counters
from commucat_server.ops.times import rfc3339
from commucat_server.provision.noise_keys import NOISE_SECRET
from commucat_storage import OperatorRecord, Storage, StorageError
from commucat_storage.interface_operating import TAKEN_KEPT

log = structlog.get_logger("commucat.operator")

INTERVAL = 0.5
"""One small query each time; a replaced key takes effect within a second."""
LEASE = "operator-records"
LEASE_SECONDS = 10.0
STEP_RECORDS = 100


class OperatorWatch:
    """Looks for new records of operators' commands.

    Each node takes changed secrets; one writes the records to its ledger. A record is deleted after
    it was written, so one that is in the ledger twice means that its writer was killed in between.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        ledger: Ledger,
        counters: Counters,
        clock: Callable[[], float],
        changed: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        """``changed`` are called one after the other when there is a record that was not there before."""
        self._storage = storage
        self._ledger = ledger
        self._counters = counters
        self._clock = clock
        self._changed = changed
        self._seen: frozenset[str] = frozenset()
        self._failing = False
        self._forget_at = 0

    async def run(self) -> None:
        """Never returns; a store that fails is told in the log once, and asked again."""
        while True:
            try:
                await self.look()
                self._failing = False
            except StorageError as exc:
                if not self._failing:
                    log.error("operators' changes cannot be looked for", reason=str(exc))
                self._failing = True
            await trio.sleep(INTERVAL)

    async def look(self) -> None:
        """Do what has become due since the last look.

        Raises:
            StorageError: the store failed; the next look does it.
        """
        found = await self._storage.operator_record_ids()
        if not found:
            self._seen = found
            return
        if not found <= self._seen:
            for take in self._changed:
                await take()
        self._seen = found
        if await self._storage.take_lease(LEASE, LEASE_SECONDS):
            await self._write_records()

    async def _write_records(self) -> None:
        records = await self._storage.operator_records(STEP_RECORDS)
        for record in records:
            written = _ledger_record(record)
            if written is None:
                log.error("a stored record cannot be read, and is left out", record=record.record_id)
                continue
            try:
                await self._ledger.append(written)
            except LedgerClosedError:
                return  # the server ends; the next one writes it
            self._count(written.metadata)
        now = int(self._clock())
        if not records and now < self._forget_at:
            return
        # Also without records: deletes those that every node has seen.
        await self._storage.take_operator_records([record.record_id for record in records], now)
        self._forget_at = now + TAKEN_KEPT

    def _count(self, metadata: Mapping[str, Any]) -> None:
        match metadata:
            case {"scope": "secret", "event": "rotate", "name": name}:
                if name == NOISE_SECRET:
                    self._counters.secret_rotations_noise += 1
                else:
                    self._counters.secret_rotations_admin += 1
            case {"scope": "queue", "event": "purge", "messages": int(messages)}:
                self._counters.messages_purged += messages


def _ledger_record(record: OperatorRecord) -> LedgerRecord | None:
    """What goes to the ledger; None for a row that somebody has written by hand, and wrongly."""
    try:
        metadata = orjson.loads(record.metadata)
        if not isinstance(metadata, dict):
            return None
        metadata["at"] = rfc3339(record.recorded_at)
        return LedgerRecord(digest=record.digest, metadata=metadata, recorded_at=datetime.now(UTC))
    except (ValueError, OverflowError, OSError, LedgerError):
        return None
