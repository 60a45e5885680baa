"""What blobs need of a disk. Everything here blocks."""

import fcntl
import os
import secrets
from pathlib import Path

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
LOCK_FILE = ".lock"


def make_directory(path: Path) -> None:
    """For this user alone, if it is not there."""
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)


def store_whole(path: Path, data: bytes) -> None:
    """Have ``data`` under ``path``, all of it or nothing, whatever happens meanwhile; and on the disk.

    Raises:
        OSError: nothing was stored.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make sure that what the directory lists survives a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def take_lock(directory: Path) -> int:
    """Wait for the lock of the directory, which processes on this host share; close it to give it back."""
    make_directory(directory)
    handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except BaseException:
        os.close(handle)
        raise
    return handle


def free_bytes(path: Path) -> int:
    """Room on the disk that ``path`` is on."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize
