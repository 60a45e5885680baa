"""Frames for whoever is connected: Typing, and the device's own Presence."""

from commucat_proto import Frame
from commucat_server.connect.frames.request import (
    LiveFrame,
    Origin,
    RefusedFrameError,
    Request,
    Settle,
    object_of,
    rewritten,
)
from commucat_server.routing.presence import MAX_STATE_LEN, ONLINE
from commucat_storage import Resolve


def typing(origin: Origin, frame: Frame) -> Request:
    """Passed on with the sender's device in it; receivers show it at once or never."""
    value = object_of(frame)
    if value.get("device", origin.device_id) != origin.device_id:
        raise RefusedFrameError("bad_request", "device must be the sender's own")
    payload = rewritten(value, device=origin.device_id)
    return transient(origin, frame, LiveFrame(frame.type, payload))


def transient(origin: Origin, frame: Frame, live: LiveFrame) -> Request:
    """A request that stores nothing and sends ``live`` to the route's devices that are connected."""
    return Request(Resolve(origin.device_id, frame.channel), frame.channel, frame.sequence, live=live)


async def presence(origin: Origin, frame: Frame, settle: Settle) -> None:
    """Publish how the device is; no answer."""
    state = object_of(frame).get("state", ONLINE)
    if not isinstance(state, str) or len(state) > MAX_STATE_LEN:
        raise RefusedFrameError("bad_request", f"state must be a text of at most {MAX_STATE_LEN} characters")
    # A send-only session is not where its device can be reached, and ends without a trace.
    if origin.live.receives:
        await origin.context.presence.publish(origin.device_id, state)
