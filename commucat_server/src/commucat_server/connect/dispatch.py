"""Turns the frames of one client into journal operations, and their outcomes into answers.

Everything that one read brought in goes to the journal as one batch. A frame that is
refused gets an Error frame on its channel, with ``ref`` naming it, and the session goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from commucat_proto import MAX_CONTROL_JSON_LEN, MAX_FRAME_LEN, Frame, FrameType, json_text
from commucat_server.connect.context import ConnectContext
from commucat_server.routing.live import LiveSession
from commucat_server.routing.presence import MAX_STATE_LEN, ONLINE
from commucat_storage import (
    CommitFailedError,
    Confirm,
    ConfirmOutcome,
    DropRoute,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    Route,
    RouteOutcome,
    SetRoute,
    Submission,
    SubmissionOutcome,
)

MAX_DEVICE_ID_LEN = 128
MAX_BATCH = 128
"""Frames of one read that are committed together. The journal counts a message as one row, but
its route may name hundreds of devices: a longer batch would be one enormous transaction."""
MAX_PENDING = 8
"""Batches of one session that may wait for the disk, for the same reason: whoever sends to many
must not fill the journal for everybody. Enough to keep the disk busy while the next read comes in."""
MAX_MESSAGE_LEN = MAX_FRAME_LEN - 15
"""Bytes of a payload that fit a frame whatever its header: type, channel, sequence and length take
1 + 5 + 5 + 4 bytes at most, and the receiver's inbox number may be longer than the sender's sequence."""
_REFUSED_LEN = MAX_CONTROL_JSON_LEN - 1024  # what the refusals may take of an answer's JSON

_TITLES = {
    RefusalReason.UNKNOWN_DEVICE: "unknown device",
    RefusalReason.REVOKED: "device revoked",
    RefusalReason.CHANNEL_CONFLICT: "channel is used for another conversation by the recipient",
    RefusalReason.QUOTA: "inbox is full",
    RefusalReason.DISK_LOW: "the server's disk is full; send it again later",
    RefusalReason.NO_ROUTE: "join the channel with somebody first",
    RefusalReason.TOO_MANY_ROUTES: "too many channels joined",
}


class RefusedFrameError(Exception):
    """A frame that the session refuses; it goes on with the next one."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@attrs.frozen
class _Asked:
    """The frame behind one operation, to be answered when its batch is done."""

    channel: int
    sequence: int
    acknowledged: bool = True


