"""Messages that could not be opened are kept as files, so that nothing is thrown away unseen."""

import re
from pathlib import Path

from blake3 import blake3

from commucat_cli.errors import ProfileError
from commucat_cli.profile.files import write_private

DIRECTORY_NAME = "undecryptable"
MAX_FILES = 200
"""The oldest go first: anybody may send garbage, and must not fill the disk with it."""


def keep_undecryptable(profile_directory: Path, epoch: str, number: int, payload: bytes) -> Path:
    """Write ``payload`` to ``undecryptable/<epoch>-<number>.bin`` and return the file's path.

    Raises:
        ProfileError: it cannot be written.
    """
    # The epoch comes from the server: it must not choose where we write.
    name = epoch if re.fullmatch(r"[0-9A-Za-z]{1,64}", epoch) else blake3(epoch.encode()).hexdigest()[:32]
    directory = profile_directory / DIRECTORY_NAME
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        kept = sorted(directory.glob("*.bin"), key=lambda path: path.stat().st_mtime_ns)
        for path in kept[: max(0, len(kept) + 1 - MAX_FILES)]:
            path.unlink(missing_ok=True)
    except OSError as exc:
        raise ProfileError(f"cannot write into {directory}: {exc.strerror}") from exc
    path = directory / f"{name}-{number}.bin"
    write_private(path, payload)
    return path
