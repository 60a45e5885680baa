"""The one thread that writes a ledger file."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from commucat_ledger.errors import LedgerError
from commucat_ledger.file import LedgerFile
from commucat_ledger.record import LedgerRecord

BATCH_RECORDS: Final = 256
_log = structlog.get_logger("commucat.ledger")


class SyncClock:
    """Says when written lines must be synced: ``interval`` seconds after the first one that is not."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: float | None = None

    def wrote(self, now: float) -> None:
        """Note that a line was written."""
        if self._due is None:
            self._due = now + self._interval

    def wait(self, now: float) -> float | None:
        """Return how long to wait for more records before a sync: ``None`` is for ever, 0 is not at all."""
        return None if self._due is None else max(0.0, self._due - now)

    def synced(self) -> None:
        """Note that everything written is on the disk."""
        self._due = None


class WriterThread:
    """Takes records from any thread, writes them in order, syncs, and closes the file at the end.

    ``taken`` is called after each batch with the number of records that left the queue, ``done`` once as
    the last thing; both from the writing thread. The queue itself has no bound: the caller counts.
    """

    def __init__(
        self,
        file: LedgerFile,
        *,
        sync_interval: float,
        taken: Callable[[int], None],
        done: Callable[[], None],
    ) -> None:
        self._file = file
        self._clock = SyncClock(sync_interval)
        self._taken = taken
        self._done = done
        self._queue: queue.SimpleQueue[LedgerRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commucat-ledger", daemon=True)
        self.written = 0
        self.failures = 0

    @property
    def waiting(self) -> int:
        """Records not yet written, about."""
        return self._queue.qsize()

    def start(self) -> None:
        """Begin writing."""
        self._thread.start()

    def put(self, record: LedgerRecord) -> None:
        """Queue one record."""
        self._queue.put(record)

    def end(self) -> None:
        """Write what is queued, then sync and close the file; nothing may be put after this."""
        self._queue.put(None)

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = self._next_batch()
            ended = None in batch
            records = [record for record in batch if record is not None]
            for record in records:
                self._write(record)
            self._taken(len(records))
            if self._clock.wait(time.monotonic()) == 0.0 or ended:
                self._sync()
        with contextlib.suppress(OSError):  # everything was synced, or its failure was counted
            self._file.close()
        self._done()

    def _next_batch(self) -> list[LedgerRecord | None]:
        batch: list[LedgerRecord | None] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._queue.get(timeout=self._clock.wait(time.monotonic())))
            while len(batch) < BATCH_RECORDS and batch[-1] is not None:
                batch.append(self._queue.get_nowait())
        return batch

    def _write(self, record: LedgerRecord) -> None:
        try:
            self._file.append(record)
        except (OSError, LedgerError) as exc:
            # The digest in the log is the last trace of a lost record.
            self.failures += 1
            _log.error("ledger record lost", digest=record.digest.hex(), error=str(exc))
        except Exception:  # noqa: BLE001 - not expected, but a dead thread would let every caller wait for ever
            self.failures += 1
            _log.exception("ledger record lost", digest=record.digest.hex())
        else:
            self.written += 1
            self._clock.wrote(time.monotonic())

    def _sync(self) -> None:
        try:
            self._file.sync()
        except OSError as exc:
            self.failures += 1
            _log.error("ledger sync failed", error=str(exc))
        # After a failed sync the system forgets what it could not write: asking again would say "good".
        self._clock.synced()
