"""Instants of RFC 3339 as whole nanoseconds, which is what federation hashes.

``datetime`` holds microseconds, and a double of seconds not even those.
"""

import datetime
import re
from typing import Final

from commucat_proto.errors import RemoteProtocolError

NANOSECONDS: Final = 1_000_000_000
_INSTANT: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_LONGEST: Final = 64
_MIN_HASHED, _MAX_HASHED = -(2**63), 2**63 - 1
_EPOCH: Final = datetime.date(1970, 1, 1).toordinal()
_DAY: Final = 86_400


class InstantError(RemoteProtocolError):
    """Not a point in time of RFC 3339."""


def parse_instant(text: str) -> int:
    """Nanoseconds since 1970, of any year from 1 to 9999. Digits beyond the ninth are cut off.

    Raises:
        InstantError: the text is no date and time with an offset.
    """
    found = _INSTANT.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise InstantError("not a time of RFC 3339")
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = found.groups()[6:]
    try:
        days = datetime.date(year, month, day).toordinal() - _EPOCH
    except ValueError as exc:
        raise InstantError("there is no such day") from exc
    # A leap second counts as the first one of the next minute, as everywhere where seconds are counted.
    if hour > 23 or minute > 59 or second > 60:
        raise InstantError("there is no such time of day")
    seconds = days * _DAY + hour * 3600 + minute * 60 + second
    if sign is not None:
        hours, minutes = int(offset_hours), int(offset_minutes)
        if hours > 23 or minutes > 59:
            raise InstantError("there is no such offset")
        shift = hours * 3600 + minutes * 60
        seconds -= shift if sign == "+" else -shift
    return seconds * NANOSECONDS + int((fraction or "")[:9].ljust(9, "0"))


def format_instant(nanoseconds: int) -> str:
    """The text of an instant in UTC, with ``Z`` and 0, 3, 6 or 9 digits behind the point.

    Raises:
        InstantError: the year has no four digits.
    """
    seconds, fraction = divmod(nanoseconds, NANOSECONDS)
    days, rest = divmod(seconds, _DAY)
    try:
        date = datetime.date.fromordinal(days + _EPOCH)
    except (ValueError, OverflowError) as exc:
        raise InstantError("a year of more than four digits") from exc
    digits = f"{fraction:09}"
    while digits and digits.endswith("000"):
        digits = digits[:-3]
    hour, minute, second = rest // 3600, rest // 60 % 60, rest % 60
    point = f".{digits}" if digits else ""
    return f"{date.isoformat()}T{hour:02}:{minute:02}:{second:02}{point}Z"


def hashed(nanoseconds: int) -> bytes:
    """Eight bytes, the least significant first; zero for what does not fit (before 1677, after 2262)."""
    fits = _MIN_HASHED <= nanoseconds <= _MAX_HASHED
    return (nanoseconds if fits else 0).to_bytes(8, "little", signed=True)
