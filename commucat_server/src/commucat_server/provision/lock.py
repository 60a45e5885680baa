"""The lock that keeps two servers from one data directory."""

import fcntl
import os
from pathlib import Path
from typing import Self

from commucat_server.provision.errors import DataDirBusyError, ProvisionError
from commucat_server.provision.files import SECRET_MODE, reason_of


class DirLock:
    """An exclusive ``flock`` on a file that holds the owner's pid. The kernel frees it with the process."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    @classmethod
    def take(cls, path: Path) -> Self:
        """Take the lock without waiting.

        Raises:
            DataDirBusyError: another process, or another lock of this one, has it.
            ProvisionError: the file cannot be opened or locked.
        """
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, SECRET_MODE)
        except OSError as exc:
            raise ProvisionError(
                f"{path}: cannot be written: {reason_of(exc)}; correct that or use another data directory"
            ) from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file is never deleted: a new one of the same name could be locked beside the old.
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as exc:
            owner = _owner(handle)
            os.close(handle)
            raise DataDirBusyError(
                f"{path.parent}: another server uses this data directory ({owner}); stop it or use another"
            ) from exc
        except OSError as exc:
            os.close(handle)
            raise ProvisionError(f"{path}: cannot be locked: {reason_of(exc)}") from exc
        return cls(handle)

    @property
    def handle(self) -> int:
        """The descriptor of the file: a child that inherits it has the lock too, and keeps it for both."""
        assert self._handle is not None, "it was released"
        return self._handle

    def release(self) -> None:
        """Give the lock back; more than once is allowed. Children that inherited it keep it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _owner(handle: int) -> str:
    # Empty for a moment between the owner's lock and its write.
    text = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
    return f"pid {text}" if text.isdecimal() else "pid unknown"
