"""Which form a client asks for."""

import enum

from commucat_server.listener import ConnectStream


class Mode(enum.Enum):
    """How frames travel; the value is what the response names."""

    BINARY = "binary"
    SSE = "sse"
    LONG_POLL = "long-poll"
    WEBSOCKET = "websocket"


_LABELS = {
    "binary": Mode.BINARY,
    "stream": Mode.BINARY,
    "sse": Mode.SSE,
    "event-stream": Mode.SSE,
    "eventstream": Mode.SSE,
    "long-poll": Mode.LONG_POLL,
    "longpoll": Mode.LONG_POLL,
    "poll": Mode.LONG_POLL,
    "websocket": Mode.WEBSOCKET,
    "ws": Mode.WEBSOCKET,
}


def detect_mode(stream: ConnectStream) -> Mode:
    """The first source that names a known form: query, two headers, ``Upgrade``, ``Accept``; else binary.

    Values that name none are passed over. The query is not percent-decoded.
    """
    for pair in stream.query.split("&"):
        key, _, value = pair.partition("=")
        if key.lower() in ("mode", "transport") and (mode := _known(value)) is not None:
            return mode
    headers = stream.headers
    for name in ("x-connect-mode", "x-commucat-connect-mode"):
        if (mode := _known(headers.get(name, ""))) is not None:
            return mode
    if wants_websocket(stream):
        return Mode.WEBSOCKET
    accepted = headers.get("accept", "").split(",")
    if any(item.strip().lower() == "text/event-stream" for item in accepted):
        return Mode.SSE
    return Mode.BINARY


def wants_websocket(stream: ConnectStream) -> bool:
    """Whether the request asks for WebSocket (RFC 6455, section 4.2.1; RFC 8441, section 4)."""
    if stream.protocol == "websocket":
        return True
    headers = stream.headers
    tokens = [token.strip().lower() for token in headers.get("connection", "").split(",")]
    return headers.get("upgrade", "").strip().lower() == "websocket" and "upgrade" in tokens


def _known(value: str) -> Mode | None:
    return _LABELS.get(value.strip().lower())
