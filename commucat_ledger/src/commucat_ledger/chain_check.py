"""Following a chain line by line, over all files of a ledger, without input or output."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from commucat_ledger.chain import GENESIS, MAX_LINE_BYTES, BadLine, Line, head_of, parse_line
from commucat_ledger.errors import LedgerBrokenError
from commucat_ledger.heads import SignedHead


@attrs.frozen(kw_only=True)
class Verified:
    """An unbroken chain: how many lines were read, and the 32-byte head to keep for the next check."""

    lines: int
    head: bytes
    ledger: bytes = GENESIS
    """Id of the ledger."""
    first: int = 1
    """Number of the first record that was read; above 1, those before stand in files that were not given."""
    size: int = 0
    """Number of the last record."""
    confirmed: int = 0
    """The last record that a signed head confirms; 0 if none does."""
    gaps: tuple[tuple[int, int], ...] = ()
    """Number of each record that tells of a gap, and how many records the server says it lost there."""


@attrs.frozen
class _Doubt:
    """A line that does not commit to the one before it; its own hash."""

    path: Path | None
    line_number: int
    head: bytes


class ChainCheck:
    """Follows one chain; see :func:`commucat_ledger.verify` for what it can find.

    ``heads`` are statements about this ledger whose signatures were checked by the caller.
    """

    def __init__(self, expected_head: bytes | None = None, heads: Iterable[SignedHead] = ()) -> None:
        self._expected_head = expected_head
        self._heads: Mapping[int, list[SignedHead]] = defaultdict(list)
        for head in heads:
            self._heads[head.size].append(head)
        self._path: Path | None = None
        self._line_number = 0
        self._lines = 0
        self._first = 1
        self._seq = 0
        self._numbered = False
        self._head = GENESIS
        self._ledger = GENESIS
        self._confirmed = 0
        self._gaps: list[tuple[int, int]] = []
        self._doubt: _Doubt | None = None
        self._met_expected = expected_head in (None, GENESIS)

    def begin_file(self, path: Path | None) -> None:
        """What comes now stands in this file, from its first line on."""
        self._path = path
        self._line_number = 0

    def take(self, line: bytes) -> None:
        r"""Take the next line with its ``\n``.

        Raises:
            LedgerBrokenError: the line, or the one before it, does not continue the chain, or a head says
                otherwise.
        """
        self._line_number += 1
        if len(line) > MAX_LINE_BYTES:
            raise self._broken(f"longer than {MAX_LINE_BYTES} bytes")
        if not line.endswith(b"\n"):
            raise self._broken("has no end: cut off while it was written, or still being written")
        try:
            parsed = parse_line(line)
        except BadLine as exc:
            raise self._broken(str(exc)) from exc
        if self._doubt is not None:
            raise self._resolved(self._doubt, innocent=parsed.prev == self._doubt.head)
        if self._lines == 0:
            self._begin(parsed, line)
        else:
            self._follow(parsed, line)
        if self._doubt is not None:
            return
        self._lines += 1
        self._seq += 1
        self._head = head_of(line)
        self._met_expected = self._met_expected or self._head == self._expected_head
        if parsed.metadata.get("scope") == "ledger" and parsed.metadata.get("event") == "gap":
            count = parsed.metadata.get("records")
            self._gaps.append((self._seq, count if isinstance(count, int) else 0))
        self._compare()

    def finish(self) -> Verified:
        """Return the result after the last line.

        Raises:
            LedgerBrokenError: the expected head was not met, or heads speak of records that are not there;
                the line is the one after the end.
        """
        if self._doubt is not None:
            signed = self._heads.get(self._seq + 1, ())
            raise self._resolved(
                self._doubt, innocent=not signed or any(head.head == self._doubt.head for head in signed)
            )
        self._line_number += 1
        beyond = max((size for size in self._heads if size > self._seq), default=None)
        if beyond is not None:
            raise self._broken(
                f"missing: the server signed for {beyond} records, and {self._seq} are here "
                f"({_records(self._seq + 1, beyond)} were cut off at the end, or stand in a file not given)"
            )
        if not self._met_expected:
            raise self._broken(
                "missing: the file ends without the expected head "
                f"(lines were cut off at the end, or line {self._line_number - 1} or an earlier one was "
                "rewritten)"
            )
        return Verified(
            lines=self._lines,
            head=self._head,
            ledger=self._ledger,
            first=self._first,
            size=self._seq,
            confirmed=self._confirmed,
            gaps=tuple(self._gaps),
        )

    def _begin(self, parsed: Line, line: bytes) -> None:
        continued = parsed.continues
        if continued is not None and parsed.seq is not None:
            self._ledger, self._first, self._seq = continued, parsed.seq, parsed.seq - 1
            self._head = parsed.prev
            self._numbered = True
            self._met_expected = self._met_expected or self._head == self._expected_head
            self._compare()
            return
        if parsed.prev != GENESIS or parsed.seq not in (None, 1):
            raise self._broken("is not a first line: lines before it were removed or moved")
        self._ledger = head_of(line)
        self._numbered = parsed.seq is not None

    def _follow(self, parsed: Line, line: bytes) -> None:
        expected = self._seq + 1
        if parsed.seq is None and self._numbered:
            raise self._broken("has no seq, which the lines before it have: it was changed or moved to here")
        self._numbered = self._numbered or parsed.seq is not None
        if parsed.seq is not None and parsed.seq > expected:
            raise self._broken(
                f"missing before it: {_records(expected, parsed.seq - 1)}, removed or moved away"
            )
        if parsed.seq is not None and parsed.seq < expected:
            raise self._broken(
                f"is record {parsed.seq}, where {expected} should stand: moved or copied to here, "
                "or a line was inserted before it"
            )
        if parsed.prev != self._head:
            # Was the record before changed, or the prev of this one? What the next one commits to tells.
            self._doubt = _Doubt(self._path, self._line_number, head_of(line))

    def _resolved(self, doubt: "_Doubt", *, innocent: bool) -> LedgerBrokenError:
        """``innocent``: the line that does not fit is itself as it was written."""
        where = "the line before it" if doubt.line_number == 1 else f"line {doubt.line_number - 1}"
        if innocent:
            record = self._seq
            reason = (
                f"does not continue {where}: {where} was changed, or lines were removed, moved or copied "
                "to here"
            )
        else:
            record = self._seq + 1
            reason = f"does not continue {where}, and the line after it not this one: it was changed"
        return LedgerBrokenError(doubt.line_number, reason, path=doubt.path, record=record)

    def _compare(self) -> None:
        """Hold the heads that were signed for so many records against the chain."""
        for head in self._heads.get(self._seq, ()):
            if head.head != self._head:
                since = f"after record {self._confirmed}" if self._confirmed else "from the beginning"
                raise self._broken(
                    f"the server signed another head for {self._seq} records: this record, or one before it "
                    f"{since}, was rewritten",
                    record=self._seq,
                )
            self._confirmed = self._seq

    def _broken(self, reason: str, *, record: int | None = None) -> LedgerBrokenError:
        number = self._seq + 1 if record is None else record
        return LedgerBrokenError(self._line_number, reason, path=self._path, record=number)


def _records(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"
