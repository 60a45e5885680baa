"""The audit of calls: records wait here for the ledger, a bounded number of them."""

from collections import deque
from datetime import UTC, datetime
from typing import Any

import trio
from blake3 import blake3

from commucat_ledger import Ledger, LedgerRecord

MAX_RECORDS = 1024
"""Records that may wait for the ledger; beyond, call frames wait."""
_LAST_WORDS = 1.0


class CallAudit:
    """Writes records in their order, behind whoever makes them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._records: deque[LedgerRecord] = deque()
        self._recorded = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Never returns. Cancelled, it writes what waits."""
        try:
            while True:
                while self._records:
                    await self._ledger.append(self._records[0])
                    self._records.popleft()
                    self._room.unpark_all()
                await self._recorded.park()
        finally:
            with trio.move_on_after(_LAST_WORDS, shield=True):
                while self._records:
                    await self._ledger.append(self._records.popleft())

    async def room(self) -> None:
        """Wait while the ledger's disk is behind."""
        while len(self._records) >= MAX_RECORDS:
            await self._room.park()

    def record(self, event: str, call_id: str, data: dict[str, Any]) -> None:
        """Put ``offer``, ``answer`` or ``end`` of a call into the audit."""
        metadata = {"scope": "call", "event": event, "call_id": call_id, "data": data}
        digest = blake3(call_id.encode()).digest()
        self._records.append(LedgerRecord(digest=digest, metadata=metadata, recorded_at=datetime.now(UTC)))
        self._recorded.unpark_all()
