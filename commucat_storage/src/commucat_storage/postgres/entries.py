"""What the journal of PostgreSQL commits, and the results of it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import attrs

from commucat_storage.journal_entry import JournalEntry
from commucat_storage.postgres.connection import Connection


@attrs.frozen
class Within:
    """The open transaction, for work that is not a batch of the journal."""

    connection: Connection
    disk_is_low: bool


Work = Callable[[Within], Awaitable[object]]

Entry: TypeAlias = JournalEntry[Work]


def completed(entries: Sequence[Entry], results: Sequence[object]) -> list[object]:
    """The results of the first entries; call it when everything is written.

    Only then are the outcomes of the batches complete, see :meth:`Group.apply`.
    """
    return [
        tuple(result) if isinstance(result, list) and entry.work is None else result
        for entry, result in zip(entries, results, strict=False)
    ]
