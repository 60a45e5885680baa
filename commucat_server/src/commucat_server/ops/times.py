"""Times as the interfaces print them."""

from datetime import UTC, datetime


def rfc3339(seconds: int) -> str:
    """Unix seconds as RFC 3339 in UTC, with the offset spelled ``+00:00``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def rfc3339_micros(microseconds: int) -> str:
    """Unix microseconds in the same way, with six digits of a fraction unless it is none."""
    seconds, micros = divmod(microseconds, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros).isoformat()
