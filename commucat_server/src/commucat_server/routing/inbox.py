"""Commit, then deliver, then delete: the one way of a durable message.

Nobody sees a message, and no sender is told that it was accepted, before its row is on
disk. Deliveries to live sessions happen here and nowhere else, in commit order, inside the
journal's completion call.
"""

from collections.abc import Callable, Sequence

from commucat_proto import FrameTemplate, FrameType
from commucat_server.listener.outflow import MANY, Flush, Outflow
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
        self,
        storage: Storage,
        registry: Registry,
        counters: Counters,
        reports: DeliveryReports,
        outflow: Outflow | None = None,
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._counters = counters
        self._reports = reports
        self.outflow = outflow or Outflow()
        self.on_group_change: Callable[[CreateGroup | InviteMember | ChangeGroup], None] | None = None
        """Told of every change of a group that is committed; for the audit."""
        self.on_commit: Callable[[Sequence[Operation], Sequence[Outcome]], None] | None = None
        """Told of every batch that is committed, before it is delivered; for an audit of deliveries."""
        self.on_remote: Callable[[Sequence[str]], None] | None = None
        """Told of messages for devices of other servers, once they are committed."""
        storage.on_rounds(self.outflow.begin, self.outflow.end)
        self.outflow.gap = storage.attend

    async def submit(self, batch: Sequence[Operation], answer: Answer) -> None:
        """Take a batch; wait only for room in the journal, never for a receiver.

        ``answer`` is called once the batch is on disk or has failed, and what it queues for sessions goes
        out before the batch's deliveries if these are many.
        """
        done = self._done(batch, answer)
        try:
            await self._storage.enqueue(batch, done)
        except CommitFailedError as exc:
            done(exc)  # The journal takes nothing any more: to a sender that is one more failed commit.

    def submit_now(self, batch: Sequence[Operation], answer: Answer) -> bool:
        """:meth:`submit` if the journal has room; ``False``, and nothing is taken, if not."""
        done = self._done(batch, answer)
        try:
            return self._storage.enqueue_now(batch, done)
        except CommitFailedError as exc:
            done(exc)
            return True

    def _done(
        self, batch: Sequence[Operation], answer: Answer
    ) -> Callable[[tuple[Outcome, ...] | CommitFailedError], None]:
        def done(result: tuple[Outcome, ...] | CommitFailedError) -> None:
            if isinstance(result, CommitFailedError):
                self._counters.commits_failed += 1  # The store logs why, once for as long as it fails.
                answer(result)
            elif self._deliver(batch, result) > MANY:
                # The sender has waited for the disk. With a few receivers their deliveries go first, for
                # somebody waits to read them.
                self.outflow.hasten(True)
                answer(result)
                self.outflow.hasten(False)
            else:
                answer(result)

        return done

    async def confirm(self, confirmation: Confirm) -> ConfirmOutcome:
        """Store a confirmation and wait until it is on disk.

        Raises:
            CommitFailedError: it is not.
        """
        [outcome] = await self._storage.commit([confirmation])
        assert isinstance(outcome, ConfirmOutcome)
        self._deliver([confirmation], [outcome])
        return outcome

    def wake(self, flush: Flush) -> bool:
        """``flush`` is called once when everything that was committed together has been handed out;
        ``False`` if nothing is being handed out now."""
        return self.outflow.add(flush)

    def hurry(self) -> None:
        """Let nothing that was submitted wait for company; for callers that wait for its answer."""
        self._storage.hurry()

    async def settle(self) -> None:
        """Return when everything that was submitted before is on disk or has failed, and was told.

        Raises:
            CommitFailedError: the store is closed, or fails.
        """
        await self._storage.settle()

    def _deliver(self, batch: Sequence[Operation], outcomes: Sequence[Outcome]) -> int:
        """Hand the batch's messages to their live receivers; the most that one of them had, live or not."""
        if self.on_commit is not None:
            self.on_commit(batch, outcomes)
        most = 0
        committed = self._registry.committed
        for operation, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, SubmissionOutcome) and isinstance(operation, Submission):
                accepted, payload = outcome.accepted, operation.payload
                told: tuple[str, ...] = ()
                if outcome.copied:
                    accepted += outcome.copied
            elif isinstance(outcome, GroupOutcome) and isinstance(
                operation, CreateGroup | InviteMember | ChangeGroup
            ):
                accepted, payload = outcome.notice.accepted, operation.notice
                told = outcome.told
                if (
                    outcome.refused is None
                    and not (outcome.forwarded or outcome.duplicate)
                    and self.on_group_change is not None
                ):
                    self.on_group_change(operation)
            else:
                if isinstance(outcome, ConfirmOutcome) and isinstance(operation, Confirm):
                    self._counters.relay_confirmed += outcome.applied
                    if outcome.reports or outcome.unreported:
                        self._reports.confirmed(operation.device_id, outcome)
                continue
            self._counters.relay_enqueued += len(accepted)
            most = max(most, len(accepted))
            frame_type, channel = operation.frame_type, operation.channel
            template = None
            if len(accepted) > 1:
                template = FrameTemplate(FrameType(frame_type), channel, payload)
            remote = list(told)
            for device_id, number in accepted:
                session = committed(device_id, number)
                if session is not None:
                    session.offer(number, frame_type, channel, payload, template)
                elif "@" in device_id:
                    remote.append(device_id)
            if remote and self.on_remote is not None:
                self.on_remote(remote)
        return most
