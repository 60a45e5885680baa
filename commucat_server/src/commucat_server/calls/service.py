"""Calls as the sessions see them: the board, its clock, the ends that the server announces, the audit."""

from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import attrs
import structlog
import trio

from commucat_ledger import Ledger
from commucat_proto.calls import CallMediaProfile, CallStats, EndReason, RejectReason
from commucat_server.calls import tracks
from commucat_server.calls.announcing import Announcer
from commucat_server.calls.audit import CallAudit
from commucat_server.calls.board import IDLE_TIMEOUT, CallBoard
from commucat_server.calls.call import Call, end_record, offer_record
from commucat_server.calls.limits import CallLimits
from commucat_server.calls.recovery import recover
from commucat_server.calls.rows import CallRows
from commucat_server.calls.siblings import Answered, Siblings
from commucat_server.ops.counters import Counters, count
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.hints import CallChange, CallMoved, CallRings
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.registry import Registry
from commucat_storage import Storage, StorageError

log = structlog.get_logger("commucat.calls")

TICK = 1.0
"""Seconds between two looks for calls that are overdue."""
CLAIM_INTERVAL = 5.0
"""Seconds between two looks for calls of nodes that are no more."""


class CallService:
    """One per server. ``clock`` gives Unix seconds; deadlines count on Trio's clock."""

    def __init__(
        self,
        *,
        storage: Storage,
        registry: Registry,
        inbox: Inbox,
        cluster: Cluster,
        ledger: Ledger,
        counters: Counters,
        clock: Callable[[], float],
        limits: CallLimits,
    ) -> None:
        self.limits = limits
        self.board = CallBoard(limits)
        self.audit = CallAudit(ledger)
        self.rows = CallRows(storage, cluster.node, limits, clock, counters)
        self.board.listen(self.rows)
        self._announcer = Announcer(inbox, limits, clock)
        self._siblings = Siblings(storage, self._silence)
        self._storage = storage
        self._registry = registry
        self._cluster = cluster
        cluster.on_calls(self._told)
        self._counters = counters
        self._clock = clock

    @property
    def ring_timeout(self) -> int:
        """Seconds, also the lifetime of stored call frames."""
        return int(self.limits.ring_timeout)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Ends what is overdue, writes rows and audit; never returns. Cancelled, it writes what waits.

        Started once the calls are known that an earlier process has left, if the store tells of them.
        """
        claimed = await self._claim(first=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.audit.run)
            nursery.start_soon(self.rows.run)
            nursery.start_soon(self._siblings.run)
            nursery.start_soon(self._end_overdue)
            nursery.start_soon(self._tell_heard)
            task_status.started()
            while self._cluster.shared or not claimed:
                await trio.sleep(CLAIM_INTERVAL)
                claimed = await self._claim(first=not claimed)
            await trio.sleep_forever()
        raise AssertionError("its tasks never return")

    # -- from the sessions ----------------------------------------------------------------------------

    def ring(self, call: Call, devices: Iterable[str], media: CallMediaProfile) -> None:
        """The offer is stored for these devices; they may answer, at whichever node they are."""
        self.board.ring(call, devices, trio.current_time())
        rings = CallRings(
            call.call_id, call.channel, call.initiator, call.mode, call.video, tuple(sorted(call.invited))
        )
        self._cluster.tell_of_call(rings)
        self.audit.record("offer", call.call_id, offer_record(call))
        self._counters.calls_begun += 1
        self.announce_media(call, call.initiator, media)
        self._note_absence(call, call.initiator)

    def accept(self, call: Call, device_id: str, user_id: str, media: CallMediaProfile | None) -> None:
        """A device comes in."""
        self.board.accept(call, device_id, trio.current_time())
        self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.ACCEPTED, device_id))
        if media is not None:
            self.announce_media(call, device_id, media)
        self._siblings.answered(Answered(call, device_id, user_id, accepted=True))
        self._note_absence(call, device_id)

    def _note_absence(self, call: Call, device_id: str) -> None:
        # Its session may have ended while what it said was on its way to the disk, and found it in no call.
        if self._registry.receiver(device_id) is None:
            self._go_away(call, device_id)

    def decline(self, call: Call, device_id: str, user_id: str, reason: RejectReason | None) -> None:
        """A device does not want, or not any more. When nobody is left but one, the call is over.

        What a person declines rings at the person's other devices no more; other reasons are the device's.
        """
        word = "decline" if reason is None else reason.value
        was_ringing = device_id in call.invited
        if self._leave(call, device_id, word):
            self.record_end(call, device_id, word)
        elif was_ringing and reason in (None, RejectReason.DECLINE):
            self._siblings.answered(Answered(call, device_id, user_id, accepted=False))

    def over(self, call: Call, device_id: str, reason: str) -> None:
        """A call has ended: forget it, and say so in the audit. Once only."""
        if self.board.remove(call, reason, device_id):
            self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.OVER, device_id, reason))
            self.record_end(call, device_id, reason)

    def record_end(self, call: Call, device_id: str, reason: str) -> None:
        """Count a call that is over, and put that into the audit."""
        now = trio.current_time()
        count(self._counters.calls_ended, reason)
        self._counters.call_seconds.note(max(0.0, now - call.began))
        self.audit.record("end", call.call_id, end_record(call, device_id, reason, now))

    def announce_media(self, call: Call, device_id: str, media: CallMediaProfile) -> None:
        """Note what the device says that it will send."""
        call.media[device_id] = media
        self.rows.track(tracks.announced(call.call_id, device_id, media, int(self._clock())))

    def note_stats(self, call: Call, device_id: str, stats: CallStats) -> None:
        """Note how the streams of a device that is in the call are doing."""
        if device_id in call.joined:
            self.rows.track(tracks.measured(device_id, stats, int(self._clock())))

    def connected(self, device_id: str) -> None:
        """The device has a session here: it is back in the calls that it was away from."""
        for call in self.board.joined_by(device_id):
            self.board.come_back(call, device_id)
            self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.BACK, device_id))

    async def disconnected(self, device_id: str) -> None:
        """The device's session is gone, and no other has taken over: it has some time to come back."""
        self.board.leave_alone(device_id)
        for call in self.board.joined_by(device_id):
            self._go_away(call, device_id)
            if not self.limits.grace and call.home:
                await self._drop(call, device_id)

    def _go_away(self, call: Call, device_id: str) -> None:
        self.board.go_away(call, device_id, trio.current_time())
        self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.AWAY, device_id))

    def take_limits(self, limits: CallLimits) -> None:
        """Put other numbers in force; calls that there are keep their times."""
        for field in attrs.fields(CallLimits):
            setattr(self.limits, field.name, getattr(limits, field.name))
        self.board.recount()

    # -- other nodes ----------------------------------------------------------------------------------

    def _told(self, hint: CallRings | CallMoved) -> None:
        now = trio.current_time()
        if isinstance(hint, CallRings):
            adopted = self.board.adopt(
                hint.call_id,
                channel=hint.channel,
                initiator=hint.initiator,
                mode=hint.mode,
                video=hint.video,
                now=now,
            )
            if adopted is not None:
                self.board.invite(adopted, hint.invited)
            return
        call = self.board.find(hint.call_id)
        if call is None:
            return
        match hint.change:
            case CallChange.ACCEPTED:
                self.board.accept(call, hint.device_id, now)
            case CallChange.DECLINED:
                self.board.decline(call, hint.device_id, hint.reason or "decline")
                self.rows.note(call)
            case CallChange.AWAY:
                # Hints may overtake each other: who is here is not away.
                if self._registry.receiver(hint.device_id) is None:
                    self.board.go_away(call, hint.device_id, now)
            case CallChange.BACK:
                self.board.come_back(call, hint.device_id)
            case CallChange.HEARD:
                self.board.hear(call, now)
                call.heard = False
            case CallChange.OVER:
                self.board.remove(call, hint.reason, hint.device_id)

    async def _tell_heard(self) -> NoReturn:
        """Let no node take a call for idle whose media pass through another one."""
        while True:
            await trio.sleep(IDLE_TIMEOUT / 4)
            for call in self.board.heard():
                self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.HEARD))

    async def _claim(self, *, first: bool) -> bool:
        """Take over calls that nobody ends; False if the store failed."""
        try:
            found = await recover(
                self.board, self._storage, self._registry, self._cluster.node, self._clock(), first=first
            )
        except StorageError as exc:
            log.warning("calls of an earlier process not read, trying again", reason=str(exc))
            return False
        if found:
            self._counters.calls_recovered += found
            log.info("calls taken over", calls=found)
        return True

    # -- what the server announces ---------------------------------------------------------------------

    async def _end_overdue(self) -> NoReturn:
        while True:
            await trio.sleep(TICK)
            for call in self.board.overdue(trio.current_time()):
                # While others were told, it may have ended, or been answered.
                if not self.board.is_overdue(call, trio.current_time()):
                    continue
                if not call.home:
                    self.board.remove(call)  # The node whose call it is says so.
                    continue
                cause = "idle" if call.accepted and len(call.joined) > 1 else "ring_timeout"
                if call.stored:
                    told = call.participants
                    self.over(call, "", "timeout")
                    await self._announcer.end(call, told, EndReason.TIMEOUT, cause)
                else:
                    self.board.remove(call)
            await self._drop_absent()

    async def _drop_absent(self) -> None:
        absent = self.board.absent(trio.current_time())
        if not absent:
            return
        try:
            elsewhere = await self._cluster.owners_of(sorted({device_id for _, device_id in absent}))
        except StorageError as exc:
            log.warning("cannot tell whether devices came back to a call", reason=str(exc))
            return
        for call, device_id in absent:
            if device_id in elsewhere or self._registry.receiver(device_id) is not None:
                self.board.come_back(call, device_id)
            elif device_id in call.away:
                await self._drop(call, device_id)

    async def _drop(self, call: Call, device_id: str) -> None:
        """A device has not come back: it leaves the call, and is told so if it comes later."""
        everybody = call.participants
        if self._leave(call, device_id, "disconnect"):
            self._counters.calls_orphaned += call.recovered
            self.record_end(call, device_id, "disconnect")
            await self._announcer.end(call, everybody, EndReason.FAILURE, "disconnect", device_id)
        else:
            await self._announcer.left(call, everybody - {device_id}, "disconnect", device_id)
            await self._announcer.end(call, [device_id], EndReason.FAILURE, "disconnect", device_id)

    async def _silence(self, answer: Answered, others: Sequence[str]) -> None:
        """The user's other devices ring no more."""
        call, everybody = answer.call, answer.call.participants
        cause = "answered_elsewhere" if answer.accepted else "declined_elsewhere"
        over = False
        for device_id in others:
            over |= self._leave(call, device_id, "decline")
        await self._announcer.end(call, others, EndReason.CANCEL, cause, answer.device_id)
        if over:
            self.record_end(call, answer.device_id, "decline")
            rest = everybody.difference(others)
            await self._announcer.end(call, rest, EndReason.CANCEL, "declined", answer.device_id)

    def _leave(self, call: Call, device_id: str, reason: str) -> bool:
        """A device is not in the call any more, nor called; True when the call is over by that."""
        if self.board.find(call.call_id) is not call:
            return False
        self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.DECLINED, device_id, reason))
        over = self.board.decline(call, device_id, reason)
        if not over and device_id in call.gone:
            self.rows.note(call)
        return over
