"""Federation of one server: what it knows of others, what it carries to them, and what it takes of them."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import structlog
import trio

from commucat_crypto import DeviceKeyPair
from commucat_server.config import ServerConfig
from commucat_server.federation.backoff import Backoff
from commucat_server.federation.client import open_peer_client
from commucat_server.federation.courier import Courier
from commucat_server.federation.event_window import EventWindow
from commucat_server.federation.figures import PeerFigures, peer_figures
from commucat_server.federation.friends import RemoteFriends
from commucat_server.federation.inbound import Inbound
from commucat_server.federation.lane import LaneServices
from commucat_server.federation.outgoing import EventSigner
from commucat_server.federation.peers import PeerDirectory
from commucat_server.federation.presence import RemotePresence
from commucat_server.federation.queries import PeerAnswers, PeerQuestions
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.ops.counters import Counters
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.friend_notices import FriendNotices
from commucat_server.routing.hints import PeerNews
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_server.security.rate import RateLimit
from commucat_server.version import server_version
from commucat_storage import Storage, StorageError, domain_of

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
        self.questions = questions
        self.answers = answers
        self._presence = presence
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
            if self._presence is not None:
                nursery.start_soon(self._presence.run)

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


@asynccontextmanager
async def open_federation(
    config: ServerConfig,
    keys: DeviceKeyPair,
    storage: Storage,
    inbox: Inbox,
    reports: DeliveryReports,
    cluster: Cluster,
    counters: Counters,
    issuer: CertificateIssuer,
    notices: FriendNotices,
    registry: Registry,
    board: PresenceBoard,
    clock: Callable[[], float],
) -> AsyncIterator[Federation | None]:
    """None where it is switched off.

    Raises:
        TlsConfigError: ``federation.tls_ca`` cannot be used.
        StorageError: the peers cannot be read.
    """
    section, domain = config.federation, config.server.domain.lower()
    if not section.enabled:
        yield None
        return
    directory = PeerDirectory(storage, section.peers.peers, clock)
    await directory.refresh()
    async with open_peer_client(
        tls_ca=section.tls_ca, patience=section.timeout, version=server_version()
    ) as client:
        signer = EventSigner(domain=domain, keys=keys)
        window = EventWindow(lifetime=config.limits.relay_ttl)
        courier = Courier(
            LaneServices(
                storage=storage,
                inbox=inbox,
                reports=reports,
                directory=directory,
                client=client,
                signer=signer,
                counters=counters,
                backoff=Backoff(shortest=section.backoff_min, longest=section.backoff_max),
                clock=clock,
            )
        )
        inbound = Inbound(
            domain=domain,
            directory=directory,
            storage=storage,
            inbox=inbox,
            counters=counters,
            window=window,
            rate=RateLimit(burst=section.events_per_second, period=1.0, clock=time.monotonic),
            clock=clock,
            max_frame=config.limits.max_frame,
            heard=courier.heard,
        )
        presence = None
        if section.presence:
            presence = RemotePresence(
                storage=storage,
                registry=registry,
                cluster=cluster,
                board=board,
                directory=directory,
                client=client,
                signer=signer,
                clock=clock,
                ttl=config.limits.presence_ttl,
            )
            inbound.presence, board.on_told = presence, presence.told
        federation = Federation(
            directory=directory,
            courier=courier,
            inbound=inbound,
            friends=RemoteFriends(
                domain=domain,
                storage=storage,
                inbox=inbox,
                directory=directory,
                inbound=inbound,
                window=window,
                clock=clock,
                notices=notices,
            ),
            questions=PeerQuestions(directory, client, signer),
            answers=PeerAnswers(storage, issuer, domain),
            cluster=cluster,
            counters=counters,
            presence=presence,
            description={
                "domain": domain,
                "endpoint": section.endpoint or f"https://{domain}",
                "public_key": keys.public.hex(),
                "batches": True,
                "version": server_version(),
            },
            figures=lambda: peer_figures(
                storage, section.peers.peers, relay_ttl=config.limits.relay_ttl, now=int(clock())
            ),
        )
        inbox.on_remote = federation.committed
        yield federation
