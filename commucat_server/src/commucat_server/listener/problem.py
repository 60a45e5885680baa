"""Problem documents (RFC 9457) the listener answers by itself."""

import orjson


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
        (b"x-content-type-options", b"nosniff"),
    ]
    return headers, body
