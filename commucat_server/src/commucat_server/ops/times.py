"""Times as the interfaces print them."""

from datetime import UTC, datetime


def rfc3339(seconds: int) -> str:
    """Unix seconds as RFC 3339 in UTC, with the offset spelled ``+00:00``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()
