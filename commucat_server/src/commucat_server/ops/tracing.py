"""W3C trace context: a request that says which trace it belongs to is found under it in log and spans."""

import re
from typing import Final

import attrs

# https://www.w3.org/TR/trace-context/, section 3.2: later versions may go on after a dash.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LONGEST: Final = 512
_NOTHING: Final = "0"
_SAMPLED: Final = 0x01


@attrs.frozen
class TraceContext:
    """What a ``traceparent`` header says."""

    trace_id: str
    """32 hexadecimal digits."""
    parent_id: str
    """16 hexadecimal digits."""
    sampled: bool
    """Whether the caller records the trace."""


def trace_of(traceparent: str | None) -> TraceContext | None:
    """What the header says; None if it says nothing.

    Malformed ones are ignored, as the standard demands: they are a peer's mistake and change nothing.
    """
    if traceparent is None or len(traceparent) > _LONGEST:
        return None
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if (
        version == "ff"
        or (version == "00" and more)
        or not (trace_id.strip(_NOTHING) and parent_id.strip(_NOTHING))
    ):
        return None
    return TraceContext(trace_id, parent_id, bool(int(flags, 16) & _SAMPLED))


def log_members(trace: TraceContext | None) -> dict[str, str]:
    """What log lines name of a trace; nothing without one."""
    return {} if trace is None else {"trace_id": trace.trace_id, "parent_id": trace.parent_id}
