"""Files of a profile: private to their owner, and never half-written."""

import os
import stat
from pathlib import Path

from commucat_cli.errors import ProfileError


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` by a file of mode 0600 with ``data``; after a crash it is the old or the new one.

    Raises:
        ProfileError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)  # a file left over by an earlier attempt keeps its mode otherwise
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as exc:
        raise ProfileError(f"cannot write {path}: {exc.strerror}") from exc


def sync_directory(directory: Path) -> None:
    """Make new names in ``directory`` survive a power failure."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_private(path: Path, limit: int) -> bytes:
    """The content of a file that only its owner may touch, at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        ProfileError: it belongs to somebody else, is open to others, or cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(fd, "rb") as file:
            check_private(path, os.fstat(fd), "chmod 600")
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise ProfileError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > limit:
        raise ProfileError(f"{path} is too long to be what its name says")
    return data


def check_private(path: Path, status: os.stat_result, remedy: str) -> None:
    """Refuse what another user owns or may look into: private keys are in here."""
    if status.st_uid != os.geteuid():
        raise ProfileError(f"{path} belongs to another user (uid {status.st_uid}); use a profile of your own")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ProfileError(f"{path} is open to other users (mode {mode:04o}); run: {remedy} {path}")
