"""CallOffer, CallAnswer, CallEnd; CallStats and TransportUpdate.

All travel along the sender's own route like messages; the call says only who may send what.
State changes when the frame is on disk: what was refused, or failed, has not happened.
"""

from typing import Any, TypeVar

import attrs
import trio

from commucat_proto import CodecError, Frame
from commucat_proto.calls import (
    CallAnswer,
    CallEnd,
    CallMessage,
    CallOffer,
    CallStats,
    CallTransportUpdate,
    ReceiveSelection,
    SelectedCandidatePair,
    decode_call_message,
)
from commucat_server.calls.call import Call, CallRefusedError
from commucat_server.connect.frames import media
from commucat_server.connect.frames.request import (
    MAX_ID_LEN,
    LiveFrame,
    Origin,
    RefusedFrameError,
    Request,
    Settle,
    is_id,
)
from commucat_server.connect.frames.transient import transient
from commucat_server.ops.counters import count
from commucat_storage import Outcome, Submission, SubmissionOutcome

_Message = TypeVar("_Message", bound=CallMessage)


async def offer(origin: Origin, frame: Frame, settle: Settle) -> Request:
    """A new call; it rings at every device that accepted the offer."""
    message = _read(frame, CallOffer)
    if message.sender != origin.device_id:
        raise RefusedFrameError("bad_request", "from must be the sender's own device")
    _must_receive(origin)
    calls = origin.context.calls
    await calls.audit.room()
    if calls.rows.behind:
        raise RefusedFrameError("server_busy", "the server cannot note calls at this time; try later")
    try:
        call = calls.board.reserve(
            message.call_id,
            channel=frame.channel,
            initiator=origin.device_id,
            mode=message.media.mode.value,
            video=message.media.video is not None,
            now=trio.current_time(),
        )
    except CallRefusedError as exc:
        raise RefusedFrameError(exc.kind, str(exc)) from exc

    def done(outcome: Outcome | None) -> None:
        if isinstance(outcome, SubmissionOutcome) and outcome.accepted:
            calls.ring(call, (device for device, _ in outcome.accepted), message.media)
        else:
            calls.board.remove(call)

    request = _durable(origin, frame, {"call_id": message.call_id}, done)
    assert isinstance(request.operation, Submission)
    request.operation = attrs.evolve(
        request.operation, busy=calls.board.busy(), known_only=not calls.limits.strangers
    )
    return request


async def answer(origin: Origin, frame: Frame, settle: Settle) -> Request:
    """Accept, or decline. When nobody is left but one, the call is over."""
    message = _read(frame, CallAnswer)
    _must_receive(origin)
    call = await _call_of(origin, frame, message.call_id, settle)
    device_id = origin.device_id
    if device_id == call.initiator:
        raise RefusedFrameError("not_participant", "only those who were called answer")
    calls = origin.context.calls
    reason = message.reason.value if message.reason is not None else None
    if message.accept:
        try:
            calls.board.make_room(call, device_id, origin.live.user_id)
        except CallRefusedError as exc:
            raise RefusedFrameError(exc.kind, str(exc)) from exc

    def done(outcome: Outcome | None) -> None:
        call.coming.discard(device_id)
        if not (isinstance(outcome, SubmissionOutcome) and outcome.accepted):
            return
        if calls.board.find(call.call_id) is not call or device_id not in call.participants:
            return  # It ended, or rings no more there, while the answer was on its way to the disk.
        data: dict[str, Any] = {"device": device_id, "accept": message.accept}
        if message.accept:
            media = message.media
            calls.accept(call, device_id, origin.live.user_id, media)
            data["mode"] = media.mode.value if media is not None else call.mode
            data["video"] = media.video is not None if media is not None else call.video
            data["accepted"] = len(call.joined)
        else:
            data["reason"] = reason
        calls.audit.record("answer", call.call_id, data)
        if not message.accept:
            calls.decline(call, device_id, origin.live.user_id, message.reason)

    ack: dict[str, Any] = {"call_id": message.call_id, "accept": message.accept}
    if reason is not None:
        ack["reason"] = reason
    return _durable(origin, frame, ack, done)


