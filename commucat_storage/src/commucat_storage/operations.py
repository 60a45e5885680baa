"""What is checked of a batch before the journal takes it."""

from collections.abc import Sequence

from commucat_storage.inbox import MAX_INBOX_NUMBER, Confirm, DropRoute, Operation, SetRoute, Submission

MAX_CHANNEL = 2**32 - 1
MAX_FRAME_TYPE = 255
LATEST_EXPIRY = 2**62 - 1


def check_batch(batch: Sequence[Operation]) -> tuple[int, int]:
    """Check the ranges; return the rows (recipients) and payload bytes that the batch may store.

    A message that follows its sender's route counts as one row, because its recipients are known
    only when it is stored.

    Raises:
        ValueError: the batch is empty, or a number in it is out of range.
    """
    if not batch:
        raise ValueError("an empty batch")
    rows = size = 0
    for operation in batch:
        if isinstance(operation, Submission):
            if not 0 <= operation.channel <= MAX_CHANNEL:
                raise ValueError(f"channel {operation.channel} is out of range")
            if not 0 <= operation.frame_type <= MAX_FRAME_TYPE:
                raise ValueError(f"frame type {operation.frame_type} is out of range")
            if not 0 <= operation.expires_at <= LATEST_EXPIRY:
                raise ValueError(f"expiry {operation.expires_at} is out of range")
            rows += len(operation.recipients or ()) or 1
            size += len(operation.payload)
        elif isinstance(operation, Confirm):
            if not 0 <= operation.number <= MAX_INBOX_NUMBER:
                raise ValueError(f"inbox number {operation.number} is out of range")
            rows += 1
        elif isinstance(operation, SetRoute | DropRoute):
            if not 0 <= operation.channel <= MAX_CHANNEL:
                raise ValueError(f"channel {operation.channel} is out of range")
            rows += 1
        else:
            raise ValueError(f"not an operation: {operation!r}")
    return rows, size
