"""The audit record and its JSON form."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import attrs
import orjson

from commucat_ledger.errors import LedgerRecordError

DIGEST_BYTES: Final = 32
MAX_METADATA_BYTES: Final = 128 * 1024
"""Longest metadata as JSON. Real records have some hundred bytes; the bound keeps lines, and so the search
for the last line at start, small."""
MAX_METADATA_DEPTH: Final = 32

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


_PLAIN: Final = frozenset({str, int, bool, type(None)})


def _own_copy(value: object, depth: int = 0) -> Any:
    """Copy what JSON can say exactly; refuse the rest.

    A copy, because the line is written later by another thread, and the caller may go on changing its dict.
    Refused, because the encoder would quietly turn NaN into null and a date into text.
    """
    if depth > MAX_METADATA_DEPTH:
        raise LedgerRecordError(f"metadata nested deeper than {MAX_METADATA_DEPTH}")
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            raise LedgerRecordError("metadata has a key that is not a string")
        # Nearly all members are plain; a call for each would cost more than the rest.
        return {
            key: item if depth < MAX_METADATA_DEPTH and type(item) in _PLAIN else _own_copy(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_own_copy(item, depth + 1) for item in value]
    if type(value) is float and not math.isfinite(value):
        raise LedgerRecordError("metadata has a number that JSON cannot write")
    if type(value) is float:
        return value
    raise LedgerRecordError(f"metadata has a value of type {type(value).__name__}")


def _metadata(value: object) -> dict[str, Json]:
    if not isinstance(value, Mapping):
        raise LedgerRecordError("metadata is not a mapping")
    copy: dict[str, Json] = _own_copy(value)
    try:
        size = len(orjson.dumps(copy))
    except orjson.JSONEncodeError as exc:  # lone surrogates, integers beyond 64 bits
        raise LedgerRecordError(f"metadata: {exc}") from exc
    if size > MAX_METADATA_BYTES:
        raise LedgerRecordError(f"metadata of {size} bytes; at most {MAX_METADATA_BYTES}")
    return copy


def _utc(value: object) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise LedgerRecordError("recorded_at is not a time with a zone")
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:  # the first or last hours of the calendar
        raise LedgerRecordError("recorded_at has no UTC form") from exc


@attrs.frozen(kw_only=True)
class LedgerRecord:
    """What happened, to what, when.

    ``digest`` has 32 bytes and names the object (a public key, or BLAKE3 of an identifier). ``metadata`` is
    copied; keeping secrets out of it is the caller's business. ``recorded_at`` must know its zone; it
    is kept in UTC, with microseconds.

    Raises:
        LedgerRecordError: at creation, when the record could not be written exactly.
    """

    digest: bytes = attrs.field()
    metadata: Mapping[str, Json] = attrs.field(converter=_metadata)
    recorded_at: datetime = attrs.field(converter=_utc)

    @digest.validator
    def _check_digest(self, _attribute: "attrs.Attribute[bytes]", value: object) -> None:
        if not isinstance(value, bytes) or len(value) != DIGEST_BYTES:
            raise LedgerRecordError(f"digest is not {DIGEST_BYTES} bytes")


def rfc3339(moment: datetime) -> str:
    """Write a UTC moment as RFC 3339: offset ``+00:00``, and the fewest exact digits of 0, 3 or 6."""
    if moment.microsecond == 0:
        precision = "seconds"
    elif moment.microsecond % 1000 == 0:
        precision = "milliseconds"
    else:
        precision = "microseconds"
    return moment.isoformat(timespec=precision)