async def end(origin: Origin, frame: Frame, settle: Settle) -> Request | None:
    """The call is over for everybody. One that is over already is only acknowledged."""
    message = _read(frame, CallEnd)
    calls = origin.context.calls
    ack = {"call_id": message.call_id, "reason": message.reason.value}
    try:
        call = await _call_of(origin, frame, message.call_id, settle)
    except RefusedFrameError as exc:
        if exc.kind != "call_unknown":
            raise
        origin.live.acknowledge(frame.channel, frame.sequence, ack)
        return None

    def done(outcome: Outcome | None) -> None:
        # Also when everybody refused: it cannot go on without the one who left.
        if isinstance(outcome, SubmissionOutcome):
            calls.over(call, origin.device_id, message.reason.value)

    return _durable(origin, frame, ack, done)


async def stats(origin: Origin, frame: Frame, settle: Settle) -> Request:
    """How the sender's streams are doing, for those in the call who are connected."""
    message = _read(frame, CallStats)
    call = await _call_of(origin, frame, message.call_id, settle)
    for stream in (message.audio, message.video):
        if stream is not None and 0.0 <= stream.packet_loss <= 1.0:
            origin.context.counters.transport_loss.note(stream.packet_loss)
    origin.context.calls.note_stats(call, origin.device_id, message)
    return _in_call(origin, frame, call, {"call_id": message.call_id, "direction": message.direction.value})


async def transport(origin: Origin, frame: Frame, settle: Settle) -> Request | None:
    """A candidate, the pair in use, or consent to go on, for those in the call who are connected; or what
    media the sender wants, for the server."""
    message = _read(frame, CallTransportUpdate)
    if isinstance(message.update, ReceiveSelection):
        # Before the call is looked for: it may end while libraries are loaded.
        await media.check_codecs(origin, message.update)
    call = await _call_of(origin, frame, message.call_id, settle)
    counters, update = origin.context.counters, message.update
    if isinstance(update, media.MEDIA_UPDATES):
        media.update(origin, frame, call, message)
    count(counters.transport_updates, update.name)
    if isinstance(update, media.MEDIA_UPDATES):
        return None
    if isinstance(update, SelectedCandidatePair) and update.rtt_ms is not None:
        counters.transport_rtt.note(update.rtt_ms)
    return _in_call(origin, frame, call, {"call_id": message.call_id, "update": update.name})


def _read(frame: Frame, kind: type[_Message]) -> _Message:
    try:
        message = decode_call_message(frame.type, frame.control)
    except CodecError as exc:
        raise RefusedFrameError("bad_request", str(exc)) from exc
    assert isinstance(message, kind)
    call_id = getattr(message, "call_id", None)
    if not is_id(call_id):
        raise RefusedFrameError("bad_request", f"call_id must be 1 to {MAX_ID_LEN} printable characters")
    return message


def _must_receive(origin: Origin) -> None:
    if not origin.live.receives:
        raise RefusedFrameError("bad_request", "a send-only session takes part in no call")


async def _call_of(origin: Origin, frame: Frame, call_id: str, settle: Settle) -> Call:
    calls = origin.context.calls
    await calls.audit.room()
    call = calls.board.find(call_id)
    if call is not None and not call.stored:
        await settle()  # The caller's own offer went before, in the same breath.
    try:
        return calls.board.take_part(call_id, origin.device_id, frame.channel)
    except CallRefusedError as exc:
        raise RefusedFrameError(exc.kind, str(exc)) from exc


def _durable(origin: Origin, frame: Frame, ack: dict[str, Any], done: Any) -> Request:
    operation = origin.submission(frame, origin.context.calls.ring_timeout)
    return Request(operation, frame.channel, frame.sequence, ack=ack, done=done)


def _in_call(origin: Origin, frame: Frame, call: Call, ack: dict[str, Any]) -> Request:
    origin.context.calls.board.hear(call, trio.current_time())
    request = transient(
        origin, frame, LiveFrame(frame.type, frame.payload, lambda to: to in call.participants)
    )
    request.ack = ack
    return request
