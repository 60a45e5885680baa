r"""Lines of a ledger file and the chain through them, without input or output.

A line is one JSON object with sorted keys and ``\n`` at its end::

    {"digest":"<64 hex>","metadata":{...},"prev":"<64 hex>","recorded_at":"<RFC 3339>"}

``prev`` is BLAKE3 of the line before, without its newline; 64 zeros in the first line. So each line
commits to all lines before it, and nothing but a head kept elsewhere commits to the last one.
"""

import re
from typing import Final

import attrs
import blake3
import orjson

from commucat_ledger.errors import LedgerBrokenError
from commucat_ledger.record import MAX_METADATA_BYTES, LedgerRecord, rfc3339

GENESIS: Final = bytes(32)
"""Head of a ledger without lines; ``prev`` of the first line."""
MAX_LINE_BYTES: Final = MAX_METADATA_BYTES + 1024
LINE_START: Final = b'{"digest":"'

_MEMBERS: Final = {"digest", "metadata", "prev", "recorded_at"}
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOMENT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.(\d{3}|\d{6}|\d{9}))?\+00:00", re.ASCII)


def line_of(record: LedgerRecord, prev: bytes) -> bytes:
    """Return the line of a record, newline included; ``prev`` is the 32-byte head before it."""
    return orjson.dumps(
        {
            "digest": record.digest.hex(),
            "metadata": record.metadata,
            "prev": prev.hex(),
            "recorded_at": rfc3339(record.recorded_at),
        },
        option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE,
    )


def head_of(line: bytes) -> bytes:
    """Return the 32-byte head after this line: BLAKE3 of it without the newline."""
    return blake3.blake3(line.removesuffix(b"\n")).digest()


class BadLine(Exception):  # noqa: N818 - never leaves the package; it becomes an error that knows the number
    """One line alone is not a ledger line; the text is the reason."""


def prev_of(line: bytes) -> bytes:
    """Check the form of one line (newline optional) and return its ``prev``.

    Raises:
        BadLine: not JSON, members missing or added, or a member of another form.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise BadLine(f"not JSON: {exc}") from exc
    if not isinstance(value, dict) or value.keys() != _MEMBERS:
        raise BadLine("not an object with digest, metadata, prev and recorded_at")
    for name, form in (("digest", _HASH), ("prev", _HASH), ("recorded_at", _MOMENT)):
        if not isinstance(value[name], str) or not form.fullmatch(value[name]):
            raise BadLine(f"{name} has a wrong form")
    if not isinstance(value["metadata"], dict):
        raise BadLine("metadata is not an object")
    return bytes.fromhex(value["prev"])


@attrs.frozen(kw_only=True)
class Verified:
    """An unbroken chain: how many lines it has, and the 32-byte head to keep for the next check."""

    lines: int
    head: bytes


class ChainCheck:
    """Follows a chain line by line; see :func:`commucat_ledger.verify` for what it can find."""

    def __init__(self, expected_head: bytes | None = None) -> None:
        self._expected_head = expected_head
        self._lines = 0
        self._head = GENESIS
        self._met_expected = expected_head in (None, GENESIS)

    def take(self, line: bytes) -> None:
        r"""Take the next line with its ``\n``.

        Raises:
            LedgerBrokenError: the line does not continue the chain.
        """
        number = self._lines + 1
        if len(line) > MAX_LINE_BYTES:
            raise LedgerBrokenError(number, f"longer than {MAX_LINE_BYTES} bytes")
        if not line.endswith(b"\n"):
            raise LedgerBrokenError(
                number, "has no end: cut off while it was written, or still being written"
            )
        try:
            prev = prev_of(line)
        except BadLine as exc:
            raise LedgerBrokenError(number, str(exc)) from exc
        if prev != self._head:
            raise LedgerBrokenError(number, self._why_not_next(number))
        self._lines = number
        self._head = head_of(line)
        self._met_expected = self._met_expected or self._head == self._expected_head

    def finish(self) -> Verified:
        """Return the result after the last line.

        Raises:
            LedgerBrokenError: the expected head was not met; the line is the one after the end.
        """
        if not self._met_expected:
            raise LedgerBrokenError(
                self._lines + 1,
                "missing: the file ends without the expected head "
                f"(lines were cut off at the end, or line {self._lines} or an earlier one was rewritten)",
            )
        return Verified(lines=self._lines, head=self._head)

    def _why_not_next(self, number: int) -> str:
        if number == 1:
            return "is not a first line: lines before it were removed or moved"
        return (
            f"does not continue line {number - 1}: line {number - 1} was changed, "
            "or a line was removed, moved or copied to here"
        )
