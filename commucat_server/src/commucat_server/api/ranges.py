"""The one range that a request may ask for (RFC 9110, section 14)."""

import re

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class UnsatisfiableRangeError(ValueError):
    """It begins behind the end."""


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and length of the bytes that ``header`` asks for; None for all of them.

    Everything but one plain range is taken for no range, as the RFC allows.

    Raises:
        UnsatisfiableRangeError: there are no such bytes.
    """
    match = None if header is None else _RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = min(int(match[2]), size)
        if length == 0:
            raise UnsatisfiableRangeError
        return size - length, length
    start = int(match[1])
    end = size - 1 if match[2] == "" else min(int(match[2]), size - 1)
    if match[2] != "" and int(match[2]) < start:
        return None
    if start >= size:
        raise UnsatisfiableRangeError
    return start, end - start + 1
