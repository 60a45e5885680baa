"""Requests as an ASGI server hands them to the application."""

from collections.abc import Sequence
from typing import Any


def http_scope(
    method: str,
    path: str,
    headers: Sequence[tuple[bytes, bytes]],
    *,
    client: tuple[str, int] = ("192.0.2.1", 1),
    server: tuple[str, int] = ("192.0.2.2", 2),
) -> dict[str, Any]:
    """Of one request without a query."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": client,
        "server": server,
    }