class FrameDispatcher:
    """The frames of one established session."""

    def __init__(self, context: ConnectContext, live: LiveSession) -> None:
        self._context = context
        self._live = live
        self._pending = 0
        self._progress = trio.lowlevel.ParkingLot()
        self._handlers: Mapping[FrameType, Callable[[Frame], Operation | None]] = {
            FrameType.MSG: self._message,
            FrameType.KEY_UPDATE: self._key_update,
            FrameType.JOIN: self._join,
            FrameType.LEAVE: self._leave,
            FrameType.ACK: self._confirm,
            # Out of place after the handshake, and harmless: ignored, as clients expect.
            FrameType.HELLO: _ignore,
            FrameType.AUTH: _ignore,
            FrameType.ERROR: _ignore,
        }

    async def handle(self, frames: Sequence[Frame]) -> None:
        """Act on frames in their order; waits only for room in the journal."""
        self._context.counters.frames_ingress += len(frames)
        batch: list[Operation] = []
        asked: list[_Asked] = []
        for frame in frames:
            try:
                if frame.type is FrameType.PRESENCE:
                    await self._presence(frame)
                    continue
                handler = self._handlers.get(frame.type)
                if handler is None:
                    name = frame.type.wire_name
                    raise RefusedFrameError("unsupported", f"{name} frames are not supported by this server")
                operation = handler(frame)
            except RefusedFrameError as exc:
                self._refuse(frame.channel, frame.sequence, exc.kind, str(exc))
                continue
            if operation is not None:
                batch.append(operation)
                asked.append(_Asked(frame.channel, frame.sequence, frame.type is not FrameType.ACK))
            if len(batch) == MAX_BATCH:
                await self._submit(batch, asked)
                batch, asked = [], []
        if batch:
            await self._submit(batch, asked)

    async def _submit(self, batch: Sequence[Operation], asked: Sequence[_Asked]) -> None:
        while self._pending >= MAX_PENDING:
            await self._progress.park()
        self._pending += 1
        try:
            await self._context.inbox.submit(batch, lambda result: self._batch_done(asked, result))
        except BaseException:
            self._pending -= 1
            raise

    async def answered(self) -> None:
        """Return when every batch that was submitted has been answered."""
        while self._pending:
            await self._progress.park()

    # -- one frame, one operation -------------------------------------------------------------------

    def _message(self, frame: Frame) -> Operation:
        if len(frame.payload) > MAX_MESSAGE_LEN:
            raise RefusedFrameError("too_large", f"a message has at most {MAX_MESSAGE_LEN} bytes")
        expires_at = int(self._context.clock()) + self._context.settings.relay_ttl
        return Submission(self._live.device_id, frame.channel, frame.type, frame.payload, expires_at)

    def _key_update(self, frame: Frame) -> Operation:
        _object(frame)
        return self._message(frame)

    def _join(self, frame: Frame) -> Operation:
        value = _object(frame)
        if value.get("group_id") is not None:
            raise RefusedFrameError("unsupported", "groups are not supported by this server")
        members = value.get("members", [])
        if not isinstance(members, list):
            raise RefusedFrameError("bad_request", "members must be an array of device ids")
        limit = self._context.settings.channel_members
        if len(members) > limit:
            raise RefusedFrameError("bad_request", f"more than {limit} members")
        named = frozenset(m for m in members if isinstance(m, str) and 0 < len(m) <= MAX_DEVICE_ID_LEN)
        relay = value.get("relay", False)
        if not isinstance(relay, bool):
            raise RefusedFrameError("bad_request", "relay must be true or false")
        return SetRoute(self._live.device_id, frame.channel, Route(members=named, relay=relay))

    def _leave(self, frame: Frame) -> Operation:
        return DropRoute(self._live.device_id, frame.channel)

    def _confirm(self, frame: Frame) -> Operation | None:
        if not self._live.delivery_ack or not self._live.receives or frame.channel != 0:
            return None
        number = _object(frame).get("ack")
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise RefusedFrameError("bad_request", "ack must be an inbox number")
        if number > self._live.taken:
            # Deletes nothing: the client counts in another epoch, or invents.
            raise RefusedFrameError("ack_out_of_range", "ack is above the highest number sent")
        return Confirm(self._live.device_id, self._live.epoch, number)

    async def _presence(self, frame: Frame) -> None:
        state = _object(frame).get("state", ONLINE)
        if not isinstance(state, str) or len(state) > MAX_STATE_LEN:
            raise RefusedFrameError(
                "bad_request", f"state must be a text of at most {MAX_STATE_LEN} characters"
            )
        # A send-only session is not where its device can be reached, and ends without a trace.
        if self._live.receives:
            await self._context.presence.publish(self._live.device_id, state)

    # -- answers ------------------------------------------------------------------------------------

    def _batch_done(self, asked: Sequence[_Asked], result: tuple[Outcome, ...] | CommitFailedError) -> None:
        self._pending -= 1
        self._progress.unpark_all()
        if isinstance(result, CommitFailedError):
            for one in asked:
                if one.acknowledged:
                    text = "the message could not be stored; send it again later"
                    self._refuse(one.channel, one.sequence, "storage", text, retry=True)
        else:
            for one, outcome in zip(asked, result, strict=True):
                self._answer(one, outcome)

    def _answer(self, asked: _Asked, outcome: Outcome) -> None:
        match outcome:
            case SubmissionOutcome(accepted, refused):
                if refused:
                    self._context.counters.messages_refused += len(refused)
                    self._answer_refused(asked, bool(accepted), refused)
                else:
                    self._acknowledge(asked)
            case RouteOutcome(None):
                self._acknowledge(asked)
            case RouteOutcome(reason) if reason is not None:
                self._refuse(asked.channel, asked.sequence, reason.value, _TITLES[reason])
            case ConfirmOutcome(applied, _):
                self._context.counters.relay_confirmed += applied

    def _acknowledge(self, asked: _Asked) -> None:
        # The bytes that any JSON library would write for {"ack": n}; this is the hot path.
        self._live.answer(FrameType.ACK, asked.channel, b'{"ack":%d}' % asked.sequence)

    def _answer_refused(self, asked: _Asked, accepted: bool, refused: tuple[Refusal, ...]) -> None:
        """The Ack names who refused; when nobody accepts, it is an Error."""
        extra = _named(refused)
        if accepted:
            payload = json_text.dumps({"ack": asked.sequence, **extra})
            self._live.answer(FrameType.ACK, asked.channel, payload)
            return
        first = refused[0].reason
        if first is RefusalReason.DISK_LOW:
            extra["retry"] = True
        self._refuse(asked.channel, asked.sequence, first.value, _TITLES[first], **extra)

    def _refuse(self, channel: int, sequence: int, kind: str, detail: str, **extra: Any) -> None:
        error = {"error": kind, "title": "Frame refused", "detail": detail, "ref": sequence, **extra}
        self._live.answer(FrameType.ERROR, channel, json_text.dumps(error))


def _named(refused: Sequence[Refusal]) -> dict[str, Any]:
    """Who refused, as members of an answer; those that do not fit a frame are counted only."""
    named: list[Mapping[str, str]] = []
    room = _REFUSED_LEN
    for each in refused:
        one = {"device": each.device_id, "reason": each.reason.value}
        room -= len(json_text.dumps(one)) + 1
        if room < 0:
            return {"refused": named, "refused_more": len(refused) - len(named)}
        named.append(one)
    return {"refused": named}


def _ignore(frame: Frame) -> None:
    return None


def _object(frame: Frame) -> Mapping[str, Any]:
    if not isinstance(frame.control, dict):
        raise RefusedFrameError("bad_request", f"{frame.type.wire_name} carries no JSON object")
    return frame.control
