"""Where inboxes stood at the last commit of this process, and which of them others write to as well."""

import time
from collections.abc import Iterable

from commucat_storage.device_inbox import Inbox, offsets_of
from commucat_storage.postgres.connection import Row
from commucat_storage.postgres.remembered import Generations, Relations

_OWNER = 12
"""The place of the owner in a row."""
_FOREIGN_SECONDS = 5.0
"""For so long after another process has written to an inbox it is read before it is written."""


class Standings:
    """Rows of ``inbox_offset`` as :data:`INBOX_COLUMNS` has them. They may be out of date; whoever uses one
    compares it with the database under the lock."""

    def __init__(self, capacity: int) -> None:
        self._rows: Generations[Row] = Generations(capacity)
        self._foreign: Generations[float] = Generations(capacity)

    def trusted(self, device_id: str) -> Row | None:
        """The row, unless another process has written to the inbox lately."""
        if (until := self._foreign.get(device_id)) is not None:
            if time.monotonic() < until:
                return None
            self._foreign.forget((device_id,))
        return self._rows.get(device_id)

    def see(self, row: Row) -> None:
        """The row as it was just read; if it is not the remembered one, another process was there."""
        known = self._rows.get(row[0])
        if known != row:
            # A connect changes the owner, beside the journal: that is no other writer.
            if known is not None and (*known[:_OWNER], *known[_OWNER + 1 :]) != (
                *row[:_OWNER],
                *row[_OWNER + 1 :],
            ):
                self._foreign.put(row[0], time.monotonic() + _FOREIGN_SECONDS, 1)
            self._rows.put(row[0], row, 1)

    def keep(self, inboxes: Iterable[tuple[str, Inbox]], relations: Generations[Relations]) -> None:
        """The inboxes as they stand after a commit."""
        for device_id, inbox in inboxes:
            before = self._rows.get(device_id)
            known = relations.get(device_id)
            if known is None or before is None:
                self._rows.forget((device_id,))
                continue
            row = (
                device_id,
                *offsets_of(inbox),
                inbox.owner,
                known.version,
            )
            if row != before:
                self._rows.put(device_id, row, 1)

    def forget(self, device_ids: Iterable[str]) -> None:
        """Nothing is known of these any more."""
        self._rows.forget(device_ids)
