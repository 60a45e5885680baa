"""Verification of a whole ledger file."""

import os

from commucat_ledger.chain import MAX_LINE_BYTES, ChainCheck, Verified


def verify(path: str | os.PathLike[str], *, expected_head: bytes | None = None) -> Verified:
    """Read a ledger file from its first line to its last and follow the chain; blocking.

    Finds lines edited, reordered, removed from the start or the middle, duplicated, and garbage. **It cannot
    find lines cut off at the end, nor a change of the last line**: what is left is a shorter chain in perfect
    order. To find these too, keep the returned head away from the file and give it as ``expected_head``
    next time; the file may have grown since, but must still lead through that head. Nor can a chain without
    a head kept elsewhere tell that somebody wrote the whole file anew.

    A file that is being written may show its last line half for a moment: verify it again.

    Raises:
        LedgerBrokenError: names the first line that does not fit, and why.
        OSError: the file cannot be read.
    """
    check = ChainCheck(expected_head)
    with open(path, "rb") as file:
        # Bounded: one line without end must not fill the memory.
        while line := file.readline(MAX_LINE_BYTES + 1):
            check.take(line)
    return check.finish()
