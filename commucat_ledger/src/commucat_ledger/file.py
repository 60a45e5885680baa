"""A ledger file held by one process; every call blocks and belongs in one thread."""

import errno
import fcntl
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs
import blake3
import structlog

from commucat_ledger.chain import GENESIS, LINE_START, MAX_LINE_BYTES, BadLine, head_of, line_of, prev_of
from commucat_ledger.errors import LedgerTargetError
from commucat_ledger.record import LedgerRecord

FILE_MODE: Final = 0o600
_log = structlog.get_logger("commucat.ledger")


@attrs.frozen(kw_only=True)
class _End:
    """The last bytes of a file: head after its last whole line, where that ends, and what stands behind."""

    head: bytes
    offset: int
    torn: bytes = attrs.field(repr=False)


class LedgerFile:
    """Appends lines to a file that it holds alone.

    Opening creates the file (mode 0600) and its parents, takes a lock (``flock``) on it, and looks at its
    end. A last line without newline is what a killed process or a full disk leaves: its bytes go to
    ``<file>.torn`` (one torn line per line there), it is cut from the file, and a record with metadata
    ``{"scope": "ledger", "event": "torn", "bytes": n}`` and BLAKE3 of those bytes as digest continues the
    chain, so that the file verifies and still tells what happened.

    Raises:
        LedgerTargetError: in use by another process, not a ledger file, or the system refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head = GENESIS
        # Where our last line ended. Any other size means: look at the disk before writing on.
        self._size: int | None = None
        try:
            self._fd = self._open()
            try:
                self._lock()
                self._recover(at_open=True)
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as exc:
            raise LedgerTargetError(f"ledger {path}: {exc.strerror or exc}") from exc

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self._path, flags)
        except FileNotFoundError:
            fd = os.open(self._path, flags | os.O_CREAT, FILE_MODE)
            _sync_directory(self._path.parent)
            return fd

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise LedgerTargetError(f"ledger {self._path}: not a regular file")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise LedgerTargetError(f"ledger {self._path}: another process is writing it") from exc

    def append(self, record: LedgerRecord) -> None:
        """Write one line with one system call; it is on disk for certain only after :meth:`sync`.

        After any error the next call first looks at what really reached the disk and continues from there.

        Raises:
            OSError: the line is not, or not wholly, in the file.
            LedgerTargetError: somebody else filled the file with what cannot be continued.
        """
        if os.fstat(self._fd).st_size != self._size:
            self._recover(at_open=False)
        self._write(line_of(record, self._head))

    def sync(self) -> None:
        """Wait until every line written is on the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file and give up the lock."""
        os.close(self._fd)

    def _write(self, line: bytes) -> None:
        size = self._size
        self._size = None
        written = os.write(self._fd, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes of a line were written")
        self._size = None if size is None else size + written
        self._head = head_of(line)

    def _recover(self, *, at_open: bool) -> None:
        if self._size is not None:
            _log.warning("ledger file was changed by somebody else", path=str(self._path))
        self._size = None
        end = self._find_end(at_open=at_open)
        if end.torn:
            self._set_aside(end.torn)
            os.ftruncate(self._fd, end.offset)
            _log.warning("torn ledger line set aside", path=str(self._path), bytes=len(end.torn))
        self._head = end.head
        self._size = end.offset
        if end.torn:
            self._write(line_of(_torn_record(end.torn), self._head))

    def _find_end(self, *, at_open: bool) -> _End:
        size = os.fstat(self._fd).st_size
        # Room for a torn line, the whole line before it, and the newline before that.
        start = max(0, size - 2 * MAX_LINE_BYTES - 1)
        data = os.pread(self._fd, size - start, start)
        last_newline = data.rfind(b"\n")
        line_start = data.rfind(b"\n", 0, max(0, last_newline)) + 1
        if start > 0 and line_start == 0:
            raise LedgerTargetError(f"ledger {self._path}: the last line is too long; not a ledger file")
        torn = data[last_newline + 1 :]
        if last_newline < 0:
            # A first line that was cut begins as lines do, or is zeros from a lost write. Any
            # other text is somebody's file under a mistyped path: it must not be emptied.
            if not (torn.startswith(LINE_START[: len(torn)]) or not torn.strip(b"\0")):
                raise LedgerTargetError(f"ledger {self._path}: not a ledger file")
            return _End(head=GENESIS, offset=0, torn=torn)
        line = data[line_start:last_newline]
        if at_open:
            try:
                prev_of(line)
            except BadLine as exc:
                raise LedgerTargetError(
                    f"ledger {self._path}: the last line is not a ledger line ({exc}); move the file away"
                ) from exc
        return _End(head=head_of(line), offset=start + last_newline + 1, torn=torn)

    def _set_aside(self, torn: bytes) -> None:
        # Safe on disk before it is cut from the ledger; a crash between the two only doubles it there.
        aside = self._path.with_name(self._path.name + ".torn")
        fd = os.open(aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            rest = memoryview(torn + b"\n")
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync_directory(aside.parent)


def _torn_record(torn: bytes) -> LedgerRecord:
    return LedgerRecord(
        digest=blake3.blake3(torn).digest(),
        metadata={"scope": "ledger", "event": "torn", "bytes": len(torn)},
        recorded_at=datetime.now(UTC),
    )


def _sync_directory(directory: Path) -> None:
    # A new name is on the disk only when its directory is.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
