"""The one writer of a process: a task that commits whatever has been queued as one transaction."""

import functools
import logging
import time
from collections import deque

import trio

from commucat_storage import journal
from commucat_storage.asyncio_loop import AsyncioLoop
from commucat_storage.nodes import Elsewhere
from commucat_storage.postgres.connection import MISTAKES, place_of, translate
from commucat_storage.postgres.entries import Entry, Work
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.postgres.writer import Writer

_log = logging.getLogger(__name__)


class Journal(journal.Journal[Work]):
    """Queues entries and commits them in order. Its task runs until it is closed."""

    def __init__(self, loop: AsyncioLoop, dsn: str, settings: PostgresSettings) -> None:
        super().__init__(settings, runner="task", medium="the database", place=place_of(dsn))
        self._loop = loop
        self._dsn = dsn
        self._settings = settings
        self._writer = Writer(dsn, settings)
        self._queue: deque[Entry] = deque()
        self._more = trio.Event()
        self._closing = False
        self._elsewhere: Elsewhere | None = None
        # Trio's own task, which no scope of a caller reaches: what was taken is committed even when
        # everybody around is cancelled. It ends in aclose.
        trio.lowlevel.spawn_system_task(self._run, name="commucat-journal")

    def on_elsewhere(self, told: Elsewhere, node: str) -> None:
        """Call this after each commit for sessions on other nodes than ``node``."""
        self._elsewhere = told
        self._writer.node = node

    def _queue_up(self, entries: list[Entry]) -> None:
        self._queue += entries
        self._more.set()

    def _end(self) -> None:
        self._closing = True
        self._more.set()

    async def _run(self) -> None:
        crash: BaseException | None = None
        try:
            while await self._wait_for_more():
                await self._commit(self._next_group())
            await self._loop.run(self._writer.close)
        except BaseException as exc:  # noqa: BLE001 - raised by wait_failed and aclose
            crash = exc
            _log.critical("the journal's task died", exc_info=exc)
        self._finish(crash)

    async def _wait_for_more(self) -> bool:
        """Wait for the first entry of a group; False when there will be none."""
        while not self._queue:
            if self._closing:
                return False
            self._more = trio.Event()
            await self._more.wait()
        return True

    def _next_group(self) -> list[Entry]:
        """Everything queued, up to the caps."""
        group: list[Entry] = []
        rows = size = 0
        while self._queue and rows < self._settings.group_rows and size < self._settings.group_bytes:
            entry = self._queue.popleft()
            group.append(entry)
            rows += entry.rows
            size += entry.size
        return group

    async def _commit(self, group: list[Entry]) -> None:
        while group:
            began = time.perf_counter()
            try:
                results = await self._loop.run(functools.partial(self._writer.commit, group))
            except Exception as exc:  # noqa: BLE001 - every kind of failure is told to those concerned
                if len(group) > 1 and isinstance(exc, MISTAKES):
                    # One entry is at fault: alone it harms nobody else.
                    for entry in group:
                        await self._commit([entry])
                    return
                results = self._failures(group, exc)
            else:
                self._succeeded(time.perf_counter() - began)
                self._tell_others()
            self._tell(group[: len(results)], results)
            group = group[len(results) :]

    def _tell_others(self) -> None:
        elsewhere = self._writer.take_elsewhere()
        if elsewhere and self._elsewhere is not None:
            self._shielded(self._elsewhere, elsewhere)

    def _explain(self, error: Exception) -> str:
        return str(translate(error, self._dsn))
