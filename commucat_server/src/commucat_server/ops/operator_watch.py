"""What operators change with commands beside the running server: noticed at once, told to the ledger."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson
import structlog
import trio

from commucat_ledger import Ledger, LedgerClosedError, LedgerRecord
from commucat_server.ops.counters import Counters
from commucat_server.ops.times import rfc3339
from commucat_server.provision.noise_keys import NOISE_SECRET
from commucat_server.routing.registry import Registry
from commucat_storage import OperatorRecord, Storage, StorageError

log = structlog.get_logger("commucat.operator")

INTERVAL = 0.5
"""One small query each time; an ended session and a replaced key take effect within a second."""
LEASE = "operator-records"
LEASE_SECONDS = 10.0
STEP_RECORDS = 100
ENDED = {
    "error": "session_ended",
    "title": "Session ended",
    "detail": "the operator has ended it; connect again",
    "retry": True,
}


class OperatorWatch:
    """Looks for new records of operators' commands.

    Each node does what a change asks for; one writes the records to its ledger. A record is deleted after
    it was written, so one that is in the ledger twice means that its writer was killed in between.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        registry: Registry,
        ledger: Ledger,
        counters: Counters,
        clock: Callable[[], float],
        refresh_secrets: Callable[[], Awaitable[None]],
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._ledger = ledger
        self._counters = counters
        self._clock = clock
        self._refresh_secrets = refresh_secrets
        self._seen: frozenset[str] = frozenset()
        self._failing = False

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
            await self._end_gone_sessions()
            await self._refresh_secrets()
        self._seen = found
        if await self._storage.take_lease(LEASE, LEASE_SECONDS):
            await self._write_records()

    async def _end_gone_sessions(self) -> None:
        sessions = {session.token_hash: session for session in self._registry}
        if not sessions:
            return
        gone = [sessions[token] for token in await self._storage.sessions_gone(tuple(sessions))]
        if not gone:
            return
        # Those of revoked devices are told another reason, by the upkeep, which has it in the ledger too.
        revoked = await self._storage.not_active([session.device_id for session in gone])
        for session in gone:
            if session.device_id not in revoked:
                session.end(ENDED)

    async def _write_records(self) -> None:
        records = await self._storage.operator_records(STEP_RECORDS)
        for record in records:
            metadata = orjson.loads(record.metadata) | {"at": rfc3339(record.recorded_at)}
            try:
                await self._ledger.append(
                    LedgerRecord(digest=record.digest, metadata=metadata, recorded_at=datetime.now(UTC))
                )
            except LedgerClosedError:
                return  # the server ends; the next one writes it
        # Also without records: deletes those that every node has seen.
        await self._storage.take_operator_records(
            [record.record_id for record in records], int(self._clock())
        )
        for record in records:
            self._count(record)

    def _count(self, record: OperatorRecord) -> None:
        metadata = orjson.loads(record.metadata)
        if metadata.get("scope") == "secret" and metadata.get("event") == "rotate":
            if metadata.get("name") == NOISE_SECRET:
                self._counters.secret_rotations_noise += 1
            else:
                self._counters.secret_rotations_admin += 1
        if metadata.get("scope") == "queue" and metadata.get("event") == "purge":
            self._counters.messages_purged += int(metadata.get("messages", 0))
