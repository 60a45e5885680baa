"""Calls as the sessions see them: the board, its clock, the ends that the server announces, the audit."""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import structlog
import trio
from blake3 import blake3

from commucat_ledger import Ledger, LedgerRecord
from commucat_proto import FrameType, json_text
from commucat_proto.calls import CallEnd, EndReason
from commucat_server.calls.board import IDLE_TIMEOUT, Call, CallBoard
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.hints import CallChange, CallMoved, CallRings
from commucat_server.routing.inbox import Inbox
from commucat_storage import CommitFailedError, Outcome, Submission

log = structlog.get_logger("commucat.calls")

TICK = 1.0
"""Seconds between two looks for calls that are overdue."""
MAX_RECORDS = 1024
"""Records that may wait for the ledger; beyond, call frames wait."""


class CallService:
    """One per server. ``clock`` gives Unix seconds; deadlines count on Trio's clock."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        cluster: Cluster,
        ledger: Ledger,
        clock: Callable[[], float],
        ring_timeout: int,
    ) -> None:
        self.board = CallBoard(float(ring_timeout))
        self.ring_timeout = ring_timeout
        """Seconds, also the lifetime of stored call frames."""
        self._inbox = inbox
        self._cluster = cluster
        cluster.on_calls(self._told)
        self._ledger = ledger
        self._clock = clock
        self._records: deque[LedgerRecord] = deque()
        self._recorded = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Ends what is overdue and writes the audit; never returns. Cancelled, it writes what waits."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_overdue)
                nursery.start_soon(self._tell_heard)
                while True:
                    while self._records:
                        await self._ledger.append(self._records[0])
                        self._records.popleft()
                        self._room.unpark_all()
                    await self._recorded.park()
        finally:
            with trio.move_on_after(TICK, shield=True):
                while self._records:
                    await self._ledger.append(self._records.popleft())

    # -- from the sessions ----------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait while the ledger's disk is behind."""
        while len(self._records) >= MAX_RECORDS:
            await self._room.park()

    def record(self, event: str, call_id: str, data: dict[str, Any]) -> None:
        """Put ``offer``, ``answer`` or ``end`` of a call into the audit."""
        metadata = {"scope": "call", "event": event, "call_id": call_id, "data": data}
        digest = blake3(call_id.encode()).digest()
        self._records.append(LedgerRecord(digest=digest, metadata=metadata, recorded_at=datetime.now(UTC)))
        self._recorded.unpark_all()

    def ring(self, call: Call, devices: Iterable[str]) -> None:
        """The offer is stored for these devices; they may answer, at whichever node they are."""
        self.board.ring(call, devices, trio.current_time())
        rings = CallRings(
            call.call_id, call.channel, call.initiator, call.mode, call.video, tuple(sorted(call.invited))
        )
        self._cluster.tell_of_call(rings)

    def accept(self, call: Call, device_id: str) -> None:
        """A device comes in."""
        self.board.accept(call, device_id, trio.current_time())
        self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.ACCEPTED, device_id))

    def decline(self, call: Call, device_id: str) -> bool:
        """A device does not want; True when the call is over by that."""
        self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.DECLINED, device_id))
        return self.board.decline(call, device_id)

    def over(self, call: Call, device_id: str, reason: str) -> None:
        """A call has ended: forget it, and say so in the audit. Once only."""
        if self.board.remove(call):
            self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.OVER))
            self.record_end(call, device_id, reason)

    def record_end(self, call: Call, device_id: str, reason: str) -> None:
        data = {
            "device": device_id,
            "initiator": call.initiator,
            "reason": reason,
            "duration_secs": int(trio.current_time() - call.began),
        }
        self.record("end", call.call_id, data)

    def hear_media(self, device_id: str, channel: int) -> Callable[[str], bool] | None:
        """Who may get media of this device on this channel: those in its calls there; None if it has none."""
        calls = [call for call in self.board.joined_by(device_id) if call.channel == channel]
        if not calls:
            return None
        for call in calls:
            self.board.hear(call, trio.current_time())
        return lambda receiver: any(receiver in call.joined for call in calls)

    async def disconnected(self, device_id: str) -> None:
        """The device's session is gone, and no other has taken over: its calls are over."""
        for call in self.board.joined_by(device_id):
            metadata = {"system": True, "cause": "disconnect", "device": device_id}
            await self._announce_end(call, EndReason.FAILURE, metadata, device_id, "disconnect")

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
                self.board.decline(call, hint.device_id)
            case CallChange.HEARD:
                self.board.hear(call, now)
                call.heard = False
            case CallChange.OVER:
                self.board.remove(call)

    async def _tell_heard(self) -> None:
        """Let no node take a call for idle whose media pass through another one."""
        while True:
            await trio.sleep(IDLE_TIMEOUT / 4)
            for call in self.board.heard():
                self._cluster.tell_of_call(CallMoved(call.call_id, CallChange.HEARD))

    # -- ends that the server announces ---------------------------------------------------------------

    async def _end_overdue(self) -> None:
        while True:
            await trio.sleep(TICK)
            for call in self.board.overdue(trio.current_time()):
                if not call.home:
                    self.board.remove(call)  # The node where it was begun says so.
                    continue
                cause = "idle" if call.accepted else "ring_timeout"
                metadata = {"system": True, "cause": cause}
                await self._announce_end(call, EndReason.TIMEOUT, metadata, "", "timeout")

    async def _announce_end(
        self, call: Call, reason: EndReason, metadata: dict[str, Any], device_id: str, recorded: str
    ) -> None:
        if not call.stored:
            self.board.remove(call)
            return
        told = sorted(call.participants - {device_id})
        self.over(call, device_id, recorded)
        if not told:
            return
        end = CallEnd(call_id=call.call_id, reason=reason, metadata=metadata)
        payload = json_text.dumps(end.to_wire())
        expires_at = int(self._clock()) + self.ring_timeout
        message = Submission("", call.channel, FrameType.CALL_END, payload, expires_at, tuple(told))
        await self._inbox.submit([message], _announced)


def _announced(result: tuple[Outcome, ...] | CommitFailedError) -> None:
    if isinstance(result, CommitFailedError):
        # The call is over all the same; its participants find out by what they do not hear.
        log.warning("end of a call not stored", reason=str(result))
