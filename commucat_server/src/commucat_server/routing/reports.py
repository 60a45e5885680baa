"""Tells senders what became of their messages: a second message, to the sender, through the same journal.

What the store says about a confirmation or a purge waits here until one task makes frames of
it. Nobody waits for that task but the purge: a confirmation that finds no room is not
reported. Between the two commits a crash can lose a report, never a message.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NoReturn, TypeAlias

import structlog
import trio

from commucat_proto import (
    MAX_REPORTED,
    REPORT_CHANNEL,
    DeliveryReport,
    DeliveryStatus,
    ExpiryReason,
    FrameType,
    json_text,
)
from commucat_server.ops.counters import Counters
from commucat_storage import (
    CommitFailedError,
    ConfirmOutcome,
    DeadLetter,
    ExpiredMessage,
    Operation,
    Outcome,
    RefusalReason,
    Submission,
    SubmissionOutcome,
)

log = structlog.get_logger("commucat.reports")

MAX_WAITING = 100_000
"""Messages of which reports may wait, all senders together: about 10 MB."""
MAX_BATCH = 128
"""Reports in one commit; while it is under way those that come gather into the next."""
RETRY_INTERVAL = 1.0
"""Seconds until a store that took nothing is tried again."""
LAST_WORDS = 1.0
"""Seconds for what waits when the server stops."""

_Result: TypeAlias = tuple[Outcome, ...] | CommitFailedError
Submit: TypeAlias = Callable[[Sequence[Operation], Callable[[_Result], None]], Awaitable[None]]
_About: TypeAlias = tuple[str, str, int, DeliveryStatus, ExpiryReason | None]
"""Sender, receiver, channel, and what became of the messages."""
_Fate: TypeAlias = tuple[DeliveryStatus, ExpiryReason | None]
_DELIVERED: _Fate = (DeliveryStatus.DELIVERED, None)
_EXPIRED: _Fate = (DeliveryStatus.EXPIRED, ExpiryReason.TTL)
_REVOKED: _Fate = (DeliveryStatus.EXPIRED, ExpiryReason.REVOKED)
_REFUSED: _Fate = (DeliveryStatus.EXPIRED, ExpiryReason.REFUSED)


class DeliveryReports:
    """One per server. Messages of one sender with the same fate become one report."""

    def __init__(
        self, *, counters: Counters, clock: Callable[[], float], lifetime: int, enabled: bool = True
    ) -> None:
        """``lifetime``: seconds that a report waits for its receiver. Not ``enabled``: nobody is told."""
        self._counters = counters
        self._clock = clock
        self._lifetime = lifetime
        self._enabled = enabled
        self._waiting: dict[_About, list[str]] = {}
        self._messages = 0
        self._batch: list[Submission] = []
        self._came = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    def confirmed(self, device_id: str, outcome: ConfirmOutcome) -> None:
        """The device has confirmed messages; called in the journal's completion, never waits."""
        if not self._enabled:
            return
        lost = outcome.unreported
        now = int(self._clock())
        for each in outcome.reports:
            if self._messages >= MAX_WAITING:
                lost += 1
                continue
            # One whose time was over may have been passed over when the device read: what is called
            # delivered must have been.
            fate = _DELIVERED if each.expires_at > now else _EXPIRED
            self._add((each.sender, device_id, each.channel, *fate), each.reference)
        self._lose(lost)

    async def expired(self, messages: Sequence[ExpiredMessage]) -> None:
        """A purge has deleted messages; waits for room."""
        if not self._enabled:
            return
        for each in messages:
            fate = _REVOKED if each.revoked else _EXPIRED
            await self._add_slowly((each.sender, each.device_id, each.channel, *fate), each.reference)

    async def refused(self, letters: Sequence[DeadLetter]) -> None:
        """A server of another domain will never take these; waits for room."""
        if not self._enabled:
            return
        for letter in letters:
            if letter.report and letter.sender:
                await self._add_slowly(
                    (letter.sender, letter.target, letter.channel, *_REFUSED), letter.reference
                )

    async def run(self, submit: Submit, settle: Callable[[], Awaitable[None]]) -> NoReturn:
        """Store the reports, one commit after another; never returns. Cancelled, it stores what waits.

        ``submit`` and ``settle`` are those of :class:`Inbox`.
        """
        try:
            while True:
                while not self._waiting:
                    await self._came.park()
                await self._store(submit)
        finally:
            with trio.move_on_after(LAST_WORDS, shield=True):
                if self._enabled:
                    with suppress(CommitFailedError):
                        await settle()  # Confirmations that the store keeps back are told, too.
                while self._waiting or self._batch:
                    await self._store(submit)

    # -- what waits -----------------------------------------------------------------------------------

    async def _add_slowly(self, about: _About, reference: bytes) -> None:
        while self._messages >= MAX_WAITING:
            await self._room.park()
        self._add(about, reference)

    def _add(self, about: _About, reference: bytes) -> None:
        self._waiting.setdefault(about, []).append(reference.hex())
        self._messages += 1
        self._came.unpark_all()

    def _lose(self, messages: int) -> None:
        if messages:
            self._counters.reports_lost += messages
            log.warning("messages not reported to their senders", messages=messages)

    def _take(self) -> list[Submission]:
        """The reports that have waited longest."""
        batch: list[Submission] = []
        expires_at = int(self._clock()) + self._lifetime
        while self._waiting and len(batch) < MAX_BATCH:
            about = next(iter(self._waiting))
            named = self._waiting.pop(about)
            if len(named) > MAX_REPORTED:
                self._waiting[about] = named[MAX_REPORTED:]
                del named[MAX_REPORTED:]
            self._messages -= len(named)
            sender, device_id, channel, status, reason = about
            report = DeliveryReport(
                status=status, device=device_id, channel=channel, messages=tuple(named), reason=reason
            )
            payload = json_text.dumps(report.to_wire())
            batch.append(
                Submission("", REPORT_CHANNEL, FrameType.GROUP_EVENT, payload, expires_at, (sender,))
            )
        self._room.unpark_all()
        return batch

    # -- storing them ---------------------------------------------------------------------------------

    async def _store(self, submit: Submit) -> None:
        """Commit one batch; again and again while the store cannot take it."""
        self._batch = self._batch or self._take()
        while self._batch:
            batch = self._batch
            left: list[Submission] = []
            told = trio.Event()

            def answer(
                result: _Result,
                batch: list[Submission] = batch,
                left: list[Submission] = left,
                told: trio.Event = told,
            ) -> None:
                left += self._not_stored(batch, result)
                told.set()

            await submit(batch, answer)
            # The journal has it: cancelled from here on, it is not to be stored twice.
            self._batch = []
            await told.wait()
            self._batch = left
            if left:
                await trio.sleep(RETRY_INTERVAL)

    def _not_stored(self, batch: list[Submission], result: _Result) -> list[Submission]:
        """What is to be tried again. A sender that is gone, or whose inbox is full, is not told."""
        if isinstance(result, CommitFailedError):
            return batch
        again: list[Submission] = []
        for report, outcome in zip(batch, result, strict=True):
            assert isinstance(outcome, SubmissionOutcome)
            if outcome.accepted:
                self._counters.reports_stored += 1
            elif any(each.reason is RefusalReason.DISK_LOW for each in outcome.refused):
                again.append(report)
            else:
                self._counters.reports_refused += 1
        return again
