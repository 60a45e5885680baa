"""Work that comes round: leases of presence and sessions, and deleting what has expired."""

from collections.abc import Awaitable, Callable

import structlog
import trio

from commucat_server.ops.counters import Counters
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import ENDED, REVOKED, Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_storage import Storage, StorageError

log = structlog.get_logger("commucat.upkeep")

PURGE_INTERVAL = 60.0
REST_INTERVAL = 10.0
"""A session that sent and received nothing for so long keeps what it needs to go on, and no more."""
PURGE_LEASE = "purge"
"""Renewed at each purge and between its steps; when its holder is killed another node goes on."""
SWEEP_INTERVAL = 5.0
SWEEP_LEASE = "nodes"
REVOCATION_INTERVAL = 0.5
"""Sessions whose token was deleted, because the device was revoked, got another key or logged out, end within
one second, whoever did it, on this server or beside it."""


class Upkeep:
    """One task for all sessions: an idle session costs no timer of its own."""

    def __init__(
        self,
        *,
        storage: Storage,
        registry: Registry,
        presence: PresenceBoard,
        reports: DeliveryReports,
        counters: Counters,
        clock: Callable[[], float],
        presence_ttl: int,
        keepalive: int,
        revoked: Callable[[str], None] | None = None,
        expired: Callable[[int], None] | None = None,
    ) -> None:
        self._purge_wanted = trio.Event()
        # For the audit: devices whose sessions were ended, and how many messages were deleted unconfirmed.
        self._revoked = revoked
        self._expired = expired
        self._ended: set[str] = set()
        self._storage = storage
        self._registry = registry
        self._presence = presence
        self._reports = reports
        self._counters = counters
        self._clock = clock
        self._presence_interval = max(1.0, presence_ttl / 3)
        self._session_interval = max(1.0, keepalive / 2)

    async def run(self) -> None:
        """Never returns; a store that fails is told in the log and tried again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._every, self._presence_interval, self._presence.refresh)
            nursery.start_soon(self._every, self._session_interval, self._refresh_sessions)
            nursery.start_soon(self._purges)
            nursery.start_soon(self._every, REST_INTERVAL, self.rest)
            nursery.start_soon(self._every, SWEEP_INTERVAL, self.sweep_nodes)
            nursery.start_soon(self._every, REVOCATION_INTERVAL, self.end_revoked)

    async def _every(self, interval: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await trio.sleep(interval)
            await self._attempt(work)

    async def _purges(self) -> None:
        while True:
            with trio.move_on_after(PURGE_INTERVAL):
                await self._purge_wanted.wait()
            self._purge_wanted = trio.Event()
            await self._attempt(self.purge)

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except StorageError as exc:
            log.error("upkeep failed", work=getattr(work, "__name__", ""), reason=str(exc))

    def purge_soon(self) -> None:
        """A device was revoked: its queue need not wait for the next round."""
        self._purge_wanted.set()

    async def _refresh_sessions(self) -> None:
        now = int(self._clock())
        for session in self._registry:
            await self._storage.refresh_session(session.token_hash, now)

    async def rest(self) -> None:
        """Let silent sessions give back memory."""
        for session in self._registry:
            session.rest()

    async def end_revoked(self) -> None:
        """End sessions that are not in the store any more."""
        sessions = list(self._registry)
        self._ended &= {session.device_id for session in sessions}  # one may need a moment to end
        if not sessions:
            return
        ended = await self._storage.sessions_ended([session.token_hash for session in sessions])
        if not ended:
            return
        over = [session for session in sessions if session.token_hash in ended]
        revoked = await self._storage.not_active([session.device_id for session in over])
        for session in over:
            if session.device_id not in revoked:
                session.end(ENDED)
        for device_id in revoked:
            self._registry.end_device(device_id, REVOKED)
            if self._revoked is not None and device_id not in self._ended:
                self._revoked(device_id)
            self._ended.add(device_id)

    async def sweep_nodes(self) -> None:
        """Give free the sessions of nodes that have died; one node does it for all."""
        if await self._storage.take_lease(SWEEP_LEASE, 2 * SWEEP_INTERVAL):
            for node in await self._storage.sweep_nodes():
                log.warning("a node has died", node=node)

    async def purge(self) -> None:
        """Delete what has expired, and have it told to senders that asked; one node does it for all."""
        more = True
        while more and await self._storage.take_lease(PURGE_LEASE, 2 * PURGE_INTERVAL):
            purged = await self._storage.purge_expired(int(self._clock()))
            self._counters.messages_expired += purged.messages
            if purged.messages and self._expired is not None:
                self._expired(purged.messages)
            if purged.messages:
                log.info("expired messages purged", messages=purged.messages)
            await self._reports.expired(purged.expired)
            more = purged.more
