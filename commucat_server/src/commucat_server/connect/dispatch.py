"""Turns the frames of one client into journal operations, and their outcomes into answers.

Everything that one read brought in goes to the journal as one batch. A frame that is
refused gets an Error frame on its channel, with ``ref`` naming it, and the session goes on.
What each type asks for is in :mod:`commucat_server.connect.frames`.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from commucat_proto import (
    DELIVERY_STATUS,
    MAX_CONTROL_JSON_LEN,
    SELF_COPY,
    CodecErrorCode,
    Frame,
    FrameType,
    RefusedFrame,
    json_text,
)
from commucat_server.connect.context import ConnectContext
from commucat_server.connect.frames import calls, groups, media, messages, transient
from commucat_server.connect.frames.request import Origin, RefusedFrameError, Request, Settle
from commucat_server.listener.wakeup import Progress
from commucat_server.ops.counters import count
from commucat_server.routing.inbox import Answer
from commucat_server.routing.live import NAMES_BYTES, LiveSession
from commucat_server.security.messages import COUNTED
from commucat_storage import (
    CommitFailedError,
    ConfirmOutcome,
    CreateGroup,
    GroupOutcome,
    JoinRoom,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    ResolveOutcome,
    RouteOutcome,
    Submission,
    SubmissionOutcome,
)

MAX_BATCH = 128
"""Frames of one read that are committed together. The journal counts a message as one row, but
its route may name hundreds of devices: a longer batch would be one enormous transaction."""
MAX_PENDING = 8
"""Batches of one session that may wait for the disk, for the same reason: whoever sends to many
must not fill the journal for everybody. Enough to keep the disk busy while the next read comes in."""
_NAMED_LEN = MAX_CONTROL_JSON_LEN - 8192
"""What the devices named in an answer may take of its JSON; the rest is for ids of 128 characters and
fixed words."""
_STORED_LEN = _NAMED_LEN // 2
"""What of it is for those that have the message, in an answer to somebody who asks for them."""

_TITLES = {
    RefusalReason.UNKNOWN_DEVICE: "unknown device",
    RefusalReason.REVOKED: "device revoked",
    RefusalReason.CHANNEL_CONFLICT: "channel is used for another conversation by the recipient",
    RefusalReason.QUOTA: "inbox is full",
    RefusalReason.DISK_LOW: "the server's disk is full; send it again later",
    RefusalReason.NO_ROUTE: "join the channel with somebody first",
    RefusalReason.TOO_MANY_ROUTES: "too many channels joined",
    RefusalReason.GROUP_EXISTS: "a group with this id exists",
    RefusalReason.GROUP_UNKNOWN: "no such group",
    RefusalReason.NOT_MEMBER: "no member of the group",
    RefusalReason.NOT_ALLOWED: "the sender's role in the group does not allow this",
    RefusalReason.GROUP_FULL: "the group has as many members as it may have",
    RefusalReason.ALREADY_MEMBER: "already a member of the group",
    RefusalReason.UNKNOWN_DOMAIN: "nothing is sent to the server of this domain",
    RefusalReason.NOT_FEDERATED: "frames of this type stay within one server",
    RefusalReason.BUSY: "in a call, and takes no other",
    RefusalReason.STRANGER: "calls are taken only from devices that the recipient knows",
}

_Quick: TypeAlias = Callable[[Origin, Frame], Request | None]
_Slow: TypeAlias = Callable[[Origin, Frame, Settle], Awaitable[Request | None]]

_QUICK: Mapping[FrameType, _Quick] = {
    FrameType.MSG: messages.message,
    FrameType.KEY_UPDATE: messages.key_update,
    FrameType.JOIN: messages.join,
    FrameType.LEAVE: messages.leave,
    FrameType.ACK: messages.confirm,
    FrameType.TYPING: transient.typing,
    FrameType.VOICE_FRAME: media.packet,
    FrameType.VIDEO_FRAME: media.packet,
    FrameType.GROUP_CREATE: groups.create,
    FrameType.GROUP_INVITE: groups.invite,
    FrameType.HELLO: messages.ignored,
    FrameType.AUTH: messages.ignored,
    FrameType.ERROR: messages.ignored,
}
_SLOW: Mapping[FrameType, _Slow] = {
    FrameType.PRESENCE: transient.presence,
    FrameType.GROUP_EVENT: groups.event,
    FrameType.CALL_OFFER: calls.offer,
    FrameType.CALL_ANSWER: calls.answer,
    FrameType.CALL_END: calls.end,
    FrameType.CALL_STATS: calls.stats,
    FrameType.TRANSPORT_UPDATE: calls.transport,
}
"""Those that may have to wait, for what was sent before or for a service."""
_PROMPT = _QUICK.keys() - {FrameType.JOIN, FrameType.GROUP_CREATE}
"""Those that neither wait nor are committed apart from what comes after them."""


class FrameDispatcher:
    """The frames of one established session.

    Args:
        context: the services.
        live: the session.
        writes: made by the session's writer whenever it has sent what was queued.
        capabilities: what the client's Hello asked for.
    """

    __slots__ = ("_batch", "_context", "_live", "_origin", "_pending", "_progress", "_writes")

    def __init__(
        self,
        context: ConnectContext,
        live: LiveSession,
        writes: Progress,
        capabilities: frozenset[str],
    ) -> None:
        self._context = context
        self._writes = writes
        self._live = live
        self._origin = Origin(
            context,
            live,
            asks=DELIVERY_STATUS in capabilities and context.settings.delivery_status,
            copies=SELF_COPY in capabilities,
        )
        self._batch: list[Request] = []
        self._pending = 0
        self._progress = Progress()

    def handle_now(self, frames: Sequence[Frame]) -> bool:
        """:meth:`handle` without a turn of the scheduler, for the usual case that nothing has to wait.

        ``False``: nothing was done. After ``True`` ``unsubmitted`` tells if the journal had no room.
        """
        if (
            self._batch
            or self._pending >= MAX_PENDING
            or len(frames) > MAX_BATCH
            or self._live.answers_full
            or not all(frame.type in _PROMPT for frame in frames)
        ):
            return False
        self._context.counters.frames_ingress += len(frames)
        if self._context.messages.active:
            frames = [frame for frame in frames if not self._is_too_much(frame)]
        for frame in frames:
            try:
                request = _QUICK[frame.type](self._origin, frame)
            except RefusedFrameError as exc:
                self._refuse(frame.channel, frame.sequence, exc.kind, str(exc))
            else:
                if request is not None:
                    self._batch.append(request)
        if self._batch:
            batch = self._batch
            self._pending += 1
            if self._context.inbox.submit_now(*self._submission(batch)):
                self._batch = []
            else:
                self._pending -= 1
        return True

    @property
    def unsubmitted(self) -> bool:
        """Whether frames were taken for which the journal had no room; see :meth:`submit`."""
        return bool(self._batch)

    async def handle(self, frames: Sequence[Frame]) -> None:
        """Act on frames in their order; waits for room in the journal, never for a receiver.

        It waits for the client itself, too, while that does not read its answers. If the session is told
        to end meanwhile, the frames that are left are not taken.
        """
        self._context.counters.frames_ingress += len(frames)
        limited = self._context.messages.active
        for frame in frames:
            # Not only between two reads: one read may bring tens of thousands of frames.
            if self._live.answers_full:
                await self.heard()
                if self._live.farewell is not None:
                    break
            if limited and self._is_too_much(frame):
                continue
            quick = _QUICK.get(frame.type)
            try:
                if quick is not None:
                    request = quick(self._origin, frame)
                else:
                    request = await _SLOW[frame.type](self._origin, frame, self._settle)
            except RefusedFrameError as exc:
                self._refuse(frame.channel, frame.sequence, exc.kind, str(exc))
                continue
            if request is None:
                continue
            self._batch.append(request)
            # These may name thousands of devices: each is committed with what came before only.
            if len(self._batch) == MAX_BATCH or type(request.operation) in (CreateGroup, JoinRoom):
                await self.submit()
        await self.submit()

    async def refuse(self, frame: RefusedFrame) -> None:
        """Answer a frame whose JSON could not be read; one of any type, those that are ignored too."""
        self._context.counters.frames_ingress += 1
        await self.heard()
        kind = "too_large" if frame.code is CodecErrorCode.CONTROL_TOO_LARGE else "bad_request"
        self._refuse(frame.channel, frame.sequence, kind, str(frame.error))

    def _is_too_much(self, frame: Frame) -> bool:
        """Refuse a frame whose device or user has sent too many."""
        if frame.type not in COUNTED:
            return False
        wait = self._context.messages.take(self._live.device_id, self._live.user_id)
        if wait == 0.0:
            return False
        self._context.counters.rate_limited_messages += 1
        seconds = max(1, math.ceil(wait))
        text = f"too many frames; send it again in {seconds} s"
        self._refuse(frame.channel, frame.sequence, "rate_limited", text, retry=True, retry_after=seconds)
        return True

    async def heard(self) -> None:
        """Return when the client has read most of its answers."""
        while self._live.answers_full:
            await self._writes.wait()

    async def submit(self) -> None:
        """Commit what was taken and is not in the journal yet; waits for room."""
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        while self._pending >= MAX_PENDING:
            self._context.inbox.hurry()
            await self._progress.wait()
        self._pending += 1
        try:
            await self._context.inbox.submit(*self._submission(batch))
        except BaseException:
            self._pending -= 1
            raise

    def _submission(self, batch: Sequence[Request]) -> tuple[list[Operation], Answer]:
        operations = [request.operation for request in batch]
        return operations, lambda result: self._batch_done(batch, result)

    async def _settle(self) -> None:
        await self.submit()
        await self.answered()

    @property
    def has_answered(self) -> bool:
        """Nothing is in the journal that has still to be answered."""
        return not self._pending

    async def answered(self) -> None:
        """Return when every batch that was submitted has been answered."""
        while self._pending:
            self._context.inbox.hurry()
            await self._progress.wait()

    # -- answers ------------------------------------------------------------------------------------

    def _batch_done(self, batch: Sequence[Request], result: tuple[Outcome, ...] | CommitFailedError) -> None:
        self._pending -= 1
        self._progress.made()
        if isinstance(result, CommitFailedError):
            for request in batch:
                if request.done is not None:
                    request.done(None)
                if request.acknowledged:
                    text = "the message could not be stored; send it again later"
                    self._refuse(request.channel, request.sequence, "storage", text, retry=True)
        else:
            for request, outcome in zip(batch, result, strict=True):
                if request.done is not None:
                    request.done(outcome)
                self._answer(request, outcome)

    def _answer(self, request: Request, outcome: Outcome) -> None:
        match outcome:
            case SubmissionOutcome(accepted, refused):
                ack = request.ack
                if accepted and isinstance(request.operation, Submission) and request.operation.report:
                    ack = {**(ack or {}), **self._stored(request.operation, accepted)}
                if refused:
                    self._context.counters.messages_refused += len(refused)
                    self._answer_refused(request, bool(accepted), refused, ack)
                else:
                    self._live.acknowledge(request.channel, request.sequence, ack)
            case ConfirmOutcome():
                pass
            case ResolveOutcome(recipients, refused, elsewhere):
                self._send_live(request, recipients, elsewhere)
                if request.quiet and (recipients or not refused):
                    return
                self._answer_refused(request, bool(recipients) or not refused, refused, request.ack)
            case GroupOutcome(None, notice):
                # The group is changed; those whose inbox took no notice of it are named.
                self._context.counters.messages_refused += len(notice.refused)
                ack = {**(request.ack or {}), "forwarded": True} if outcome.forwarded else request.ack
                self._answer_refused(request, True, notice.refused, ack)
            case RouteOutcome(None):
                self._live.acknowledge(request.channel, request.sequence, request.ack)
            case RouteOutcome(reason) | GroupOutcome(reason, _) if reason is not None:
                self._refuse_for(request, reason)

    def _send_live(self, request: Request, recipients: Sequence[str], elsewhere: Mapping[str, str]) -> None:
        live = request.live
        if live is None:
            return
        forwarded: dict[str, str] = {}
        for device_id in recipients:
            if live.among is not None and not live.among(device_id):
                continue
            session = self._context.registry.receiver(device_id)
            if session is None:
                if device_id in elsewhere:
                    forwarded[device_id] = elsewhere[device_id]
                continue
            if session.notice(live.type, request.channel, live.payload):
                self._context.counters.live_delivered += 1
            else:
                self._context.counters.live_dropped += 1
        if forwarded:
            self._context.cluster.send_live(forwarded, live.type, request.channel, live.payload)

    def _answer_refused(
        self,
        request: Request,
        accepted: bool,
        refused: tuple[Refusal, ...],
        ack: Mapping[str, Any] | None,
    ) -> None:
        """The Ack names who refused; when nobody accepts, it is an Error."""
        if accepted:
            for each in refused:
                count(self._context.counters.refusals, each.reason.value)
            room = _NAMED_LEN - _STORED_LEN if ack and "stored" in ack else _NAMED_LEN
            ack = {**(ack or {}), **(self._named(refused, room) if refused else {})}
            self._live.acknowledge(request.channel, request.sequence, ack)
        else:
            self._refuse_for(request, refused[0].reason, **self._named(refused))

    def _refuse_for(self, request: Request, reason: RefusalReason, **extra: Any) -> None:
        if reason is RefusalReason.DISK_LOW:
            extra["retry"] = True
        self._refuse(request.channel, request.sequence, reason.value, _TITLES[reason], **extra)

    def _refuse(self, channel: int, sequence: int, kind: str, detail: str, **extra: Any) -> None:
        count(self._context.counters.refusals, kind)
        error = {"error": kind, "title": "Frame refused", "detail": detail, "ref": sequence, **extra}
        self._live.answer(FrameType.ERROR, channel, json_text.dumps(error))

    def _named(self, refused: Sequence[Refusal], room: int = _NAMED_LEN) -> dict[str, Any]:
        """Who refused, as members of an answer."""
        named = [{"device": each.device_id, "reason": each.reason.value} for each in refused]
        return self._fitting("refused", named, room)

    def _stored(self, message: Submission, accepted: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """What a sender that asks is told of a message on disk: its id, and the devices it waits for."""
        devices = [device_id for device_id, _ in accepted]
        return {"message": message.reference.hex(), **self._fitting("stored", devices, _STORED_LEN)}

    def _fitting(self, name: str, values: Sequence[Any], room: int) -> dict[str, Any]:
        """A member of an answer; values that do not fit ``room`` bytes of JSON, or for which the client has
        left no room by not reading its answers, are counted only."""
        room = min(room, NAMES_BYTES - self._live.answers_bytes)
        for index, value in enumerate(values):
            room -= len(json_text.dumps(value)) + 1
            if room < 0:
                return {name: values[:index], f"{name}_more": len(values) - index}
        return {name: values}
