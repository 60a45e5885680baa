"""Turns the frames of one client into journal operations, and their outcomes into answers.

Everything that one read brought in goes to the journal as one batch. A frame that is
refused gets an Error frame on its channel, with ``ref`` naming it, and the session goes on.
What each type asks for is in :mod:`commucat_server.connect.frames`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import trio

from commucat_proto import MAX_CONTROL_JSON_LEN, Frame, FrameType, json_text
from commucat_server.connect.context import ConnectContext
from commucat_server.connect.frames import calls, groups, messages, transient
from commucat_server.connect.frames.request import Origin, RefusedFrameError, Request, Settle
from commucat_server.routing.live import LiveSession
from commucat_storage import (
    CommitFailedError,
    ConfirmOutcome,
    CreateGroup,
    GroupOutcome,
    Outcome,
    Refusal,
    RefusalReason,
    ResolveOutcome,
    RouteOutcome,
    SubmissionOutcome,
)

MAX_BATCH = 128
"""Frames of one read that are committed together. The journal counts a message as one row, but
its route may name hundreds of devices: a longer batch would be one enormous transaction."""
MAX_PENDING = 8
"""Batches of one session that may wait for the disk, for the same reason: whoever sends to many
must not fill the journal for everybody. Enough to keep the disk busy while the next read comes in."""
_REFUSED_LEN = MAX_CONTROL_JSON_LEN - 8192
"""What the refusals may take of an answer's JSON; the rest is for ids of 128 characters and fixed words."""

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
    FrameType.VOICE_FRAME: transient.media,
    FrameType.VIDEO_FRAME: transient.media,
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


class FrameDispatcher:
    """The frames of one established session."""

    def __init__(self, context: ConnectContext, live: LiveSession) -> None:
        self._context = context
        self._live = live
        self._origin = Origin(context, live)
        self._batch: list[Request] = []
        self._pending = 0
        self._progress = trio.lowlevel.ParkingLot()

    async def handle(self, frames: Sequence[Frame]) -> None:
        """Act on frames in their order; waits for room in the journal, never for a receiver."""
        self._context.counters.frames_ingress += len(frames)
        for frame in frames:
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
            # A new group may have thousands of members to tell: it is committed with what came before only.
            if len(self._batch) == MAX_BATCH or type(request.operation) is CreateGroup:
                await self._submit()
        await self._submit()

    async def _submit(self) -> None:
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        while self._pending >= MAX_PENDING:
            await self._progress.park()
        self._pending += 1
        try:
            operations = [request.operation for request in batch]
            await self._context.inbox.submit(operations, lambda result: self._batch_done(batch, result))
        except BaseException:
            self._pending -= 1
            raise

    async def _settle(self) -> None:
        await self._submit()
        await self.answered()

    async def answered(self) -> None:
        """Return when every batch that was submitted has been answered."""
        while self._pending:
            await self._progress.park()

    # -- answers ------------------------------------------------------------------------------------

    def _batch_done(self, batch: Sequence[Request], result: tuple[Outcome, ...] | CommitFailedError) -> None:
        self._pending -= 1
        self._progress.unpark_all()
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
                if refused:
                    self._context.counters.messages_refused += len(refused)
                    self._answer_refused(request, bool(accepted), refused)
                else:
                    self._live.acknowledge(request.channel, request.sequence, request.ack)
            case ConfirmOutcome(applied, _):
                self._context.counters.relay_confirmed += applied
            case ResolveOutcome(recipients, refused):
                self._send_live(request, recipients)
                self._answer_refused(request, bool(recipients) or not refused, refused)
            case GroupOutcome(None, notice):
                # The group is changed; those whose inbox took no notice of it are named.
                self._context.counters.messages_refused += len(notice.refused)
                self._answer_refused(request, True, notice.refused)
            case RouteOutcome(None):
                self._live.acknowledge(request.channel, request.sequence, request.ack)
            case RouteOutcome(reason) | GroupOutcome(reason, _) if reason is not None:
                self._refuse_for(request, reason)

    def _send_live(self, request: Request, recipients: Sequence[str]) -> None:
        live = request.live
        if live is None:
            return
        for device_id in recipients:
            session = self._context.registry.receiver(device_id)
            if session is None or (live.among is not None and not live.among(device_id)):
                continue
            if session.notice(live.type, request.channel, live.payload):
                self._context.counters.live_delivered += 1
            else:
                self._context.counters.live_dropped += 1

    def _answer_refused(self, request: Request, accepted: bool, refused: tuple[Refusal, ...]) -> None:
        """The Ack names who refused; when nobody accepts, it is an Error."""
        if accepted:
            ack = {**(request.ack or {}), **(_named(refused) if refused else {})}
            self._live.acknowledge(request.channel, request.sequence, ack)
        else:
            self._refuse_for(request, refused[0].reason, **_named(refused))

    def _refuse_for(self, request: Request, reason: RefusalReason, **extra: Any) -> None:
        if reason is RefusalReason.DISK_LOW:
            extra["retry"] = True
        self._refuse(request.channel, request.sequence, reason.value, _TITLES[reason], **extra)

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
