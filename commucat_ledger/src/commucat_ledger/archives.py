"""The files of one ledger: the one that is written, and those that were rotated away."""

import re
from pathlib import Path
from typing import Final

_DIGITS: Final = 6


def archive_path(target: Path, number: int) -> Path:
    """``ledger.jsonl`` becomes ``ledger.000001.jsonl``: sorted by name, the newest comes last."""
    return target.with_name(f"{target.stem}.{number:0{_DIGITS}}{target.suffix}")


def archives_of(target: Path) -> list[tuple[int, Path]]:
    """Number and path of every archive beside ``target``, the oldest first; blocking.

    Raises:
        OSError: the directory cannot be read.
    """
    form = re.compile(re.escape(target.stem) + r"\.(\d{6,12})" + re.escape(target.suffix))
    found = []
    for path in target.parent.iterdir():
        match = form.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)


def files_of(target: Path) -> list[Path]:
    """All files of the ledger that exist, in the order of their records; blocking.

    Raises:
        OSError: the directory cannot be read.
    """
    found = [path for _, path in archives_of(target)]
    return [*found, target] if target.exists() else found
