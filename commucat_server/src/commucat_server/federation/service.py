"""Federation of one server: what it knows of others, what it carries to them, and what it takes of them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn

import structlog
import trio

from commucat_server.federation.account_links import AccountLinks
from commucat_server.federation.courier import Courier
from commucat_server.federation.figures import PeerFigures
from commucat_server.federation.friends import RemoteFriends
from commucat_server.federation.inbound import Inbound
from commucat_server.federation.offset_telling import OffsetTelling
from commucat_server.federation.peers import PeerDirectory
from commucat_server.federation.presence import RemotePresence
from commucat_server.federation.queries import PeerAnswers, PeerQuestions
from commucat_server.ops.counters import Counters
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.hints import PeerNews
from commucat_storage import StorageError, domain_of

log = structlog.get_logger("commucat.federation")

REFRESH_INTERVAL: Final = 30.0
"""Seconds between two looks at the stored peers; a change by a command is seen at once, by its record."""
GATHER: Final = 0.01
"""Seconds in which news for the node that carries gather."""


class Federation:
    """One per server, where federation is enabled."""

    def __init__(
        self,
        *,
        directory: PeerDirectory,
        courier: Courier,
        inbound: Inbound,
        friends: RemoteFriends,
        links: AccountLinks,
        telling: OffsetTelling,
        questions: PeerQuestions,
        answers: PeerAnswers,
        cluster: Cluster,
        counters: Counters,
        presence: RemotePresence | None,
        description: dict[str, Any],
        figures: Callable[[], Awaitable[Sequence[PeerFigures]]],
    ) -> None:
        self.directory = directory
        self.courier = courier
        self.inbound = inbound
        self.friends = friends
        self.links = links
        self.telling = telling
        self.questions = questions
        self.answers = answers
        self.presence = presence
        """None: presence of other servers is not wanted."""
        self.description = description
        """What the world is told of this server."""
        self.figures = figures
        """How it stands with each peer."""
        self._cluster = cluster
        self._counters = counters
        self._news: dict[str, bool] = {}
        self._newer = trio.lowlevel.ParkingLot()
        courier.elsewhere = self._tell_elsewhere
        cluster.on_federation(self._heard_elsewhere)

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._refresh)
            nursery.start_soon(self._tell)
            nursery.start_soon(self.courier.run)
            nursery.start_soon(self.telling.run)
            if self.presence is not None:
                nursery.start_soon(self.presence.run)

    async def changed(self) -> None:
        """An operator has changed peers, or wants them tried now.

        Raises:
            StorageError: the store failed.
        """
        await self.directory.refresh()
        self.courier.hurry_all()

    def committed(self, devices: Sequence[str]) -> None:
        """Messages for devices of other servers were committed."""
        self._counters.federation_outbox_enqueued += len(devices)
        for domain in {domain_of(device_id) for device_id in devices}:
            if domain is not None:
                self.courier.wake(domain)

    async def _refresh(self) -> NoReturn:
        while True:
            try:
                await self.directory.refresh()
            except StorageError as exc:
                log.warning("stored peers cannot be read", reason=str(exc))
            await trio.sleep(REFRESH_INTERVAL)

    # -- other nodes ----------------------------------------------------------------------------------

    def _tell_elsewhere(self, domain: str, heard: bool) -> None:
        if self._cluster.shared:
            self._news[domain] = self._news.get(domain, False) or heard
            self._newer.unpark_all()

    async def _tell(self) -> NoReturn:
        while True:
            while not self._news:
                await self._newer.park()
            await trio.sleep(GATHER)
            news, self._news = self._news, {}
            for domain, heard in news.items():
                self._cluster.tell_of_peer(PeerNews(domain, heard))

    def _heard_elsewhere(self, news: PeerNews) -> None:
        # Not told on: it comes from every node but the one that carries.
        if self.courier.carries:
            if news.heard:
                self.courier.heard(news.domain)
            else:
                self.courier.wake(news.domain)
