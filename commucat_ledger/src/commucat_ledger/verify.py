"""Verification of whole ledger files."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from commucat_ledger.chain import GENESIS, MAX_LINE_BYTES, head_of
from commucat_ledger.chain_check import ChainCheck, Verified
from commucat_ledger.ending import first_line
from commucat_ledger.errors import LedgerBrokenError
from commucat_ledger.heads import SignedHead


def verify(path: str | os.PathLike[str], *, expected_head: bytes | None = None) -> Verified:
    """Read a ledger file from its first line to its last and follow the chain; blocking.

    Finds lines edited, reordered, removed from the start or the middle, duplicated, and garbage. **It cannot
    find lines cut off at the end, nor a change of the last line**: what is left is a shorter chain in perfect
    order. To find these too, keep the returned head away from the file and give it as ``expected_head``
    next time; the file may have grown since, but must still lead through that head. Nor can a chain without
    a head kept elsewhere tell that somebody wrote the whole file anew. :func:`verify_files` takes heads
    that the server signed.

    A file that is being written may show its last line half for a moment: verify it again.

    Raises:
        LedgerBrokenError: names the first line that does not fit, and why.
        OSError: the file cannot be read.
    """
    check = ChainCheck(expected_head)
    for line in _lines(Path(path)):
        check.take(line)
    return check.finish()


def verify_files(
    paths: Sequence[Path], *, heads: Iterable[SignedHead] = (), partial: bool = False
) -> tuple[Verified, ...]:
    """Verify all files of one or more ledgers together, in whatever order they are named; blocking.

    Files are brought into the order of their records. ``heads`` are statements whose signatures the caller
    has checked: a ledger must have the records that they speak of, unchanged. ``partial``: the oldest files
    may be away, and what heads say about them is not compared. One result for each ledger.

    Raises:
        LedgerBrokenError: names the file and the first line that does not fit, and why; also when heads speak
            of a ledger that is not among the files.
        OSError: a file cannot be read.
    """
    ledgers: dict[bytes, list[_Begun]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        begun = _look(path)
        ledgers[begun.ledger].append(begun)
    spoken: dict[bytes, list[SignedHead]] = defaultdict(list)
    for head in heads:
        spoken[head.ledger].append(head)
    if len(ledgers) > 1:
        ledgers.pop(GENESIS, None)  # an empty file has nothing to say, whosever it is
    for ledger in spoken:
        if ledger not in ledgers:
            last = max(spoken[ledger], key=lambda head: head.size)
            raise LedgerBrokenError(
                1,
                f"the server signed heads of a ledger {ledger.hex()[:16]} with {last.size} records, of "
                "which no file is here: its files were replaced, its first line was changed, or they were "
                "not given",
                path=paths[0] if paths else None,
                record=1,
            )
    results = []
    for ledger, files in ledgers.items():
        check = ChainCheck(heads=spoken.get(ledger, ()))
        for begun in sorted(files, key=lambda begun: begun.seq):
            check.begin_file(begun.path)
            for line in _lines(begun.path):
                check.take(line)
        result = check.finish()
        if result.first > 1 and not partial:
            oldest = min(files, key=lambda begun: begun.seq)
            raise LedgerBrokenError(
                1,
                f"begins with record {result.first}: those before it are in no file that was given",
                path=oldest.path,
                record=1,
            )
        results.append(result)
    return tuple(results)


@attrs.frozen
class _Begun:
    path: Path
    ledger: bytes
    seq: int


def _look(path: Path) -> _Begun:
    """Which ledger a file says it is of, and with which record it begins; its check comes later."""
    with path.open("rb") as file:
        line = file.readline(MAX_LINE_BYTES + 1)
        first = first_line(file.fileno())
    if not line:
        return _Begun(path, GENESIS, 0)
    continued = None if first is None else first.continues
    if first is None or continued is None or first.seq is None:
        return _Begun(path, head_of(line), 1)
    return _Begun(path, continued, first.seq)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        # Bounded: one line without end must not fill the memory.
        while line := file.readline(MAX_LINE_BYTES + 1):
            yield line
