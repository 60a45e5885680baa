"""What the terminal client of October 2025 can take.

It reads the frames it knows and gives up at any other; and it never opens its HTTP/2 window, so that all it
can ever get on one connection are 65,535 bytes, those of the handshake included. Every number here divides
these.
"""

from typing import Any

from commucat_proto import MAX_CONTROL_JSON_LEN, FrameType, json_text
from commucat_server.config import CLEAR_MAX_FRAME
from commucat_server.routing.reception import Reception, Shape

MAX_CLEAR_FRAME = CLEAR_MAX_FRAME + 1024
"""Bytes, with what the server may have added to it. With the handshake (some 4 KiB) and the notices before
it, it fits a window that is never opened."""
_NOTICES = 8 * 1024


def durable_shape(frame_type: FrameType, payload: bytes) -> Shape:
    """A KeyUpdate, whose JSON would end this client, becomes an event; the others are as they were sent."""
    if frame_type is not FrameType.KEY_UPDATE:
        return frame_type, payload
    value = json_text.loads(payload)
    event = {"event": "device-key-rotated"}
    text = json_text.dumps({**value, **event} if isinstance(value, dict) else event)
    return FrameType.GROUP_EVENT, text if len(text) <= MAX_CONTROL_JSON_LEN else json_text.dumps(event)


def live_shape(frame_type: FrameType, payload: bytes) -> Shape | None:
    """Typing with members of the kinds this client reads; no media, which would fill its window at once."""
    match frame_type:
        case FrameType.VOICE_FRAME | FrameType.VIDEO_FRAME:
            return None
        case FrameType.TYPING:
            return frame_type, json_text.dumps(_typing(json_text.loads(payload)))
        case _:
            return frame_type, payload


def _typing(value: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name in ("device", "label"):
        if isinstance(value.get(name), str):
            kept[name] = value[name]
    if isinstance(value.get("typing"), bool):
        kept["typing"] = value["typing"]
    for name in ("ttl_ms", "expires_in"):
        each = value.get(name)
        if isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**63:
            kept[name] = each
    return kept


CLEAR = Reception(
    # One message at a time, each on its way before the next is read from the store: what is confirmed of a
    # connection that got stuck is exact then, so that its client is shown nothing twice.
    window_bytes=1,
    page_bytes=1,
    max_frame=MAX_CLEAR_FRAME,
    notices=_NOTICES,
    durable=durable_shape,
    live=live_shape,
)
