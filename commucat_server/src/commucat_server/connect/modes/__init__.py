"""The forms in which a session's bytes travel over HTTP: byte stream, events, lines, WebSocket messages.

The client chooses by query, header, ``Upgrade`` or ``Accept``. All but the binary one carry one frame per
write, in a shell of text or of a WebSocket message; what comes from the client is one stream of bytes in all.
"""

from commucat_server.connect.modes.detect import Mode, detect_mode
from commucat_server.connect.modes.framed import FramedStream
from commucat_server.connect.modes.opening import mode_of, open_mode, open_websocket, websocket_refusal
from commucat_server.connect.modes.refusal import Refusal
from commucat_server.connect.modes.upstream import (
    GONE,
    NEW,
    Post,
    Upstream,
    Upstreams,
    feed_upstream,
    upstream_of,
)

__all__ = [
    "GONE",
    "NEW",
    "FramedStream",
    "Mode",
    "Post",
    "Refusal",
    "Upstream",
    "Upstreams",
    "detect_mode",
    "feed_upstream",
    "mode_of",
    "open_mode",
    "open_websocket",
    "upstream_of",
    "websocket_refusal",
]
