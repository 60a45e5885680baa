"""Key events that have grown old: written to a file, and only then deleted from the store."""

from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from commucat_server.ops.audit import Audit
from commucat_storage import Storage, StorageError
from commucat_storage.key_archive import ARCHIVE_NAME, append_events

log = structlog.get_logger("commucat.upkeep")

INTERVAL = 3600.0
STEP_EVENTS = 500


class KeyEventArchive:
    """Moves events older than ``retention`` seconds to ``<directory>/key-events.jsonl``.

    The newest event of a device always stays in the store. A crash between writing and deleting leaves an
    event in both; readers go by its id.
    """

    def __init__(
        self, *, storage: Storage, audit: Audit, directory: Path, retention: int, clock: Callable[[], float]
    ) -> None:
        self._storage = storage
        self._audit = audit
        self._path = directory / ARCHIVE_NAME
        self._retention = retention
        self._clock = clock

    async def run(self) -> None:
        """Never returns; trouble is told in the log, and tried again."""
        while True:
            try:
                await self.archive()
            except (StorageError, OSError) as exc:
                log.error("key events not archived", reason=str(exc))
            await trio.sleep(INTERVAL)

    async def archive(self) -> int:
        """Move what is old enough; returns how many events.

        Raises:
            StorageError, OSError: something failed; nothing was deleted that is not in the file.
        """
        total = 0
        before = int(self._clock()) - self._retention
        while events := await self._storage.old_key_events(before, STEP_EVENTS):
            content = await trio.to_thread.run_sync(append_events, self._path, events)
            await self._storage.forget_key_events([event.event_id for event in events])
            self._audit.key_events_archived(len(events), self._path.name, content)
            total += len(events)
        if total:
            log.info("key events archived", events=total, archive=str(self._path))
        return total
