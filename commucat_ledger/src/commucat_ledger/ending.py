"""Where a ledger file stands: read from its end, whatever a crash left there."""

import os
from pathlib import Path

import attrs

from commucat_ledger.chain import GENESIS, LINE_START, MAX_LINE_BYTES, BadLine, Line, head_of, parse_line
from commucat_ledger.errors import LedgerTargetError

_BLOCK = 1024 * 1024


@attrs.frozen(kw_only=True)
class Place:
    """Where a chain stands: the id of its ledger, the number of records, the head after them."""

    ledger: bytes = GENESIS
    seq: int = 0
    head: bytes = GENESIS


@attrs.frozen(kw_only=True)
class Ending:
    """The last bytes of a file."""

    place: Place
    """After the last whole line; as nothing were written, where there is no whole line."""
    offset: int
    """Where that line ends."""
    torn: bytes = attrs.field(repr=False)
    """What stands behind it."""


def find_ending(fd: int, path: Path, *, strict: bool) -> Ending:
    """Read the end of an open file.

    ``strict``: the last whole line must be a ledger line. Else only its hash is taken: a file that somebody
    else changed while we wrote it.

    Raises:
        LedgerTargetError: not a ledger file.
        OSError: it cannot be read.
    """
    size = os.fstat(fd).st_size
    # Room for a torn line, the whole line before it, and the newline before that.
    start = max(0, size - 2 * MAX_LINE_BYTES - 1)
    data = os.pread(fd, size - start, start)
    last_newline = data.rfind(b"\n")
    line_start = data.rfind(b"\n", 0, max(0, last_newline)) + 1
    if start > 0 and line_start == 0:
        raise LedgerTargetError(f"ledger {path}: the last line is too long; not a ledger file")
    torn = data[last_newline + 1 :]
    if last_newline < 0:
        # A first line that was cut begins as lines do, or is zeros from a lost write. Any
        # other text is somebody's file under a mistyped path: it must not be emptied.
        if not (torn.startswith(LINE_START[: len(torn)]) or not torn.strip(b"\0")):
            raise LedgerTargetError(f"ledger {path}: not a ledger file")
        return Ending(place=Place(), offset=0, torn=torn)
    last = data[line_start:last_newline]
    offset = start + last_newline + 1
    try:
        seq = parse_line(last).seq
    except BadLine as exc:
        if strict:
            raise LedgerTargetError(
                f"ledger {path}: the last line is not a ledger line ({exc}); move the file away"
            ) from exc
        seq = None
    ledger, counted_from = _beginning(fd)
    if seq is None:
        seq = counted_from + _count_lines(fd, offset) - 1
    return Ending(place=Place(ledger=ledger, seq=seq, head=head_of(last)), offset=offset, torn=torn)


def first_line(fd: int) -> Line | None:
    """The first line of an open file, None if that is no ledger line."""
    line, newline, _ = os.pread(fd, MAX_LINE_BYTES + 1, 0).partition(b"\n")
    try:
        return parse_line(line) if newline else None
    except BadLine:
        return None


def _beginning(fd: int) -> tuple[bytes, int]:
    """The ledger of the file, and the number of its first record."""
    first = first_line(fd)
    continued = None if first is None else first.continues
    if first is None or continued is None:
        return head_of(os.pread(fd, MAX_LINE_BYTES + 1, 0).partition(b"\n")[0]), 1
    assert first.seq is not None, "a record that continues a ledger has a number"
    return continued, first.seq


def _count_lines(fd: int, end: int) -> int:
    count = offset = 0
    while offset < end:
        block = os.pread(fd, min(_BLOCK, end - offset), offset)
        if not block:
            break
        count += block.count(b"\n")
        offset += len(block)
    return count
