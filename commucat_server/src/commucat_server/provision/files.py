"""Files that are there whole or not at all. The caller holds the lock of the data directory."""

import os
from pathlib import Path

from commucat_server.provision.errors import ProvisionError

SECRET_MODE = 0o600
PRIVATE_DIR_MODE = 0o700


def make_private_dir(path: Path) -> None:
    """Create a directory of mode 0700, with its parents; one that exists is left as it is.

    Raises:
        ProvisionError: it cannot be created, or something else has the name.
    """
    try:
        path.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
    except FileExistsError as exc:
        raise ProvisionError(
            f"{path}: exists and is not a directory; move it away or name another one"
        ) from exc
    except (OSError, ValueError) as exc:
        raise ProvisionError(f"{path}: cannot be created: {reason_of(exc)}; name another directory") from exc


def write_whole(path: Path, content: bytes, *, mode: int = SECRET_MODE) -> None:
    """Write a file so that a kill or a power failure leaves the old content or the new, never a part.

    Raises:
        ProvisionError: it cannot be written.
    """
    # One fixed name, which only the holder of the lock uses: what a kill leaves behind is
    # overwritten by the next try instead of piling up.
    draft = path.with_name(f".{path.name}.new")
    try:
        try:
            write_synced(draft, content, mode=mode)
            draft.replace(path)
            sync_dir(path.parent)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise ProvisionError(f"{path}: cannot be written: {reason_of(exc)}") from exc


def write_synced(path: Path, content: bytes, *, mode: int) -> None:
    """Write a fresh file and wait until it is on disk."""
    path.unlink(missing_ok=True)
    # O_EXCL: a link that somebody put there is not followed, and the mode is really ours.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def sync_dir(path: Path) -> None:
    """Wait until the names in a directory are on disk (a rename is not until then)."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_small(path: Path, *, limit: int) -> bytes | None:
    """Read a file of at most ``limit`` bytes; None if there is none.

    Raises:
        ProvisionError: it cannot be read or is too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ProvisionError(f"{path}: cannot be read: {reason_of(exc)}") from exc
    if len(content) > limit:
        raise ProvisionError(f"{path}: longer than {limit} bytes; this is not the file the server wrote")
    return content


def reason_of(exc: OSError | ValueError) -> str:
    """The operating system's words for an error."""
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
