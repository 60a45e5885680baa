"""W3C trace context: a request that says which trace it belongs to is found under it in the log."""

import re
from typing import Final

# https://www.w3.org/TR/trace-context/, section 3.2: later versions may go on after a dash.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LONGEST: Final = 512
_NOTHING: Final = "0"


def trace_of(traceparent: str | None) -> dict[str, str]:
    """What log lines name of a ``traceparent`` header: ``trace_id`` and ``parent_id``; empty if it is none.

    Malformed ones are ignored, as the standard demands: they are a peer's mistake and change nothing.
    """
    if traceparent is None or len(traceparent) > _LONGEST:
        return {}
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    if found is None:
        return {}
    version, trace_id, parent_id, _, more = found.groups()
    if (
        version == "ff"
        or (version == "00" and more)
        or not (trace_id.strip(_NOTHING) and parent_id.strip(_NOTHING))
    ):
        return {}
    return {"trace_id": trace_id, "parent_id": parent_id}
