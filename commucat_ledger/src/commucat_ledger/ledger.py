"""The ledger as a Trio program sees it, and the choice of its adapter."""

import abc
import enum
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
import trio

from commucat_ledger.errors import LedgerClosedError, LedgerTargetError
from commucat_ledger.file import LedgerFile
from commucat_ledger.record import LedgerRecord
from commucat_ledger.writer import WriterThread

QUEUE_RECORDS: Final = 1024
SYNC_INTERVAL: Final = 1.0
CLOSE_TIMEOUT: Final = 10.0
_log = structlog.get_logger("commucat.ledger")


class LedgerMode(enum.StrEnum):
    """Where records go."""

    NULL = "null"
    """Nowhere."""
    DEBUG = "debug"
    """One info log line each, with the digest only."""
    FILE = "file"
    """A file whose lines form a hash chain."""


class Ledger(abc.ABC):
    """Takes audit records. Trouble with the target is logged and counted, never raised: a full disk must
    not end the sessions it was meant to record."""

    @property
    @abc.abstractmethod
    def written(self) -> int:
        """Records handed to the target since it was opened."""

    @property
    @abc.abstractmethod
    def failures(self) -> int:
        """Records lost, and syncs failed, since it was opened."""

    @abc.abstractmethod
    async def append(self, record: LedgerRecord) -> None:
        """Take one record; records are kept in the order of these calls. Waits only while the queue is full.

        Raises:
            LedgerClosedError: the ledger is closed.
        """


class _OpenLedger(Ledger):
    """What all adapters share: open, then closed for ever."""

    def __init__(self) -> None:
        self._closed = False
        self._count = 0

    @property
    def written(self) -> int:
        return self._count

    @property
    def failures(self) -> int:
        return 0

    async def append(self, record: LedgerRecord) -> None:
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._take(record)
        self._count += 1

    def _take(self, record: LedgerRecord) -> None:
        """Discard the record: the null adapter."""

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerClosedError("the ledger is closed")

    async def aclose(self) -> None:
        self._closed = True


class _DebugLedger(_OpenLedger):
    def _take(self, record: LedgerRecord) -> None:
        _log.info("ledger record", digest=record.digest.hex())


class _FileLedger(_OpenLedger):
    def __init__(self, file: LedgerFile, queue: int, sync_interval: float) -> None:
        super().__init__()
        # One token per record in the writer's queue: a disk that stalls stops the callers, not our memory.
        self._room = trio.Semaphore(queue)
        self._done = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._writer = WriterThread(
            file,
            sync_interval=sync_interval,
            taken=lambda count: self._in_loop(self._make_room, count),
            done=lambda: self._in_loop(self._done.set),
        )
        self._writer.start()

    @property
    def written(self) -> int:
        return self._writer.written

    @property
    def failures(self) -> int:
        return self._writer.failures

    async def append(self, record: LedgerRecord) -> None:
        self._check_open()
        await self._room.acquire()
        try:
            # Again: it may have been closed while this call waited for room.
            self._check_open()
        except LedgerClosedError:
            self._room.release()
            raise
        self._writer.put(record)

    async def aclose(self) -> None:
        await super().aclose()
        self._writer.end()
        # Shielded: a cancelled server still writes what it was given. Bounded: a dead disk must not keep
        # the process; the thread is a daemon and is left behind then, with its file.
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self._done.wait()
            return
        _log.error("ledger not drained at close", seconds=CLOSE_TIMEOUT, unwritten=self._writer.waiting)

    def _make_room(self, count: int) -> None:
        for _ in range(count):
            self._room.release()

    def _in_loop(self, call: Callable[..., object], *args: object) -> None:
        try:
            self._token.run_sync_soon(call, *args)
        except trio.RunFinishedError:
            return  # The program ended before a stalled disk came back: nobody waits any more.


@asynccontextmanager
async def open_ledger(
    mode: LedgerMode | str,
    target: Path | None,
    *,
    queue: int = QUEUE_RECORDS,
    sync_interval: float = SYNC_INTERVAL,
) -> AsyncIterator[Ledger]:
    """Open the ledger, and drain and close it at the end of the block, also when that is cancelled.

    ``mode`` is ``null``, ``debug`` or ``file``; ``target`` is needed for ``file`` only. ``queue`` is the
    number of records that may wait for the disk (each below 129 KiB, ordinarily some hundred bytes).
    ``sync_interval`` is the longest time in seconds that a written line may wait for fsync; at close all
    are synced. Draining takes ten seconds at most.

    Raises:
        LedgerTargetError: unknown mode, no target, or the target cannot be used.
    """
    ledger = await _open(mode, target, queue, sync_interval)
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def _open(mode: LedgerMode | str, target: Path | None, queue: int, sync_interval: float) -> _OpenLedger:
    try:
        chosen = LedgerMode(mode)
    except ValueError as exc:
        raise LedgerTargetError(f"ledger mode {mode!r} is none of null, debug, file") from exc
    if chosen is LedgerMode.NULL:
        return _OpenLedger()
    if chosen is LedgerMode.DEBUG:
        return _DebugLedger()
    if target is None:
        raise LedgerTargetError("ledger mode file needs a target")
    file = await trio.to_thread.run_sync(LedgerFile, target)
    return _FileLedger(file, queue, sync_interval)
