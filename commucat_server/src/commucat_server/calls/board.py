"""The calls of one server, in memory: no input or output, time is an argument.

::

    reserve ──stored──► ringing ──somebody accepts──► running
       │                   │                             │
    release        all decline, CallEnd,         CallEnd, nothing heard
                   ring timeout, disconnect      for long, disconnect

A call that is over is forgotten. A restart of the server forgets all of them: what is lost is
the end that the server would have announced, no message.
"""

from collections.abc import Iterable
from typing import Any

import attrs

from commucat_server.calls.listener import CallListener

MAX_CALLS = 4
"""Calls that one device may have begun. Being called does not count: strangers could fill the places."""
GRACE = 30.0
"""Seconds that a call of another node stays known beyond its time, for that node to announce the end."""
IDLE_TIMEOUT = 600.0
"""Seconds without media, statistics, transport updates or answers after which a running call is over."""


class CallRefusedError(Exception):
    """A call frame that does not fit the calls there are; ``kind`` is for the Error frame."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@attrs.define(eq=False, kw_only=True)
class Call:
    """One call. Devices are either in it, or invited and ringing."""

    call_id: str
    channel: int
    initiator: str
    mode: str
    video: bool
    began: float
    deadline: float
    joined: set[str]
    invited: set[str] = attrs.Factory(set)
    stored: bool = False
    """The offer is on disk and was delivered; nobody else can know of the call before."""
    accepted: bool = False
    home: bool = True
    """It was begun at this node, which ends it when its time is over."""
    heard: bool = False
    """Something of it was heard here since other nodes were told so."""

    @property
    def participants(self) -> set[str]:
        return self.joined | self.invited


class CallBoard:
    """All calls, by id and by the devices in them. Times are seconds of one monotonic clock."""

    def __init__(self, ring_timeout: float) -> None:
        self._ring_timeout = ring_timeout
        self._calls: dict[str, Call] = {}
        self._of_device: dict[str, set[Call]] = {}
        self._listeners: list[CallListener] = []

    def listen(self, listener: CallListener) -> None:
        """Have ``listener`` told, after those who came before, of what happens from now on."""
        self._listeners.append(listener)

    def __len__(self) -> int:
        return len(self._calls)

    def reserve(
        self, call_id: str, *, channel: int, initiator: str, mode: str, video: bool, now: float
    ) -> Call:
        """Take the id while the offer is being stored.

        Raises:
            CallRefusedError: ``call_exists``, ``too_many_calls``.
        """
        if call_id in self._calls:
            raise CallRefusedError("call_exists", "a call with this id exists")
        begun = sum(call.initiator == initiator for call in self._of_device.get(initiator, ()))
        if begun >= MAX_CALLS:
            raise CallRefusedError("too_many_calls", f"a device may have begun {MAX_CALLS} calls at once")
        call = Call(
            call_id=call_id,
            channel=channel,
            initiator=initiator,
            mode=mode,
            video=video,
            began=now,
            deadline=now + self._ring_timeout,
            joined={initiator},
        )
        self._calls[call_id] = call
        self._index(initiator, call)
        return call

    def ring(self, call: Call, recipients: Iterable[str], now: float) -> None:
        """The offer is stored for ``recipients``. Nothing for a call that is over already."""
        if self._calls.get(call.call_id) is not call:
            return
        call.stored = True
        call.deadline = now + self._ring_timeout
        call.invited = set(recipients) - {call.initiator}
        for device_id in call.invited:
            self._index(device_id, call)
        for listener in self._listeners:
            listener.on_joined(call, call.initiator)

    def adopt(
        self, call_id: str, *, channel: int, initiator: str, mode: str, video: bool, now: float
    ) -> Call | None:
        """A call that another node has begun, or that was adopted before; None for one of this node.

        Its end is that node's to announce: here it is only forgotten, some time later.
        """
        known = self._calls.get(call_id)
        if known is not None:
            return None if known.home else known
        call = Call(
            call_id=call_id,
            channel=channel,
            initiator=initiator,
            mode=mode,
            video=video,
            began=now,
            deadline=now + self._ring_timeout,
            joined={initiator},
            stored=True,
            home=False,
        )
        self._calls[call_id] = call
        self._index(initiator, call)
        for listener in self._listeners:
            listener.on_joined(call, initiator)
        return call

    def invite(self, call: Call, devices: Iterable[str]) -> None:
        """It rings at these, too."""
        for device_id in set(devices) - call.participants:
            call.invited.add(device_id)
            self._index(device_id, call)

    def heard(self) -> tuple[Call, ...]:
        """Calls of which something was heard here since the last time this was asked."""
        calls = tuple(call for call in self._calls.values() if call.heard)
        for call in calls:
            call.heard = False
        return calls

    def find(self, call_id: str) -> Call | None:
        """The call, also one whose offer is still being stored."""
        return self._calls.get(call_id)

    def take_part(self, call_id: str, device_id: str, channel: int) -> Call:
        """The call, for a frame that only its participants may send.

        Raises:
            CallRefusedError: ``call_unknown``, ``not_participant``, ``bad_request``.
        """
        call = self._calls.get(call_id)
        if call is None:
            raise CallRefusedError("call_unknown", "there is no such call, or it is over")
        if device_id not in call.joined and device_id not in call.invited:
            raise CallRefusedError("not_participant", "only those who take part in a call may do this")
        if call.channel != channel:
            raise CallRefusedError("bad_request", "the call is on another channel")
        return call

    def accept(self, call: Call, device_id: str, now: float) -> None:
        """An invited device comes in; once more changes nothing."""
        if device_id in call.invited:
            call.invited.discard(device_id)
            call.joined.add(device_id)
            call.accepted = True
            for listener in self._listeners:
                listener.on_joined(call, device_id)
        self.hear(call, now)

    def decline(self, call: Call, device_id: str) -> bool:
        """A device does not want, or not any more; True when the call is over by that."""
        call.invited.discard(device_id)
        self._unindex(device_id, call)
        if device_id in call.joined:
            call.joined.discard(device_id)
            for listener in self._listeners:
                listener.on_left(call, device_id)
        if len(call.participants) > 1:
            return False
        self.remove(call)
        return True

    def hear(self, call: Call, now: float) -> None:
        """Something came from somebody in the call."""
        if call.accepted:
            call.heard = True
            call.deadline = now + IDLE_TIMEOUT

    def remove(self, call: Call) -> bool:
        """The call is over; False if it was already."""
        if self._calls.get(call.call_id) is not call:
            return False
        del self._calls[call.call_id]
        for device_id in call.participants:
            self._unindex(device_id, call)
        if call.stored:
            for listener in self._listeners:
                listener.on_over(call)
        return True

    def joined_by(self, device_id: str) -> tuple[Call, ...]:
        """Calls that the device is in, not those that only ring there or are not stored yet."""
        mine = self._of_device.get(device_id, ())
        return tuple(call for call in mine if call.stored and device_id in call.joined)

    def overdue(self, now: float) -> tuple[Call, ...]:
        """Calls that rang too long, or of which nothing was heard for too long.

        Also those whose offer never got to the disk because its session broke off before.
        """
        return tuple(
            call for call in self._calls.values() if call.deadline + (0.0 if call.home else GRACE) <= now
        )

    def _index(self, device_id: str, call: Call) -> None:
        self._of_device.setdefault(device_id, set()).add(call)

    def _unindex(self, device_id: str, call: Call) -> None:
        calls = self._of_device.get(device_id)
        if calls is not None:
            calls.discard(call)
            if not calls:
                del self._of_device[device_id]


def offer_record(call: Call) -> dict[str, Any]:
    """What the ledger keeps of an offer. Of a large group only the first devices, in the order of their ids,
    because a record has a size limit."""
    participants = sorted(call.participants)
    return {
        "channel_id": call.channel,
        "initiator": call.initiator,
        "participants": participants[:100],
        "participant_count": len(participants),
        "mode": call.mode,
        "video": call.video,
    }
