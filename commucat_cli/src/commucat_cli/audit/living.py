"""Verifying files that are being written."""

import time
from collections.abc import Sequence
from pathlib import Path

from commucat_ledger import LedgerBrokenError, SignedHead, Verified, verify_files

_ATTEMPTS = 3
_PAUSE = 0.2


def verify_living(
    files: Sequence[Path], heads: Sequence[SignedHead], *, partial: bool
) -> tuple[Verified, ...]:
    """Verify files that a running server may be writing: the last line may be half there for a moment.

    Raises:
        LedgerBrokenError, OSError: as ``verify_files``.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return verify_files(files, heads=heads, partial=partial)
        except (LedgerBrokenError, FileNotFoundError):
            time.sleep(_PAUSE)
    return verify_files(files, heads=heads, partial=partial)
