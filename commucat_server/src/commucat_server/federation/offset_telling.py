"""Tells other servers how far the devices of linked accounts have read.

One query every few seconds finds what has changed since it was told; no message waits for it, nor is anything
noted when one comes. What is told replaces what was told before, so there is never more than one event for a
link in an outbox: while a peer is away its users' numbers may change as they like, and it gets the last ones.
"""

from collections.abc import Callable
from typing import Final, NoReturn

import structlog
import trio

from commucat_proto import json_text
from commucat_proto.federation import DeviceOffset, OffsetsEntry
from commucat_server.federation.event_window import EventWindow
from commucat_server.federation.queueing import NotQueuedError, queue
from commucat_server.routing.inbox import Inbox
from commucat_storage import INBOX_OFFSETS, InboxOffset, OffsetsToTell, Storage, StorageError

log = structlog.get_logger("commucat.federation")

INTERVAL: Final = 3.0
"""Seconds between two looks: so often at most a link is told of, and so late its last change."""
REST: Final = 20.0
"""The pause is at least so many times as long as the query took: with tens of thousands of links the looks
become fewer, and cost no more than a twentieth of one thread."""
MOST_LINKS: Final = 256
"""Of one look. The others come first in the next one."""


class OffsetTelling:
    """One per server; the node that carries for all does it."""

    def __init__(
        self,
        *,
        storage: Storage,
        inbox: Inbox,
        window: EventWindow,
        clock: Callable[[], float],
        carries: Callable[[], bool],
    ) -> None:
        """``carries``: whether this node is the one."""
        self._storage = storage
        self._inbox = inbox
        self._window = window
        self._clock = clock
        self._carries = carries
        self._took = 0.0
        """Seconds of the last query."""

    async def run(self) -> NoReturn:
        """Never returns."""
        while True:
            if self._carries():
                try:
                    await self.tell()
                except StorageError as exc:
                    log.warning("offsets of linked accounts cannot be told", reason=str(exc))
            await trio.sleep(max(INTERVAL, REST * self._took))

    async def tell(self) -> int:
        """Queue what has changed; of how many links.

        Raises:
            StorageError: the store failed; what was not told is found again.
        """
        begin = trio.current_time()
        changed = await self._storage.offsets_to_tell(MOST_LINKS)
        self._took = trio.current_time() - begin
        queued = 0
        refusal: NotQueuedError | None = None
        for each in changed:
            try:
                await self._queue(each)
                queued += 1
            except NotQueuedError as exc:
                refusal = exc
        if refusal is not None:
            log.warning("offsets of linked accounts cannot be told", reason=str(refusal))
        return queued

    async def _queue(self, told: OffsetsToTell) -> None:
        version = max(int(self._clock() * 1_000_000), told.version + 1)
        entry = OffsetsEntry(
            user=told.handle,
            account=told.account,
            version=version,
            offsets=[_offset(each) for each in told.offsets],
        )
        number = await queue(
            self._inbox,
            told.account.partition("@")[2],
            INBOX_OFFSETS,
            json_text.dumps(entry.to_wire()),
            int(self._clock()) + self._window.lifetime,
            "an offset",
        )
        # Only now: if the process dies in between it is told again, which does no harm.
        await self._storage.note_told(told, version, number)


def _offset(of: InboxOffset) -> DeviceOffset:
    return DeviceOffset(
        device=of.device_id,
        epoch=of.epoch,
        next=of.next_number,
        confirmed=of.confirmed,
        waiting=of.waiting,
    )
