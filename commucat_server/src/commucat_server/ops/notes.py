"""Records on their way from a command to the ledger, through the store.

One process writes the ledger. A command that changes accounts beside it leaves its records in the store, and
the server takes them from there: at least once, so a record may come twice if it is killed meanwhile.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from commucat_ledger import LedgerRecord
from commucat_server.identity.tokens import new_event_id
from commucat_storage import AuditNote, Storage

BATCH = 100


class Notes:
    """Takes the records of an :class:`Audit`, to be left in the store."""

    def __init__(self) -> None:
        self._notes: list[AuditNote] = []

    def offer(self, record: LedgerRecord) -> None:
        """Take a record; nothing is stored yet."""
        self._notes.append(
            AuditNote(
                note_id=new_event_id(),
                digest=record.digest,
                metadata=json.dumps(record.metadata),
                recorded_at=int(record.recorded_at.timestamp()),
            )
        )

    async def leave(self, storage: Storage) -> None:
        """Store what was taken.

        Raises:
            StorageError: it is not stored.
        """
        notes, self._notes = self._notes, []
        if notes:
            await storage.leave_notes(notes)


async def collect_notes(storage: Storage, record: Callable[[bytes, dict[str, Any]], None]) -> int:
    """Hand over what commands have left; how many records it was.

    Raises:
        StorageError: the store cannot be read or written.
    """
    count = 0
    while notes := await storage.waiting_notes(BATCH):
        for note in notes:
            metadata = json.loads(note.metadata)
            told_at = datetime.fromtimestamp(note.recorded_at, UTC).isoformat()
            record(note.digest, metadata | {"reported_at": told_at})
        await storage.forget_notes([note.note_id for note in notes])
        count += len(notes)
    return count
