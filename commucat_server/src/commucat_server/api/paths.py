"""Segments of a path as somebody wrote them."""

import re
from urllib.parse import unquote_to_bytes

from commucat_server.api.answers import ApiRequest
from commucat_server.api.problems import ProblemError

_BROKEN = re.compile(rb"%(?![0-9a-fA-F]{2})")


def segment_of(request: ApiRequest, number: int, what: str) -> str:
    """Segment ``number`` of the request's path, from 0, percent-decoded once; ``what`` is for the errors.

    The framework's own reading is lenient: it keeps broken escapes, and replaces bytes that are no UTF-8, so
    that two names could become one.

    Raises:
        ProblemError: 400.
    """
    raw: bytes = request.scope["raw_path"].partition(b"?")[0]
    segments = raw.strip(b"/").split(b"/")
    segment = segments[number] if number < len(segments) else b""
    if _BROKEN.search(segment):
        raise ProblemError(400, f"invalid percent-encoding in {what}")
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as exc:
        raise ProblemError(400, f"{what} must be valid UTF-8") from exc
    if not text:
        raise ProblemError(400, f"missing {what}")
    return text
