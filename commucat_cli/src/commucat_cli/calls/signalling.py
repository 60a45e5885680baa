"""One call as one of its devices sees it. No input or output; time is an argument.

::

    offering ──the server has it──► ringing ──somebody accepts──► running
       │                               │                             │
       └── refused                     ├── all decline               ├── hung up, here or there
                                       ├── nobody answers            ├── a device is gone for too long
                                       └── cancelled                 └── all others have left
                                            each of these: over

The device that is called begins at ringing. What comes for a call that is over changes nothing, nor does what
a state does not expect: the other side may be wrong, and the frames of both sides may cross on their way.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import Final, Self

import attrs

from commucat_proto.calls import CallAnswer, CallEnd, CallOffer, EndReason, RejectReason


class CallState(enum.Enum):
    """Where a call is."""

    OFFERING = "offering"
    RINGING = "ringing"
    RUNNING = "running"
    OVER = "over"


class Cause(enum.Enum):
    """Why a call is over, as this device sees it. The values are the interface of ``--json``."""

    HUNG_UP = "hung_up"
    """This side ended it."""
    ENDED = "ended"
    """The other side did."""
    LEFT = "left"
    """Nobody else is in it any more."""
    CANCELLED = "cancelled"
    """It was given up before anybody answered."""
    BUSY = "busy"
    DECLINED = "declined"
    UNSUPPORTED = "unsupported"
    """The other side cannot take part in a call like this."""
    NO_ANSWER = "no_answer"
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    """Another device of the same user took it."""
    REFUSED = "refused"
    """The server did not pass the offer on to anybody."""
    LOST = "lost"
    """A device, or the server, was away for too long."""
    IDLE = "idle"
    FAILED = "failed"


_OF_REASON: Final = {
    RejectReason.BUSY: Cause.BUSY,
    RejectReason.DECLINE: Cause.DECLINED,
    RejectReason.UNSUPPORTED: Cause.UNSUPPORTED,
    RejectReason.TIMEOUT: Cause.NO_ANSWER,
    RejectReason.ERROR: Cause.FAILED,
}
_OF_SYSTEM: Final = {
    "answered_elsewhere": Cause.ANSWERED_ELSEWHERE,
    "declined": Cause.DECLINED,
    "declined_elsewhere": Cause.DECLINED,
    "disconnect": Cause.LOST,
    "idle": Cause.IDLE,
    "ring_timeout": Cause.NO_ANSWER,
}
_OF_END: Final = {
    EndReason.HANGUP: Cause.ENDED,
    EndReason.CANCEL: Cause.CANCELLED,
    EndReason.TIMEOUT: Cause.NO_ANSWER,
    EndReason.FAILURE: Cause.FAILED,
}
_WORST: Final = (Cause.BUSY, Cause.DECLINED, Cause.UNSUPPORTED, Cause.NO_ANSWER)
"""Which of several reasons not to come is told, the first that there is."""


@attrs.frozen
class Joined:
    """A device is in the call."""

    device: str


@attrs.frozen
class Out:
    """A device is not, or no more."""

    device: str
    cause: Cause


@attrs.frozen
class Over:
    """The call is over, for whatever reason; nothing comes after this."""

    cause: Cause
    device: str | None = None
    """Whose doing it was, if that is known."""


CallEvent = Joined | Out | Over


class Call:
    """The state of one call. Made by :meth:`outgoing` or :meth:`incoming`."""

    def __init__(
        self, call_id: str, *, own: str, caller: str, called: Iterable[str], state: CallState, deadline: float
    ) -> None:
        self.call_id = call_id
        self.own = own
        self.caller = caller
        self.state = state
        self.cause: Cause | None = None
        """Once it is over: why."""
        self._deadline = deadline
        self._called = set(called)
        """Rings at them, or may."""
        self._inside = {caller}
        self._out: dict[str, Cause] = {}

    @classmethod
    def outgoing(cls, call_id: str, own: str, to: Iterable[str], *, deadline: float) -> Self:
        """A call that this device begins; nobody answers later than ``deadline``."""
        return cls(call_id, own=own, caller=own, called=to, state=CallState.OFFERING, deadline=deadline)

    @classmethod
    def incoming(cls, offer: CallOffer, own: str, *, deadline: float) -> Self:
        """A call that this device was asked into."""
        called = {device for device in offer.to if device != offer.sender} | {own}
        return cls(
            offer.call_id,
            own=own,
            caller=offer.sender,
            called=called,
            state=CallState.RINGING,
            deadline=deadline,
        )

    @property
    def others(self) -> frozenset[str]:
        """Everybody that is in the call or may come, but this device."""
        return frozenset(self._inside | self._called) - {self.own}

    @property
    def inside(self) -> frozenset[str]:
        """Who is in the call, this device included once it is."""
        return frozenset(self._inside)

    # -- what the server says --------------------------------------------------------------------------

    def offered(self, refused: Iterable[str], busy: Iterable[str] = ()) -> list[CallEvent]:
        """The server has the offer, and has left out ``refused``, some of them because they are ``busy``."""
        speaking = set(busy)
        if self.state is CallState.OFFERING:
            self.state = CallState.RINGING
        events: list[CallEvent] = []
        for device in sorted(set(refused) & self._called):
            events += self._goes(device, Cause.BUSY if device in speaking else Cause.REFUSED)
        return events

    def lost(self) -> list[CallEvent]:
        """The server does not know the call any more, or not with this device in it."""
        return self._end(Cause.LOST)

    # -- what other devices say ------------------------------------------------------------------------

    def answered(self, device: str, answer: CallAnswer) -> list[CallEvent]:
        """A device accepts or declines, or leaves a call it was in. ``device`` was checked as well as it
        can be."""
        if self.state is CallState.OVER or device == self.own or device not in self.others:
            return []
        if not answer.accept:
            inside = device in self._inside
            return self._goes(
                device, Cause.LEFT if inside else _OF_REASON[answer.reason or RejectReason.DECLINE]
            )
        if device in self._inside:
            return []
        self._called.discard(device)
        self._inside.add(device)
        if self.own in self._inside:
            self.state = CallState.RUNNING
        return [Joined(device)]

    def ended(self, end: CallEnd) -> list[CallEvent]:
        """Somebody in it, or the server, ends the call for everybody."""
        metadata = end.metadata if isinstance(end.metadata, Mapping) else {}
        device = metadata.get("device")
        known = device if isinstance(device, str) else None
        if metadata.get("system") is True:
            told = metadata.get("cause")
            cause = _OF_SYSTEM.get(told) if isinstance(told, str) else None
            return self._end(cause or _OF_END[end.reason], known)
        return self._end(_OF_END[end.reason], known)

    # -- what this device does -------------------------------------------------------------------------

    def accepted(self) -> list[CallEvent]:
        """The server has this device's accepting answer: it is in."""
        if self.state is not CallState.RINGING or self.own not in self._called:
            return []
        self._called.discard(self.own)
        self._inside.add(self.own)
        self.state = CallState.RUNNING
        return [Joined(self.own)]

    def decline(self, reason: RejectReason) -> CallAnswer:
        """Do not come in; returns what the others are to be told."""
        self._end(_OF_REASON[reason])
        return self._answer(reason)

    def hang_up(self, cause: Cause = Cause.HUNG_UP) -> CallEnd | CallAnswer | None:
        """Leave; returns what the others are to be told, None when the call is over already.

        Who has begun a call, or is in one of two, ends it. In one of more, the others go on.
        """
        if self.state is CallState.OVER:
            return None
        was = self.state
        alone = len(self.others) <= 1
        gave_up = cause is Cause.HUNG_UP and was is not CallState.RUNNING
        self._end(Cause.CANCELLED if gave_up else cause)
        if self.own != self.caller and (was is CallState.RINGING or not alone):
            return self._answer(RejectReason.DECLINE)
        reason = EndReason.HANGUP if was is CallState.RUNNING else EndReason.CANCEL
        return CallEnd(call_id=self.call_id, reason=reason, metadata={"device": self.own})

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timer` has something to do, if nothing comes before."""
        return self._deadline if self.state in (CallState.OFFERING, CallState.RINGING) else None

    def handle_timer(self, now: float) -> tuple[CallEnd | CallAnswer | None, list[CallEvent]]:
        """Give up when nobody has answered in time: what the others are to be told, and what happened."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return None, []
        events = self._end(Cause.NO_ANSWER)
        if self.own != self.caller:
            return self._answer(RejectReason.TIMEOUT), events
        return CallEnd(call_id=self.call_id, reason=EndReason.TIMEOUT, metadata={"device": self.own}), events

    # -- inside ----------------------------------------------------------------------------------------

    def _answer(self, reason: RejectReason) -> CallAnswer:
        return CallAnswer(call_id=self.call_id, accept=False, reason=reason, metadata={"device": self.own})

    def _goes(self, device: str, cause: Cause) -> list[CallEvent]:
        self._called.discard(device)
        self._inside.discard(device)
        self._out[device] = cause
        events: list[CallEvent] = [Out(device, cause)]
        if not self.others:
            events += self._end(self._why_nobody(), device)
        elif device == self.caller and self.state is CallState.RINGING:
            events += self._end(Cause.CANCELLED, device)
        return events

    def _why_nobody(self) -> Cause:
        if self.state is CallState.RUNNING:
            return Cause.LEFT
        causes = set(self._out.values())
        return next((cause for cause in _WORST if cause in causes), next(iter(self._out.values())))

    def _end(self, cause: Cause, device: str | None = None) -> list[CallEvent]:
        if self.state is CallState.OVER:
            return []
        self.state, self.cause = CallState.OVER, cause
        return [Over(cause, device)]
