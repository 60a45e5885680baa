"""JSON as CCP-1 peers read and write it, byte for byte.

Compact, keys in code point order, raw UTF-8, and numbers as serde_json prints them
(docs/protocol.md, "JSON bytes"). Signatures and digests are computed over such text, so
"almost the same" is not enough. orjson does the work wherever its bytes are the same; the
rest (floats, integers beyond 64 bits, ``-0``) takes a slower exact path.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from json.encoder import encode_basestring
from math import isfinite
from struct import error as struct_error
from struct import pack, unpack
from typing import TypeAlias

import orjson

JsonValue: TypeAlias = bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
"""A JSON value. What :func:`loads` returns has ``list`` and ``dict`` only."""

MAX_DEPTH = 127
"""Arrays and objects inside each other. One more is refused by every peer's parser."""

_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1

_SAME = frozenset({str, int, bool, type(None)})
"""Types of plain values that orjson writes as we do."""

# Or a string that looks like one. It begins with a literal, which is found fast; what stands before is
# looked at then.
_MINUS_ZERO = re.compile(rb"-0(?<![^\[:,\s]-0)(?![0-9.eE])")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_PLAIN_STRING = re.compile(rb'"[^"]*"')
_NEITHER = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_DEPTH_STEP = [1 if byte in b"[{" else -1 for byte in range(256)]


class JsonTextError(ValueError):
    """Not the JSON text of CCP-1, or a value that has none."""


def loads(data: bytes) -> JsonValue:
    """Parse one JSON text in UTF-8.

    Of equal keys the last wins; ``-0`` and integers outside -2^63..2^64-1 become floats.

    Raises:
        JsonTextError: not UTF-8, a byte order mark, anything RFC 8259 does not allow, a lone
            surrogate, a number beyond the range of doubles, more than 127 levels.
    """
    try:
        value: JsonValue = orjson.loads(data)
    except ValueError as exc:
        raise JsonTextError("not a JSON text") from exc
    # Counting is cheap and settles nearly every text; only then look at the real nesting.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise JsonTextError("nested too deeply")
    if b"-0" in data and _MINUS_ZERO.search(data):
        # orjson reads -0 as the integer 0. It has checked the text, so the standard parser,
        # which is laxer, only has to find the numbers again.
        value = json.loads(data.decode(), parse_int=_integer)
    return value


def _depth(text: bytes) -> int:
    """Levels of arrays and objects in a text that is known to be well formed."""
    if b"\\" in text:
        brackets = _STRING.sub(b"", text).translate(None, _NOT_BRACKETS)
    else:
        # Without escapes quotes are borders, and most of the text can go before anybody searches it.
        brackets = _PLAIN_STRING.sub(b"", text.translate(None, _NEITHER))
    return max(accumulate(map(_DEPTH_STEP.__getitem__, brackets)), default=0)


def _integer(digits: str) -> int | float:
    if digits == "-0":
        return -0.0
    # A 64-bit integer has at most 20 characters; int() refuses thousands of digits.
    number = int(digits) if len(digits) <= 20 else None
    return number if number is not None and _MIN_INTEGER <= number <= _MAX_INTEGER else float(digits)


def dumps(value: JsonValue) -> bytes:
    """The compact text of ``value`` with sorted keys.

    NaN and infinities become ``null``; integers outside -2^63..2^64-1 are written as floats.

    Raises:
        JsonTextError: a key that is no string, a type JSON does not have, a lone surrogate,
            an integer beyond the range of doubles, more than 127 levels.
    """
    if _same_in_orjson(value, 0):
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            # A wide integer or a lone surrogate: the exact path decides.
            return _exact(value, sort_keys=True)
    return _exact(value, sort_keys=True)


def dumps_declared(mapping: Mapping[str, JsonValue]) -> bytes:
    """Like :func:`dumps`, but every object keeps the order its keys have here.

    Texts that peers sign as a whole (certificates, federation events) list their members in
    the order of their declaration.
    """
    return _exact(mapping, sort_keys=False)


def _same_in_orjson(value: object, depth: int) -> bool:
    """Whether orjson writes the same bytes: exact plain types only, and no floats."""
    kind = type(value)
    if kind in _SAME:
        return True
    if depth == MAX_DEPTH:
        return False
    # Most members are plain: they are looked at here, without a call for each.
    if isinstance(value, dict) and kind is dict:
        for key, member in value.items():
            if type(key) is not str or not (type(member) in _SAME or _same_in_orjson(member, depth + 1)):
                return False
        return True
    if isinstance(value, list) and kind is list:
        return all(type(item) in _SAME or _same_in_orjson(item, depth + 1) for item in value)
    return False


def _exact(value: JsonValue, *, sort_keys: bool) -> bytes:
    parts: list[str] = []
    _write(value, parts, sort_keys, 0)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError as exc:
        raise JsonTextError("a lone surrogate has no UTF-8") from exc


def _write(value: object, parts: list[str], sort_keys: bool, depth: int) -> None:
    if value is None:
        parts.append("null")
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif isinstance(value, str):
        parts.append(encode_basestring(value))
    elif isinstance(value, int):
        parts.append(_integer_text(value))
    elif isinstance(value, float):
        parts.append(float_text(value))
    elif depth == MAX_DEPTH:
        raise JsonTextError("nested too deeply")
    elif isinstance(value, Mapping):
        _write_object(value, parts, sort_keys, depth + 1)
    elif isinstance(value, list | tuple):
        separator = "["
        for item in value:
            parts.append(separator)
            _write(item, parts, sort_keys, depth + 1)
            separator = ","
        parts.append("]" if value else "[]")
    else:
        raise JsonTextError(f"{type(value).__name__} is no JSON type")


def _write_object(value: Mapping[object, object], parts: list[str], sort_keys: bool, depth: int) -> None:
    keys: list[str] = []
    for key in value:
        if not isinstance(key, str):
            raise JsonTextError("a key must be a string")
        keys.append(key)
    if sort_keys:
        keys.sort()  # by code point, which is also the order of the UTF-8 bytes
    separator = "{"
    for key in keys:
        parts += (separator, encode_basestring(key), ":")
        _write(value[key], parts, sort_keys, depth)
        separator = ","
    parts.append("}" if keys else "{}")


def _integer_text(number: int) -> str:
    if _MIN_INTEGER <= number <= _MAX_INTEGER:
        return int.__repr__(number)
    try:
        return float_text(float(number))
    except OverflowError as exc:
        raise JsonTextError("an integer beyond the range of doubles") from exc


def float_text(number: float) -> str:
    """The shortest digits that read back as the same double, laid out as serde_json does.

    With ``pt`` digits before the decimal point: plain for -5 < pt <= 16, else an exponent
    without sign and padding. ``null`` for NaN and infinities.
    """
    if not isfinite(number):
        return "null"
    text = float.__repr__(number)
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    if int(exponent) == -5:
        # The one magnitude that Python writes with an exponent and serde_json without.
        sign, digits = ("-", mantissa[1:]) if number < 0 else ("", mantissa)
        return f"{sign}0.0000{digits.replace('.', '')}"
    return f"{mantissa}e{int(exponent)}"


def round_f32(number: float) -> float:
    """The 32-bit float next to ``number``, widened again.

    Raises:
        ValueError: not a finite number, or beyond the range of 32-bit floats.
    """
    try:
        (rounded,) = unpack("<f", pack("<f", number))
    except (OverflowError, struct_error) as exc:
        raise ValueError("no 32-bit float") from exc
    if not isfinite(rounded):
        raise ValueError("no finite 32-bit float")
    return float(rounded)
