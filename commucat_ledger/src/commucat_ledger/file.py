"""A ledger's files held by one process; every call blocks and belongs in one thread."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs
import blake3

from commucat_ledger.archives import archive_path, archives_of
from commucat_ledger.chain import CONTINUE, SCOPE, head_of, line_of
from commucat_ledger.ending import Place, find_ending, first_line
from commucat_ledger.errors import LedgerTargetError
from commucat_ledger.ledger_log import log
from commucat_ledger.record import LedgerRecord

FILE_MODE: Final = 0o600


def _now() -> datetime:
    return datetime.now(UTC)


@attrs.frozen(kw_only=True)
class Rotation:
    """When a file is put away and the next one begun; 0 means never."""

    max_bytes: int = 0
    max_age: float = 0.0
    """Seconds since the first record of the file."""


class LedgerFile:
    """Appends lines to a file that it holds alone, and puts it away when it is large or old.

    Opening creates the file (mode 0600) and its parents, takes a lock (``flock``) on it, and looks at its
    end. A last line without newline is what a killed process or a full disk leaves: its bytes go to
    ``<file>.torn`` (one torn line per line there), it is cut from the file, and a record with metadata
    ``{"scope": "ledger", "event": "torn", "bytes": n}`` and BLAKE3 of those bytes as digest continues the
    chain, so that the file verifies and still tells what happened.

    A file that was rotated (by us or by another program), emptied or removed is followed by one whose first
    record says ``{"scope": "ledger", "event": "continue", "ledger": id, "reason": ...}``: the chain goes on.

    Raises:
        LedgerTargetError: in use by another process, not a ledger file, or the system refuses.
    """

    def __init__(
        self,
        path: Path,
        *,
        node: str = "",
        rotation: Rotation = Rotation(),
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._path = path
        self._node = node
        self._rotation = rotation
        self._now = now
        self._place = Place()
        self._fd: int | None = None
        # Where our last line ended. Any other size means: look at the disk before writing on.
        self._size: int | None = None
        self._begun: datetime | None = None
        try:
            self._attach()
        except OSError as exc:
            raise LedgerTargetError(
                f"ledger {path}: {exc.strerror or exc}; name a file that can be written"
            ) from exc

    @property
    def place(self) -> Place:
        """Where the chain stands after the last line written."""
        return self._place

    def append(self, record: LedgerRecord) -> None:
        """Write one line with one system call; it is on disk for certain only after :meth:`sync`.

        After any error the next call first looks at what really reached the disk and continues from there.

        Raises:
            OSError: the line is not, or not wholly, in the file.
            LedgerTargetError: somebody else filled the file with what cannot be continued.
        """
        self._ready()
        self._write(record)

    def attend(self) -> None:
        """See that the name still leads to the file that is written; to be called now and then.

        What another program renamed or removed is left to it, and a new file continues the chain.

        Raises:
            OSError, LedgerTargetError: there is nothing that can be written at that name now.
        """
        if self._fd is not None:
            held = os.fstat(self._fd)
            try:
                named = os.stat(self._path)
            except (FileNotFoundError, NotADirectoryError):
                named = None
            except PermissionError:
                return  # What is open can still be written; :meth:`check_access` tells.
            if named is not None and (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino):
                return
            log.warning("ledger file was moved or removed by somebody else", path=str(self._path))
            self._give_up()
        self._attach()

    def check_access(self) -> None:
        """See whether the file could be opened again, as after a restart: permissions may have been changed.

        Raises:
            OSError: it could not.
        """
        if not os.access(self._path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise OSError(errno.EACCES, f"{self._path} may not be opened again, and is written on as it is")

    def rotate_if_due(self) -> bool:
        """Put the file away if it is large or old enough, and begin the next; whether that was done.

        Raises:
            OSError, LedgerTargetError: it could not be put away, and is written on; or the next one could
                not be begun, then :meth:`attend` tries again.
        """
        if self._fd is None or not self._is_due():
            return False
        os.fsync(self._fd)
        number = max([number for number, _ in archives_of(self._path)], default=0) + 1
        archive = archive_path(self._path, number)
        os.rename(self._path, archive)
        _sync_directory(self._path.parent)
        self._give_up()
        log.info("ledger file put away", archive=str(archive), records=self._place.seq)
        self._attach(reason="rotation")
        return True

    def sync(self) -> None:
        """Wait until every line written is on the disk."""
        if self._fd is None:
            raise OSError(errno.ENOENT, "the ledger file is gone")
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file and give up the lock."""
        self._give_up()

    # -- the file behind the name ------------------------------------------------------------------

    def _attach(self, reason: str = "moved") -> None:
        fd = self._open()
        try:
            self._lock(fd)
            self._fd = fd
            self._size = None
            self._recover(reason, attached=True)
        except BaseException:
            self._fd = None
            os.close(fd)
            raise

    def _give_up(self) -> None:
        fd, self._fd = self._fd, None
        self._size = None
        if fd is not None:
            os.close(fd)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self._path, flags)
        except FileNotFoundError:
            fd = os.open(self._path, flags | os.O_CREAT, FILE_MODE)
            _sync_directory(self._path.parent)
            return fd

    def _lock(self, fd: int) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise LedgerTargetError(f"ledger {self._path}: not a regular file")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise LedgerTargetError(f"ledger {self._path}: another process is writing it") from exc

    def _ready(self) -> None:
        if self._fd is None:
            self._attach()
        elif os.fstat(self._fd).st_size != self._size:
            if self._size is not None:
                log.warning("ledger file was changed by somebody else", path=str(self._path))
            self._size = None
            self._recover("emptied", attached=False)

    def _is_due(self) -> bool:
        if not self._size or self._begun is None:
            return False
        rotation = self._rotation
        if 0 < rotation.max_bytes <= self._size:
            return True
        return 0 < rotation.max_age <= (self._now() - self._begun).total_seconds()

    # -- the chain ---------------------------------------------------------------------------------

    def _write(self, record: LedgerRecord) -> None:
        assert self._fd is not None, "the caller has seen to it"
        line = line_of(record, self._place.head, self._place.seq + 1)
        size = self._size
        self._size = None
        written = os.write(self._fd, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes of a line were written")
        self._size = None if size is None else size + written
        head = head_of(line)
        ledger = self._place.ledger if self._place.seq else head
        self._place = Place(ledger=ledger, seq=self._place.seq + 1, head=head)
        if self._begun is None:
            self._begun = record.recorded_at

    def _recover(self, reason: str, *, attached: bool) -> None:
        assert self._fd is not None, "the caller has seen to it"
        ending = find_ending(self._fd, self._path, strict=attached)
        known, found = self._place, ending.place
        if known.seq and found.seq and found.ledger != known.ledger:
            if attached:
                raise LedgerTargetError(f"ledger {self._path}: another ledger stands there; move it away")
            found = attrs.evolve(found, ledger=known.ledger)
        if ending.torn:
            self._set_aside(ending.torn)
            os.ftruncate(self._fd, ending.offset)
            log.warning("torn ledger line set aside", path=str(self._path), bytes=len(ending.torn))
        self._size = ending.offset
        first = first_line(self._fd)
        self._begun = None if first is None else datetime.fromisoformat(first.recorded_at)
        if not known.seq and not found.seq:
            known, reason = self._place_of_archives(), "rotation"
        # What we remember counts for more than a file that has lost records: they must be missed.
        self._place = found if found.seq >= known.seq else known
        if self._place is not found:
            self._write(self._continuation(reason))
        if ending.torn:
            self._write(_torn_record(ending.torn, self._now()))

    def _place_of_archives(self) -> Place:
        """Where the newest archive ends: a crash, or somebody, left none but those."""
        found = archives_of(self._path)
        if not found:
            return Place()
        _, newest = found[-1]
        fd = os.open(newest, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return find_ending(fd, newest, strict=True).place
        finally:
            os.close(fd)

    def _continuation(self, reason: str) -> LedgerRecord:
        metadata = {
            "scope": SCOPE,
            "event": CONTINUE,
            "ledger": self._place.ledger.hex(),
            "reason": reason,
            "node": self._node,
        }
        return LedgerRecord(digest=self._place.head, metadata=metadata, recorded_at=self._now())

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


def _torn_record(torn: bytes, now: datetime) -> LedgerRecord:
    return LedgerRecord(
        digest=blake3.blake3(torn).digest(),
        metadata={"scope": SCOPE, "event": "torn", "bytes": len(torn)},
        recorded_at=now,
    )


def _sync_directory(directory: Path) -> None:
    # A new name is on the disk only when its directory is.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
