"""Puts into the outbox of a domain what this server itself tells the other one."""

import trio

from commucat_server.routing.inbox import Inbox
from commucat_storage import CommitFailedError, Outcome, Submission, SubmissionOutcome, outbox_of


class NotQueuedError(Exception):
    """It did not get into the outbox. One line."""


async def queue(inbox: Inbox, domain: str, row_type: int, payload: bytes, expires_at: int, what: str) -> int:
    """The number of the row, which is on disk.

    Args:
        row_type: see :mod:`commucat_server.federation.outgoing`.
        expires_at: Unix seconds.
        what: it is, for the error.

    Raises:
        NotQueuedError: try again.
    """
    submission = Submission("", 0, row_type, payload, expires_at, (outbox_of(domain),))
    failed: list[str] = []
    numbers: list[int] = []
    told = trio.Event()

    def answer(result: tuple[Outcome, ...] | CommitFailedError) -> None:
        if isinstance(result, CommitFailedError):
            failed.append(str(result))
        else:
            for outcome in result:
                assert isinstance(outcome, SubmissionOutcome), "only a submission was asked for"
                numbers.extend(number for _, number in outcome.accepted)
                failed.extend(refusal.reason.value for refusal in outcome.refused)
        told.set()

    await inbox.submit([submission], answer)
    await told.wait()
    if not numbers:
        raise NotQueuedError(f"{what} was not queued for {domain}: {failed[0]}")
    return numbers[0]
