"""The calls of one server, in memory: no input or output, time is an argument.

::

    reserve ──stored──► ringing ──somebody accepts──► running ◄──comes back──┐
       │                   │                             │  └──session ends──► away
    release        all decline, CallEnd,         CallEnd, nothing heard         │
                   ring timeout                  for long, nobody else ◄──time is over

A call that is over is forgotten. What a restart has to know is in the store, see
:mod:`commucat_server.calls.rows`.
"""

from collections.abc import Iterable

from commucat_server.calls.call import Call, CallRefusedError
from commucat_server.calls.limits import CallLimits
from commucat_server.calls.listener import CallListener
from commucat_storage import CallRow

REMOTE_GRACE = 30.0
"""Seconds that a call of another node stays known beyond its time, for that node to announce the end."""
IDLE_TIMEOUT = 600.0
"""Seconds without media, statistics, transport updates or answers after which a running call is over."""


class CallBoard:
    """All calls, by id and by the devices in them. Times are seconds of one monotonic clock."""

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        self._calls: dict[str, Call] = {}
        self._of_device: dict[str, set[Call]] = {}
        self._busy: set[str] = set()
        self._listeners: list[CallListener] = []

    def listen(self, listener: CallListener) -> None:
        """Have ``listener`` told, after those who came before, of what happens from now on."""
        self._listeners.append(listener)

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def ringing(self) -> int:
        """How many calls nobody has accepted yet."""
        return sum(not call.accepted for call in self._calls.values())

    # -- beginning -------------------------------------------------------------------------------------

    def reserve(
        self, call_id: str, *, channel: int, initiator: str, mode: str, video: bool, now: float
    ) -> Call:
        """Take the id while the offer is being stored.

        Raises:
            CallRefusedError: ``call_exists``, ``too_many_calls``, ``server_busy``.
        """
        if call_id in self._calls:
            raise CallRefusedError("call_exists", "a call with this id exists")
        most = self.limits.per_device
        begun = sum(
            call.initiator == initiator or initiator in call.joined
            for call in self._of_device.get(initiator, ())
        )
        if begun >= most:
            raise CallRefusedError("too_many_calls", f"a device may be in {most} calls at once")
        if len(self._calls) >= self.limits.total:
            raise CallRefusedError("server_busy", "the server has as many calls as it may have; try later")
        call = Call(
            call_id=call_id,
            channel=channel,
            initiator=initiator,
            mode=mode,
            video=video,
            began=now,
            deadline=now + self.limits.ring_timeout,
            joined={initiator},
        )
        self._enter(call)
        return call

    def ring(self, call: Call, recipients: Iterable[str], now: float) -> None:
        """The offer is stored for ``recipients``. Nothing for a call that is over already."""
        if self._calls.get(call.call_id) is not call:
            return
        call.stored = True
        call.deadline = call.ring_until = now + self.limits.ring_timeout
        self.invite(call, recipients)
        self._tell_joined(call, call.initiator)

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
            deadline=now + self.limits.ring_timeout,
            ring_until=now + self.limits.ring_timeout,
            joined={initiator},
            stored=True,
            home=False,
        )
        self._enter(call)
        self._tell_joined(call, initiator)
        return call

    def restore(self, row: CallRow, *, home: bool, now: float, wall: float) -> Call:
        """The call of a row of the store, as it was there. ``wall``: Unix seconds, as the row counts.

        One that is known keeps what is known of it, and becomes this node's if ``home`` says so.
        """
        known = self._calls.get(row.call_id)
        if known is not None:
            if home and not known.home:
                known.home = known.recovered = True
                known.started_at, known.answered_at = row.started_at, row.answered_at
            return known
        began = now - max(0.0, wall - row.started_at)
        accepted = row.answered_at is not None
        ring_until = min(began, now) + self.limits.ring_timeout
        call = Call(
            call_id=row.call_id,
            channel=row.channel,
            initiator=row.initiator,
            mode=row.mode,
            video=row.video,
            began=began,
            deadline=now + IDLE_TIMEOUT if accepted else ring_until,
            ring_until=ring_until,
            joined=set(row.joined),
            invited=set(row.ringing),
            came=set(row.accepted),
            gone=set(row.gone),
            stored=True,
            accepted=accepted,
            home=home,
            recovered=True,
            group_id=row.group_id,
            started_at=row.started_at,
            answered_at=row.answered_at,
        )
        self._enter(call)
        for device_id in sorted(call.joined):
            self._tell_joined(call, device_id)
        return call

    def invite(self, call: Call, devices: Iterable[str]) -> None:
        """It rings at these, too."""
        for device_id in set(devices) - call.participants - call.gone:
            call.invited.add(device_id)
            self._of_device.setdefault(device_id, set()).add(call)

    # -- looking ---------------------------------------------------------------------------------------

    def find(self, call_id: str) -> Call | None:
        """The call, also one whose offer is still being stored."""
        return self._calls.get(call_id)

    def take_part(self, call_id: str, device_id: str, channel: int) -> Call:
        """The call, for a frame that only its participants may send.

        Raises:
            CallRefusedError: ``call_unknown``, ``not_participant``, ``bad_request``.
        """
        call = self._calls.get(call_id)
        # The caller, too, may do nothing before the offer is on disk: another of its sessions might.
        if call is None or not call.stored:
            raise CallRefusedError("call_unknown", "there is no such call, or it is over")
        if device_id not in call.joined and device_id not in call.invited:
            raise CallRefusedError("not_participant", "only those who take part in a call may do this")
        if call.channel != channel:
            raise CallRefusedError("bad_request", "the call is on another channel")
        return call

    def joined_by(self, device_id: str) -> tuple[Call, ...]:
        """Calls that the device is in, not those that only ring there or are not stored yet."""
        mine = self._of_device.get(device_id, ())
        return tuple(call for call in mine if call.stored and device_id in call.joined)

    def busy(self) -> frozenset[str]:
        """Devices that are in so many calls that no other rings there."""
        return frozenset(self._busy)

    def heard(self) -> tuple[Call, ...]:
        """Calls of which something was heard here since the last time this was asked."""
        calls = tuple(call for call in self._calls.values() if call.heard)
        for call in calls:
            call.heard = False
        return calls

    def overdue(self, now: float) -> tuple[Call, ...]:
        """Calls that rang too long, or of which nothing was heard for too long, or in which only one is left.

        Also those whose offer never got to the disk because its session broke off before.
        """
        return tuple(call for call in self._calls.values() if self.is_overdue(call, now))

    def is_overdue(self, call: Call, now: float) -> bool:
        """Whether it is still on the board, and its time is over."""
        over_at = call.over_at + (0.0 if call.home else REMOTE_GRACE)
        return self._calls.get(call.call_id) is call and over_at <= now

    def absent(self, now: float) -> tuple[tuple[Call, str], ...]:
        """Calls of this node with a device each that has been away for too long."""
        return tuple(
            (call, device_id)
            for call in self._calls.values()
            if call.home and call.away
            for device_id, until in call.away.items()
            if until <= now
        )

    # -- coming and going ------------------------------------------------------------------------------

    def make_room(self, call: Call, device_id: str, user_id: str) -> None:
        """A place in the call for a device whose answer is being stored.

        Raises:
            CallRefusedError: ``call_full``, ``too_many_calls``; ``not_participant`` if another device of the
                user was faster.
        """
        if device_id in call.joined:
            return
        first = call.answering.get(user_id, device_id)
        if first != device_id and (first in call.coming or first in call.joined):
            raise CallRefusedError("not_participant", "another device of the user has answered the call")
        most = self.limits.participants
        if len(call.joined | call.coming) >= most and device_id not in call.coming:
            raise CallRefusedError("call_full", f"{most} devices are in the call, as many as may be")
        if len(self.joined_by(device_id)) >= self.limits.per_device:
            raise CallRefusedError(
                "too_many_calls", f"a device may be in {self.limits.per_device} calls at once"
            )
        call.coming.add(device_id)
        call.answering[user_id] = device_id

    def accept(self, call: Call, device_id: str, now: float) -> None:
        """An invited device comes in; once more changes nothing."""
        call.coming.discard(device_id)
        if device_id in call.invited:
            call.invited.discard(device_id)
            call.joined.add(device_id)
            call.came.add(device_id)
            call.accepted = True
            self._tell_joined(call, device_id)
        self.hear(call, now)

    def decline(self, call: Call, device_id: str, reason: str = "decline") -> bool:
        """A device does not want, or not any more; True when the call is over by that, for this reason."""
        if self._calls.get(call.call_id) is not call:
            return False
        call.coming.discard(device_id)
        call.invited.discard(device_id)
        call.away.pop(device_id, None)
        call.gone.add(device_id)
        self._unindex(device_id, call)
        if device_id in call.joined:
            call.joined.discard(device_id)
            self._note(device_id)
            for listener in self._listeners:
                listener.on_left(call, device_id)
        if len(call.participants) > 1 and call.joined:
            return False
        self.remove(call, reason, device_id)
        return True

    def leave_alone(self, device_id: str) -> None:
        """The device's session has ended: places that it asked for are free."""
        for call in self._of_device.get(device_id, ()):
            call.coming.discard(device_id)

    def go_away(self, call: Call, device_id: str, now: float) -> None:
        """A device that is in the call is not connected; it may come back for a while."""
        if device_id in call.joined:
            call.away.setdefault(device_id, now + self.limits.grace)

    def come_back(self, call: Call, device_id: str) -> bool:
        """It is connected again; False if it was not away."""
        return call.away.pop(device_id, None) is not None

    def hear(self, call: Call, now: float) -> None:
        """Something came from somebody in the call."""
        if call.accepted:
            call.heard = True
            call.deadline = now + IDLE_TIMEOUT

    def remove(self, call: Call, reason: str = "", device_id: str = "") -> bool:
        """The call is over; False if it was already."""
        if self._calls.get(call.call_id) is not call:
            return False
        del self._calls[call.call_id]
        call.end_reason, call.ended_by = reason, device_id
        for each in call.participants:
            self._unindex(each, call)
            self._note(each)
        if call.stored:
            for listener in self._listeners:
                listener.on_over(call)
        return True

    # -- the index -------------------------------------------------------------------------------------

    def _enter(self, call: Call) -> None:
        self._calls[call.call_id] = call
        for device_id in call.participants:
            self._of_device.setdefault(device_id, set()).add(call)

    def _unindex(self, device_id: str, call: Call) -> None:
        calls = self._of_device.get(device_id)
        if calls is not None:
            calls.discard(call)
            if not calls:
                del self._of_device[device_id]

    def _tell_joined(self, call: Call, device_id: str) -> None:
        self._note(device_id)
        for listener in self._listeners:
            listener.on_joined(call, device_id)

    def _note(self, device_id: str) -> None:
        """In how many calls the device is has changed."""
        if len(self.joined_by(device_id)) >= self.limits.busy_from:
            self._busy.add(device_id)
        else:
            self._busy.discard(device_id)

    def recount(self) -> None:
        """The limits have changed."""
        for device_id in (*self._of_device, *tuple(self._busy)):
            self._note(device_id)
