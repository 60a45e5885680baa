"""The ledger as a Trio program sees it, and the choice of its adapter."""

import abc
import enum
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from commucat_ledger.errors import LedgerClosedError, LedgerTargetError
from commucat_ledger.file import LedgerFile, Rotation
from commucat_ledger.gap import Gap
from commucat_ledger.heads import SignedHead
from commucat_ledger.ledger_log import log
from commucat_ledger.record import LedgerRecord
from commucat_ledger.writer import HeadPolicy, WriterThread

QUEUE_RECORDS: Final = 16_384
"""Records that may wait for the disk, some hundred bytes each: an hour of a small server whose disk is
full, and some seconds of a large one."""
SYNC_INTERVAL: Final = 1.0
PATIENCE: Final = 5.0
"""Seconds that a caller waits for room while the disk only seems slow."""
FIRST_HEAD: Final = 1.0
"""Seconds that somebody waits for the first head."""
CLOSE_TIMEOUT: Final = 10.0


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
    not end the sessions it was meant to record. What cannot be written waits; what there is no room for is
    counted, and a record of the gap stands in its place."""

    @property
    @abc.abstractmethod
    def written(self) -> int:
        """Records handed to the target since it was opened."""

    @property
    @abc.abstractmethod
    def failures(self) -> int:
        """Writes, syncs and keepings of heads that failed, and records lost to a defect, since opening."""

    @property
    def lost(self) -> int:
        """Records for which there was no room, since it was opened."""
        return 0

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return 0

    @property
    def trouble(self) -> str | None:
        """What does not work now, None while all is well."""
        return None

    @property
    def head(self) -> SignedHead | None:
        """The newest signed head; it covers only what is on the disk. None without a signer or records."""
        return None

    async def spoken(self) -> None:
        """Return when there is a head, if there is to be one and the disk answers in time."""
        await trio.lowlevel.checkpoint()

    @abc.abstractmethod
    async def append(self, record: LedgerRecord) -> None:
        """Take one record; records are kept in the order of these calls.

        Waits for some seconds while the queue is full and the target works, to slow its caller down.

        Raises:
            LedgerClosedError: the ledger is closed.
        """

    @abc.abstractmethod
    def offer(self, record: LedgerRecord) -> None:
        """The same for callers that cannot wait; only from the thread that opened the ledger.

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
        self.offer(record)

    def offer(self, record: LedgerRecord) -> None:
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
        log.info("ledger record", digest=record.digest.hex())


class _FileLedger(_OpenLedger):
    def __init__(self, file: LedgerFile, queue: int, sync_interval: float, heads: HeadPolicy) -> None:
        super().__init__()
        # One token per record in the writer's queue: a disk that stalls stops the callers, not our memory.
        self._room = trio.Semaphore(queue)
        self._stalled = False
        self._gap = Gap()
        self._lost = 0
        self._done = trio.Event()
        self._spoken = trio.Event()
        self._signs = heads.signer is not None
        self._token = trio.lowlevel.current_trio_token()
        self._writer = WriterThread(
            file,
            sync_interval=sync_interval,
            taken=lambda count: self._in_loop(self._make_room, count),
            spoken=lambda: self._in_loop(self._spoken.set),
            done=lambda: self._in_loop(self._done.set),
            heads=heads,
        )
        self._writer.start()

    @property
    def written(self) -> int:
        return self._writer.written

    @property
    def failures(self) -> int:
        return self._writer.failures

    @property
    def lost(self) -> int:
        return self._lost + self._writer.lost

    @property
    def waiting(self) -> int:
        return self._writer.waiting

    @property
    def trouble(self) -> str | None:
        if self._writer.trouble is not None:
            return self._writer.trouble
        return "the disk does not answer" if self._stalled else None

    @property
    def head(self) -> SignedHead | None:
        return self._writer.head

    async def spoken(self) -> None:
        if not self._signs:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(FIRST_HEAD):
            await self._spoken.wait()

    async def append(self, record: LedgerRecord) -> None:
        self._check_open()
        if not await self._wait_for_room():
            self._lose(record)
            return
        try:
            # Again: it may have been closed while this call waited for room.
            self._check_open()
        except LedgerClosedError:
            self._room.release()
            raise
        self._put(record)

    def offer(self, record: LedgerRecord) -> None:
        self._check_open()
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            self._lose(record)
        else:
            self._put(record)

    async def aclose(self) -> None:
        await super().aclose()
        self._tell_gap()
        self._writer.end()
        # Shielded: a cancelled server still writes what it was given. Bounded: a dead disk must not keep
        # the process; the thread is a daemon and is left behind then, with its file.
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self._done.wait()
            return
        log.error("ledger not drained at close", seconds=CLOSE_TIMEOUT, unwritten=self._writer.waiting)

    async def _wait_for_room(self) -> bool:
        if self._room.value == 0 and (self._stalled or self._writer.unwritable):
            await trio.lowlevel.checkpoint()
            return False
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            pass
        else:
            return True
        with trio.move_on_after(PATIENCE):
            await self._room.acquire()
            return True
        self._stalled = True
        return False

    def _put(self, record: LedgerRecord) -> None:
        self._tell_gap()
        self._writer.put(record)

    def _lose(self, record: LedgerRecord) -> None:
        if not self._gap.records:
            log.error("ledger has no room, records are lost", waiting=self._writer.waiting)
        self._lost += 1
        self._gap.add(record)

    def _tell_gap(self) -> None:
        """The record of a gap stands before all that had room again."""
        if self._gap.records:
            self._writer.put(self._gap.record(), counted=False)
            self._gap = Gap()

    def _make_room(self, count: int) -> None:
        self._stalled = False
        if not self._closed:
            self._tell_gap()
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
    rotation: Rotation = Rotation(),  # noqa: B008 - frozen
    heads: HeadPolicy = HeadPolicy(),  # noqa: B008 - frozen
) -> AsyncIterator[Ledger]:
    """Open the ledger, and drain and close it at the end of the block, also when that is cancelled.

    ``mode`` is ``null``, ``debug`` or ``file``; ``target`` is needed for ``file`` only. ``queue`` is the
    number of records that may wait for the disk (each below 129 KiB, ordinarily some hundred bytes).
    ``sync_interval`` is the longest time in seconds that a written line may wait for fsync; at close all
    are synced. ``rotation`` says when a file is put away, ``heads`` who signs and where heads are kept; the
    node's name in it also stands in the first record of each following file. Draining takes ten seconds at
    most.

    Raises:
        LedgerTargetError: unknown mode, no target, or the target cannot be used.
    """
    ledger = await _open(mode, target, queue, sync_interval, rotation, heads)
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def _open(
    mode: LedgerMode | str,
    target: Path | None,
    queue: int,
    sync_interval: float,
    rotation: Rotation,
    heads: HeadPolicy,
) -> _OpenLedger:
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
    file = await trio.to_thread.run_sync(partial(LedgerFile, target, node=heads.node, rotation=rotation))
    return _FileLedger(file, queue, sync_interval, heads)
