"""What the server itself says in calls: one is over, somebody has left, another device took it."""

from collections.abc import Callable, Iterable
from typing import Any

import structlog

from commucat_proto import FrameType, json_text
from commucat_proto.calls import CallAnswer, CallEnd, EndReason, RejectReason
from commucat_server.calls.call import Call
from commucat_server.calls.limits import CallLimits
from commucat_server.routing.inbox import Inbox
from commucat_storage import CommitFailedError, Outcome, Submission

log = structlog.get_logger("commucat.calls")


class Announcer:
    """Puts frames of the server into the inboxes of devices in a call, or called; wherever these are."""

    def __init__(self, inbox: Inbox, limits: CallLimits, clock: Callable[[], float]) -> None:
        self._inbox = inbox
        self._limits = limits
        self._clock = clock

    async def end(
        self, call: Call, to: Iterable[str], reason: EndReason, cause: str, device_id: str | None = None
    ) -> None:
        """The call is over for these devices."""
        end = CallEnd(call_id=call.call_id, reason=reason, metadata=_metadata(cause, device_id))
        await self._submit(call, to, FrameType.CALL_END, end.to_wire())

    async def left(self, call: Call, to: Iterable[str], cause: str, device_id: str) -> None:
        """A device is not in the call any more, which goes on for these."""
        answer = CallAnswer(
            call_id=call.call_id,
            accept=False,
            reason=RejectReason.TIMEOUT,
            metadata=_metadata(cause, device_id),
        )
        await self._submit(call, to, FrameType.CALL_ANSWER, answer.to_wire())

    async def _submit(self, call: Call, to: Iterable[str], frame_type: FrameType, value: Any) -> None:
        told = tuple(sorted(to))
        if not told:
            return
        expires_at = int(self._clock() + self._limits.ring_timeout)
        message = Submission("", call.channel, frame_type, json_text.dumps(value), expires_at, told)
        await self._inbox.submit([message], _announced)


def _metadata(cause: str, device_id: str | None) -> Any:
    return {"system": True, "cause": cause, **({} if device_id is None else {"device": device_id})}


def _announced(result: tuple[Outcome, ...] | CommitFailedError) -> None:
    if isinstance(result, CommitFailedError):
        # What was to be told is so all the same; devices find out by what they do not hear.
        log.warning("word of a call not stored", reason=str(result))
