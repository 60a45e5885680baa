"""Carries what waits for other servers. One node of a cluster does it for all, by a lease."""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from commucat_server.federation.lane import Lane, LaneServices
from commucat_storage import StorageError

log = structlog.get_logger("commucat.federation")

LEASE: Final = "federation"
LEASE_SECONDS: Final = 15.0
"""What a node that is killed may cost: so long nobody carries anything."""
RENEW_INTERVAL: Final = 5.0
LOOK_INTERVAL: Final = 2.0
"""Seconds between two looks for outboxes that are not empty: for what other processes have put there, if
the hint was lost."""


class Courier:
    """One per server. Lanes are made when there is something to carry."""

    def __init__(self, services: LaneServices) -> None:
        self._services = services
        self._lanes: dict[str, Lane] = {}
        self._nursery: trio.Nursery | None = None
        self.elsewhere: Callable[[str, bool], None] | None = None
        """Called with a domain, and whether its peer was heard, when another node carries."""

    @property
    def carries(self) -> bool:
        """Whether this node is the one."""
        return self._nursery is not None

    def wake(self, domain: str) -> None:
        """Something was committed to this outbox."""
        if self._nursery is not None:
            self._lane(domain).wake()
        elif self.elsewhere is not None:
            self.elsewhere(domain, False)

    def heard(self, domain: str) -> None:
        """The peer has shown that it lives: what waits for it is tried at once."""
        if self._nursery is not None:
            lane = self._lanes.get(domain)
            if lane is not None and lane.waiting:
                lane.hurry()
        elif self.elsewhere is not None:
            self.elsewhere(domain, True)

    def hurry_all(self) -> None:
        """An operator has changed something."""
        for lane in self._lanes.values():
            lane.hurry()

    async def run(self) -> None:
        """Never returns."""
        while True:
            if await self._has_lease():
                log.debug("carries for other servers")
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    try:
                        nursery.start_soon(self._look)
                        await self._keep_lease()
                    finally:
                        self._nursery = None
                        self._lanes = {}
                        nursery.cancel_scope.cancel()
            await trio.sleep(RENEW_INTERVAL)

    async def _keep_lease(self) -> None:
        """Returns when another node has it, or when it could not be renewed in time."""
        good_until = trio.current_time() + LEASE_SECONDS
        while trio.current_time() < good_until - RENEW_INTERVAL / 2:
            await trio.sleep(RENEW_INTERVAL)
            asked_at = trio.current_time()
            try:
                if not await self._services.storage.take_lease(LEASE, LEASE_SECONDS):
                    return
            except StorageError as exc:
                log.warning("the lease of federation cannot be renewed", reason=str(exc))
                continue
            good_until = asked_at + LEASE_SECONDS

    async def _has_lease(self) -> bool:
        try:
            return await self._services.storage.take_lease(LEASE, LEASE_SECONDS)
        except StorageError as exc:
            log.warning("the lease of federation cannot be taken", reason=str(exc))
            return False

    async def _look(self) -> None:
        while True:
            try:
                for standing in await self._services.storage.outboxes():
                    if standing.rows and standing.open:
                        self._lane(standing.domain).wake()
            except StorageError as exc:
                log.warning("outboxes cannot be looked at", reason=str(exc))
            await trio.sleep(LOOK_INTERVAL)

    def _lane(self, domain: str) -> Lane:
        lane = self._lanes.get(domain)
        if lane is None:
            assert self._nursery is not None, "only the node that carries has lanes"
            lane = self._lanes[domain] = Lane(domain, self._services)
            self._nursery.start_soon(lane.run)
        return lane
