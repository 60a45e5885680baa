"""Records that were lost: how many, when, and what would prove them."""

from datetime import UTC, datetime

import blake3

from commucat_ledger.chain import SCOPE
from commucat_ledger.record import LedgerRecord, rfc3339


class Gap:
    """Collects what could not be kept; becomes one record that stands where they would have stood."""

    def __init__(self) -> None:
        self.records = 0
        self._hasher = blake3.blake3()
        self._first: datetime | None = None
        self._last: datetime | None = None

    def add(self, record: LedgerRecord) -> None:
        """Count one lost record."""
        self.records += 1
        self._hasher.update(record.digest)
        self._first = self._first or record.recorded_at
        self._last = record.recorded_at

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the digests of the lost records, one after the other."""
        return self._hasher.digest()

    def record(self) -> LedgerRecord:
        """``{"scope": "ledger", "event": "gap", "records": n, "first": time, "last": time}``."""
        assert self._first is not None, "there are records"
        assert self._last is not None, "there are records"
        metadata = {
            "scope": SCOPE,
            "event": "gap",
            "records": self.records,
            "first": rfc3339(self._first),
            "last": rfc3339(self._last),
        }
        return LedgerRecord(digest=self.digest, metadata=metadata, recorded_at=datetime.now(UTC))
