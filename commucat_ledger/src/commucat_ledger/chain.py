r"""Lines of a ledger file and the chain through them, without input or output.

A line is one JSON object with sorted keys and ``\n`` at its end::

    {"digest":"<64 hex>","metadata":{...},"prev":"<64 hex>","recorded_at":"<RFC 3339>","seq":<number>}

``prev`` is BLAKE3 of the line before, without its newline; 64 zeros in the first line. So each line
commits to all lines before it, and nothing but a head kept elsewhere commits to the last one. ``seq``
counts the records of the ledger from 1, over all its files; it says where something is missing. Lines
written before there were numbers have no ``seq`` and are counted.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
import blake3
import orjson

from commucat_ledger.record import MAX_METADATA_BYTES, LedgerRecord, rfc3339

GENESIS: Final = bytes(32)
"""Head of a ledger without lines; ``prev`` of the first line."""
MAX_LINE_BYTES: Final = MAX_METADATA_BYTES + 1024
MAX_SEQ: Final = 2**63 - 1
LINE_START: Final = b'{"digest":"'

SCOPE: Final = "ledger"
"""``scope`` of the records that a ledger writes about itself."""
CONTINUE: Final = "continue"
"""``event`` of the first record of every file but the first."""

_MEMBERS: Final = {"digest", "metadata", "prev", "recorded_at"}
_NUMBERED: Final = _MEMBERS | {"seq"}
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOMENT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.(\d{3}|\d{6}|\d{9}))?\+00:00", re.ASCII)


def line_of(record: LedgerRecord, prev: bytes, seq: int) -> bytes:
    """Return the line of a record, newline included; ``prev`` is the 32-byte head before it, ``seq`` its
    number from 1."""
    return orjson.dumps(
        {
            "digest": record.digest.hex(),
            "metadata": record.metadata,
            "prev": prev.hex(),
            "recorded_at": rfc3339(record.recorded_at),
            "seq": seq,
        },
        option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE,
    )


def head_of(line: bytes) -> bytes:
    """Return the 32-byte head after this line: BLAKE3 of it without the newline."""
    return blake3.blake3(line.removesuffix(b"\n")).digest()


class BadLine(Exception):  # noqa: N818 - never leaves the package; it becomes an error that knows the number
    """One line alone is not a ledger line; the text is the reason."""


@attrs.frozen(kw_only=True)
class Line:
    """A line of the right form, taken apart."""

    digest: str
    metadata: Mapping[str, Any]
    prev: bytes
    recorded_at: str
    seq: int | None
    """None in lines that were written before there were numbers."""

    @property
    def continues(self) -> bytes | None:
        """The 32-byte id of the ledger that this first record of a file goes on with, else None."""
        metadata = self.metadata
        if metadata.get("scope") != SCOPE or metadata.get("event") != CONTINUE or self.seq is None:
            return None
        ledger = metadata.get("ledger")
        return bytes.fromhex(ledger) if isinstance(ledger, str) and _HASH.fullmatch(ledger) else None


def parse_line(line: bytes) -> Line:
    """Check the form of one line (newline optional) and take it apart.

    Raises:
        BadLine: not JSON, members missing or added, or a member of another form.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise BadLine(f"not JSON: {exc}") from exc
    if not isinstance(value, dict) or value.keys() not in (_MEMBERS, _NUMBERED):
        raise BadLine("not an object with digest, metadata, prev, recorded_at and seq")
    for name, form in (("digest", _HASH), ("prev", _HASH), ("recorded_at", _MOMENT)):
        if not isinstance(value[name], str) or not form.fullmatch(value[name]):
            raise BadLine(f"{name} has a wrong form")
    if not isinstance(value["metadata"], dict):
        raise BadLine("metadata is not an object")
    seq = value.get("seq")
    if "seq" in value and (type(seq) is not int or not 1 <= seq <= MAX_SEQ):
        raise BadLine("seq has a wrong form")
    return Line(
        digest=value["digest"],
        metadata=value["metadata"],
        prev=bytes.fromhex(value["prev"]),
        recorded_at=value["recorded_at"],
        seq=seq,
    )
