"""Commit, then deliver, then delete: the one way of a durable message.

Nobody sees a message, and no sender is told that it was accepted, before its row is on
disk. Deliveries to live sessions happen here and nowhere else, in commit order, inside the
journal's completion call.
"""

from collections.abc import Callable, Sequence

from commucat_server.ops.counters import Counters
from commucat_server.routing.registry import Registry
from commucat_storage import (
    ChangeGroup,
    CommitFailedError,
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

    def __init__(self, storage: Storage, registry: Registry, counters: Counters) -> None:
        self._storage = storage
        self._registry = registry
        self._counters = counters

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

    def _deliver(self, batch: Sequence[Operation], outcomes: Sequence[Outcome]) -> None:
        receiver = self._registry.receiver
        for operation, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, SubmissionOutcome) and isinstance(operation, Submission):
                accepted, payload = outcome.accepted, operation.payload
            elif isinstance(outcome, GroupOutcome) and isinstance(
                operation, CreateGroup | InviteMember | ChangeGroup
            ):
                accepted, payload = outcome.notice.accepted, operation.notice
            else:
                continue
            self._counters.relay_enqueued += len(accepted)
            for device_id, number in accepted:
                session = receiver(device_id)
                if session is not None:
                    session.offer(number, operation.frame_type, operation.channel, payload)
