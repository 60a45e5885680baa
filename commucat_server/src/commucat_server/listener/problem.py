"""Problem documents (RFC 9457) the listener answers by itself."""

from typing import Final

import orjson

SECURITY_HEADERS: Final = (
    # No answer is to be taken for something else than it says, shown inside of another page, or tell the
    # next page where the reader came from.
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # Browsers heed it only over a TLS that they trust. Half a year.
    (b"strict-transport-security", b"max-age=15552000"),
)
"""Of every answer that is no stream of frames."""


def problem(status: int, title: str, detail: str | None = None) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of a problem document.

    Args:
        status: HTTP status; the caller sends it.
        title: short and stable, what programs compare.
        detail: for people, may be absent.
    """
    document: dict[str, str | int] = {"type": "about:blank", "title": title, "status": status}
    if detail is not None:
        document["detail"] = detail
    body = orjson.dumps(document)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
        *SECURITY_HEADERS,
    ]
    return headers, body
