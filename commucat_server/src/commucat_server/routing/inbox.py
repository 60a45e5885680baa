"""Commit, then deliver, then delete: the one way of a durable message.

Nobody sees a message, and no sender is told that it was accepted, before its row is on
disk. Deliveries to live sessions happen here and nowhere else, in commit order, inside the
journal's completion call.
"""

from collections.abc import Callable, Sequence

from commucat_server.ops.counters import Counters
from commucat_server.routing.registry import Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_storage import (
    ChangeGroup,
    CommitFailedError,
    Confirm,
    ConfirmOutcome,
    CreateGroup,
    GroupOutcome,
    InviteMember,
    Operation,
    Outcome,
    Storage,
    Submission,
    SubmissionOutcome,
)

Answer = Callable[[tuple[Outcome, ...] | CommitFailedError], None]


class Inbox:
    """Puts batches into the journal and hands what was committed to whoever is connected."""

    def __init__(
        self, storage: Storage, registry: Registry, counters: Counters, reports: DeliveryReports
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._counters = counters
        self._reports = reports
        # Who has something to send, while the outcomes of one commit are told; None otherwise.
        self._woken: dict[Callable[[], None], None] | None = None
        storage.on_rounds(self._begin_round, self._end_round)

    async def submit(self, batch: Sequence[Operation], answer: Answer) -> None:
        """Take a batch; wait only for room in the journal, never for a receiver.

        ``answer`` is called once the batch is on disk (after its messages were handed to
        their live receivers) or has failed.
        """

        def done(result: tuple[Outcome, ...] | CommitFailedError) -> None:
            if isinstance(result, CommitFailedError):
                self._counters.commits_failed += 1  # The store logs why, once for as long as it fails.
            else:
                self._deliver(batch, result)
            answer(result)

        try:
            await self._storage.enqueue(batch, done)
        except CommitFailedError as exc:
            done(exc)  # The journal takes nothing any more: to a sender that is one more failed commit.

    async def confirm(self, confirmation: Confirm) -> ConfirmOutcome:
        """Store a confirmation and wait until it is on disk.

        Raises:
            CommitFailedError: it is not.
        """
        [outcome] = await self._storage.commit([confirmation])
        assert isinstance(outcome, ConfirmOutcome)
        self._deliver([confirmation], [outcome])
        return outcome

    def wake(self, flush: Callable[[], None]) -> bool:
        """``flush`` is called once when everything that was committed together has been handed out;
        ``False`` if nothing is being handed out now."""
        if self._woken is None:
            return False
        self._woken[flush] = None
        return True

    def _begin_round(self) -> None:
        self._woken = {}

    def _end_round(self) -> None:
        woken, self._woken = self._woken, None
        for flush in woken or ():
            flush()

    def hurry(self) -> None:
        """Let nothing that was submitted wait for company; for callers that wait for its answer."""
        self._storage.hurry()

    async def settle(self) -> None:
        """Return when everything that was submitted before is on disk or has failed, and was told.

        Raises:
            CommitFailedError: the store is closed, or fails.
        """
        await self._storage.settle()

    def _deliver(self, batch: Sequence[Operation], outcomes: Sequence[Outcome]) -> None:
        committed = self._registry.committed
        for operation, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, SubmissionOutcome) and isinstance(operation, Submission):
                accepted, payload = outcome.accepted, operation.payload
                if outcome.copied:
                    accepted += outcome.copied
            elif isinstance(outcome, GroupOutcome) and isinstance(
                operation, CreateGroup | InviteMember | ChangeGroup
            ):
                accepted, payload = outcome.notice.accepted, operation.notice
            else:
                if isinstance(outcome, ConfirmOutcome) and isinstance(operation, Confirm):
                    self._counters.relay_confirmed += outcome.applied
                    if outcome.reports or outcome.unreported:
                        self._reports.confirmed(operation.device_id, outcome)
                continue
            self._counters.relay_enqueued += len(accepted)
            for device_id, number in accepted:
                session = committed(device_id, number)
                if session is not None:
                    session.offer(number, operation.frame_type, operation.channel, payload)
