"""What the journal of a store takes: a batch or a piece of work."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs

from commucat_storage.inbox import Operation

WorkT = TypeVar("WorkT")


@attrs.frozen(eq=False)
class JournalEntry(Generic[WorkT]):
    """A batch or a piece of work, and who wants to know what became of it.

    ``done`` is called once, in the event-loop thread, with the outcomes of the batch or the
    result of the work, or with the :class:`StorageError` that kept it from being stored.
    """

    done: Callable[[object], None]
    batch: Sequence[Operation] = ()
    work: WorkT | None = None
    """What a backend can do in its transaction beside batches; which form it has is the backend's matter."""
    rows: int = 1
    size: int = 0
    can_wait: bool = False
    """Nobody waits for its outcome: it may go with whatever comes next."""
    gathers: bool = False
    """It may wait for others of its kind while the event loop has something else to do."""
    only_asks: bool = False
    """It changes nothing, so nothing is written for it."""
