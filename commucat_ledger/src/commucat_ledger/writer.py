"""The one thread that writes a ledger's files."""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from commucat_ledger.ending import Place
from commucat_ledger.errors import LedgerError
from commucat_ledger.file import LedgerFile
from commucat_ledger.gap import Gap
from commucat_ledger.heads import SignedHead, Signer, keep_head
from commucat_ledger.ledger_log import log
from commucat_ledger.record import LedgerRecord

BATCH_RECORDS: Final = 256
GATHER_SECONDS: Final = 0.02
"""How long the first record of a batch waits for others: each wake-up of the thread costs the callers' thread
more than the writing does. A process that is killed loses records of this time at most."""
FIRST_RETRY: Final = 0.25
LONGEST_RETRY: Final = 5.0
"""Seconds between attempts to write what could not be written."""


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


@attrs.frozen(kw_only=True)
class HeadPolicy:
    """How the ledger is spoken for. Without a signer there are no heads."""

    signer: Signer | None = None
    node: str = ""
    path: Path | None = None
    """A file beside the ledger, better on another disk, that gets a head now and then."""
    interval: float = 60.0
    """Seconds between two heads in that file while the ledger grows."""


class Trouble:
    """Something that does not work for a while: told once when it begins, and once when it is over."""

    def __init__(self, begun: str, over: str) -> None:
        self._begun = begun
        self._over = over
        self.reason: str | None = None

    def begin(self, reason: str) -> None:
        if self.reason is None:
            log.error(self._begun, error=reason)
        self.reason = reason

    def end(self) -> None:
        if self.reason is not None:
            log.warning(self._over)
        self.reason = None


