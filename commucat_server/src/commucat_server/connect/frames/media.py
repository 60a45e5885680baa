"""VoiceFrame and VideoFrame, and the TransportUpdates by which a client says what media it wants."""

from collections.abc import Callable, Mapping
from typing import Final

from commucat_media import MediaPacketError, StreamPacket, decode_audio, decode_video, to_version_1
from commucat_proto import Frame, FrameType
from commucat_proto.calls import (
    ActiveSpeakers,
    CallTransportUpdate,
    CongestionReport,
    DeviceStreams,
    KeyFrameRequest,
    ReceiveSelection,
)
from commucat_proto.calls.messages import CallUpdate
from commucat_server.calls.call import Call
from commucat_server.calls.forwarder import READERS
from commucat_server.calls.forwarding.conversion import MediaPacket, targets_of
from commucat_server.calls.transcoding import NoTranscodingError
from commucat_server.connect.frames.messages import must_fit
from commucat_server.connect.frames.request import LiveFrame, Origin, RefusedFrameError, Request
from commucat_server.connect.frames.transient import transient
from commucat_storage import Outcome, Resolve

COMPLAINT_INTERVAL: Final = 1.0
"""Seconds between two Errors to one session about sound, or about video: hundreds may come in a second."""

MEDIA_UPDATES: Final = (ReceiveSelection, KeyFrameRequest, ActiveSpeakers, DeviceStreams, CongestionReport)
_OLD_READERS: Final[Mapping[FrameType, Callable[[bytes], MediaPacket]]] = {
    FrameType.VOICE_FRAME: decode_audio,
    FrameType.VIDEO_FRAME: decode_video,
}


def packet(origin: Origin, frame: Frame) -> Request | None:
    """Voice or picture. Within a call it reaches those who are in it, else the route's devices."""
    must_fit(frame)
    found = _read(origin, frame)
    if found is None:
        return None
    counters, forwarder = origin.context.counters, origin.context.forwarder
    if frame.type is FrameType.VOICE_FRAME:
        counters.voice_frames += 1
    else:
        counters.video_frames += 1
    place = forwarder.place(origin.device_id, frame.channel)
    if place is None:
        return _without_call(origin, frame, found)
    now = forwarder.now()
    known = place.permit.holds(now)
    if known and place.permit.refused:
        # One packet a second asks again, and its answer says why.
        if not _may_complain(origin, frame, now):
            forwarder.drop("not_allowed")
            return None
    elif known and origin.media_waiting == 0:
        forwarder.forward(place, frame.type, frame.payload, found, now)
        forwarder.refresh(place, now)
        if not origin.live.call_media:
            origin.live.acknowledge(frame.channel, frame.sequence)
        return None

    def done(outcome: Outcome | None) -> None:
        origin.media_waiting -= 1
        forwarder.admitted(place, frame.type, frame.payload, found, outcome)

    origin.media_waiting += 1
    operation = Resolve(origin.device_id, frame.channel)
    return Request(operation, frame.channel, frame.sequence, quiet=origin.live.call_media, done=done)


def update(origin: Origin, frame: Frame, call: Call, message: CallTransportUpdate) -> None:
    """A word to the server about the media of a call; answered here, and passed on to nobody by itself.

    Raises:
        RefusedFrameError: it may not be said, or not by this session.
    """
    said: CallUpdate = message.update
    forwarder = origin.context.forwarder
    if not origin.live.call_media:
        raise RefusedFrameError("bad_request", f"{said.name} needs the capability call-media")
    if origin.device_id not in call.joined:
        raise RefusedFrameError("not_participant", "accept the call first")
    match said:
        case ReceiveSelection():
            forwarder.select(call, origin.device_id, said)
        case KeyFrameRequest(device=device):
            if device not in call.joined:
                raise RefusedFrameError("not_participant", "the device named is not in the call")
            forwarder.ask_key_frame(call, device)
        case _:
            raise RefusedFrameError("bad_request", f"only the server says {said.name}")
    ack = {"call_id": call.call_id, "update": said.name}
    origin.live.acknowledge(frame.channel, frame.sequence, ack)


async def check_codecs(origin: Origin, selection: ReceiveSelection) -> None:
    """What a selection asks to be transcoded must be something that is made here.

    Raises:
        RefusedFrameError: ``no_transcoding``.
    """
    for codec in targets_of(selection).values():
        try:
            await origin.context.forwarder.transcoding.check(codec)
        except NoTranscodingError as exc:
            raise RefusedFrameError("no_transcoding", str(exc)) from exc


def _read(origin: Origin, frame: Frame) -> MediaPacket | None:
    """The packet; None for one that is none, if that was said to the client a moment ago.

    Raises:
        RefusedFrameError: ``bad_media``.
    """
    read = READERS[frame.type] if origin.live.call_media else _OLD_READERS[frame.type]
    try:
        return read(frame.payload)
    except MediaPacketError as exc:
        origin.context.forwarder.drop("malformed")
        if _may_complain(origin, frame, origin.context.forwarder.now()):
            raise RefusedFrameError("bad_media", str(exc)) from exc
        return None


def _may_complain(origin: Origin, frame: Frame, now: float) -> bool:
    if origin.complaints is None:
        origin.complaints = {}
    if now - origin.complaints.get(frame.type, float("-inf")) < COMPLAINT_INTERVAL:
        return False
    origin.complaints[frame.type] = now
    return True


def _without_call(origin: Origin, frame: Frame, found: MediaPacket) -> Request:
    """Along the route. Nobody there was told of streams or has keys: version 1 is what all can read."""
    payload = frame.payload
    if isinstance(found, StreamPacket):
        if found.encrypted:
            raise RefusedFrameError("bad_media", "encrypted media belongs to a call, and there is none here")
        payload = to_version_1(payload)
    request = transient(origin, frame, LiveFrame(frame.type, payload))
    request.quiet = origin.live.call_media
    return request
