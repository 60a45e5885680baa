"""Why a request to `/connect` gets no stream."""

import attrs


@attrs.frozen
class Refusal:
    """A problem document to answer instead."""

    status: int
    title: str
    detail: str
    expected: int | None = None
    """For POSTs to a stream: the offset of the next byte it needs."""
    allow: str = ""
    """With status 405: the methods that would do."""