class WriterThread:
    """Takes records from any thread, writes them in order, syncs, and closes the file at the end.

    What cannot be written is kept, in order, and tried again: the caller bounds how much that may be.
    ``taken`` is called with the number of records that left the queue, ``spoken`` when there is a head for
    the first time, ``done`` once as the last thing; all from the writing thread.
    """

    def __init__(
        self,
        file: LedgerFile,
        *,
        sync_interval: float,
        taken: Callable[[int], None],
        spoken: Callable[[], None],
        done: Callable[[], None],
        heads: HeadPolicy = HeadPolicy(),
    ) -> None:
        self._file = file
        self._clock = SyncClock(sync_interval)
        self._heads = heads
        self._taken = taken
        self._spoken = spoken
        self._done = done
        self._queue: queue.SimpleQueue[tuple[LedgerRecord, bool] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._unwritten: deque[tuple[LedgerRecord, bool]] = deque()
        self._gap = Gap()
        self._retry_at: float | None = None
        self._retry = FIRST_RETRY
        self._kept_at: float | None = None
        self._kept_size = -1
        self._thread = threading.Thread(target=self._run, name="commucat-ledger", daemon=True)
        self._unwritable = Trouble("ledger cannot be written, records wait", "ledger is written again")
        self._unsynced = Trouble("ledger sync failed", "ledger is synced again")
        self._shut = Trouble("ledger file was shut to the server", "ledger file is open to the server again")
        self._unkept = Trouble("ledger head cannot be kept", "ledger heads are kept again")
        self._unrotated = Trouble("ledger file cannot be put away", "ledger files are put away again")
        # By the one thread that puts; a record on its way between queue and deque is in neither.
        self._put = 0
        self.written = 0
        self.failures = 0
        self.lost = 0
        self.head: SignedHead | None = None

    @property
    def waiting(self) -> int:
        """Records that were put and are neither written nor lost."""
        return self._put - self.written - self.lost

    @property
    def trouble(self) -> str | None:
        """What does not work now, None while all is well."""
        troubles = (self._unwritable, self._unsynced, self._shut, self._unkept, self._unrotated)
        return next((trouble.reason for trouble in troubles if trouble.reason is not None), None)

    @property
    def unwritable(self) -> bool:
        """Whether records wait for a file that cannot be written."""
        return self._unwritable.reason is not None

    def start(self) -> None:
        """Begin writing."""
        self._thread.start()

    def put(self, record: LedgerRecord, *, counted: bool = True) -> None:
        """Queue one record; ``counted``: whether it is to be told to ``taken``."""
        self._put += 1
        self._queue.put((record, counted))

    def end(self) -> None:
        """Write what is queued, then sync and close the file; nothing may be put after this."""
        self._queue.put(None)
        self._ending.set()

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        ended = False
        if self._file.place.seq:
            self._sync(last=False)  # A head can be given from the beginning.
        while not ended:
            ended = self._take_batch()
            if ended or self._unwritten:
                self._write_waiting(last=ended)
            if ended or self._clock.wait(time.monotonic()) == 0.0 or self._is_silent:
                self._sync(last=ended)
            elif self._keep_wait(time.monotonic()) == 0.0:
                self._speak(self._file.place, last=False)
        for record, _ in self._unwritten:
            self.lost += 1
            self._gap.add(record)
        if self._gap.records:
            log.error(
                "ledger records lost at close", records=self._gap.records, digest=self._gap.digest.hex()
            )
        with contextlib.suppress(OSError):  # everything was synced, or its failure was counted
            self._file.close()
        self._done()

    @property
    def _is_silent(self) -> bool:
        """Whether a head is missing that somebody may wait for: the first records are synced at once."""
        return self.head is None and self._heads.signer is not None and self._file.place.seq > 0

    def _take_batch(self) -> bool:
        """Wait for records, or for the time of something else; whether the end has come."""
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=self._patience())
            if item is not None:
                self._ending.wait(GATHER_SECONDS)
            while item is not None:
                self._unwritten.append(item)
                if len(self._unwritten) >= BATCH_RECORDS:
                    return False
                item = self._queue.get_nowait()
            return True
        return False

    def _patience(self) -> float | None:
        now = time.monotonic()
        waits = [self._clock.wait(now), self._keep_wait(now)]
        if self._retry_at is not None:
            waits.append(max(0.0, self._retry_at - now))
        return min((wait for wait in waits if wait is not None), default=None)

    def _keep_wait(self, now: float) -> float | None:
        """How long until the last head has to be kept; None if it was, or more must be synced first."""
        if (
            self._kept_at is None
            or self._kept_size == self._file.place.seq
            or self._clock.wait(now) is not None
        ):
            return None
        return max(0.0, self._kept_at + self._heads.interval - now)

    def _write_waiting(self, *, last: bool) -> None:
        if self._retry_at is not None and time.monotonic() < self._retry_at and not last:
            return
        taken = 0
        try:
            self._file.attend()
            self._check_access()
            self._rotate()
            while self._unwritten:
                record, counted = self._unwritten[0]
                self._write(record)
                self._unwritten.popleft()
                taken += counted
        except (OSError, LedgerError) as exc:
            self.failures += 1
            self._unwritable.begin(str(exc))
            self._retry_at = time.monotonic() + self._retry
            self._retry = min(LONGEST_RETRY, self._retry * 2)
        else:
            self._unwritable.end()
            self._retry_at = None
            self._retry = FIRST_RETRY
        if taken:
            self._taken(taken)

    def _write(self, record: LedgerRecord) -> None:
        if self._gap.records:
            self._file.append(self._gap.record())
            self._gap = Gap()
        try:
            self._file.append(record)
        except (OSError, LedgerError):
            raise
        except Exception:  # noqa: BLE001 - not expected, but a dead thread would let every caller wait for ever
            self.failures += 1
            self.lost += 1
            self._gap.add(record)
            log.exception("ledger record lost", digest=record.digest.hex())
        else:
            self.written += 1
            self._clock.wrote(time.monotonic())

    def _check_access(self) -> None:
        try:
            self._file.check_access()
        except OSError as exc:
            self._shut.begin(str(exc.strerror or exc))
        else:
            self._shut.end()

    def _rotate(self) -> None:
        try:
            if self._file.rotate_if_due():
                self._clock.wrote(time.monotonic())
        except (OSError, LedgerError) as exc:
            self.failures += 1
            self._unrotated.begin(str(exc))
            self._file.attend()  # the old file is written on, if it is still there
        else:
            self._unrotated.end()

    def _sync(self, *, last: bool) -> None:
        try:
            self._file.sync()
        except OSError as exc:
            self.failures += 1
            self._unsynced.begin(str(exc))
        else:
            self._unsynced.end()
            self._speak(self._file.place, last=last)
        # After a failed sync the system forgets what it could not write: asking again would say "good".
        self._clock.synced()

    def _speak(self, place: Place, *, last: bool) -> None:
        """Sign where the ledger stands. Only what is on the disk: nobody shall miss what a crash took."""
        signer = self._heads.signer
        if signer is None or not place.seq:
            return
        first = self.head is None
        if self.head is None or self.head.size != place.seq:
            self.head = SignedHead.make(
                signer,
                ledger=place.ledger,
                size=place.seq,
                head=place.head,
                signed_at=int(time.time()),
                node=self._heads.node,
            )
        if first:
            self._spoken()
        now = time.monotonic()
        due = self._kept_at is None or now >= self._kept_at + self._heads.interval
        if self._heads.path is None or self._kept_size == place.seq or not (due or last):
            return
        self._kept_at = now
        try:
            keep_head(self._heads.path, self.head)
        except OSError as exc:
            self.failures += 1
            self._unkept.begin(f"{self._heads.path}: {exc.strerror or exc}")
        else:
            self._unkept.end()
            self._kept_size = place.seq
