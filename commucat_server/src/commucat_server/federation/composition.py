"""Puts a server's part in federation together."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs

from commucat_crypto import DeviceKeyPair
from commucat_proto.federation.instants import NANOSECONDS
from commucat_server.config import ServerConfig
from commucat_server.config.federation_section import ConfiguredPeer
from commucat_server.federation.account_links import AccountLinks
from commucat_server.federation.backoff import Backoff
from commucat_server.federation.client import PeerClient, open_peer_client
from commucat_server.federation.courier import Courier
from commucat_server.federation.event_window import EventWindow
from commucat_server.federation.figures import peer_figures
from commucat_server.federation.friends import RemoteFriends
from commucat_server.federation.inbound import Inbound
from commucat_server.federation.lane import LaneServices
from commucat_server.federation.offset_telling import OffsetTelling
from commucat_server.federation.outgoing import EventSigner
from commucat_server.federation.peers import PeerDirectory
from commucat_server.federation.presence import RemotePresence
from commucat_server.federation.queries import PeerAnswers, PeerQuestions
from commucat_server.federation.service import Federation
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.ops.counters import Counters
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.friend_notices import FriendNotices
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_server.security.rate import RateLimit
from commucat_server.version import server_version
from commucat_storage import Storage


@attrs.frozen(kw_only=True)
class FederationServices:
    """The services of the server that federation stands upon."""

    storage: Storage
    inbox: Inbox
    reports: DeliveryReports
    cluster: Cluster
    counters: Counters
    issuer: CertificateIssuer
    notices: FriendNotices
    registry: Registry
    board: PresenceBoard
    clock: Callable[[], float]
    """Unix seconds."""


@attrs.frozen(kw_only=True)
class FederationRules:
    """Who the server is, and what its configuration says."""

    domain: str
    """In lower case."""
    endpoint: str
    keys: DeviceKeyPair
    peers: Sequence[ConfiguredPeer]
    relay_ttl: int
    """Seconds that a message waits."""
    events_per_second: int
    """Of one peer."""
    max_frame: int
    backoff: Backoff
    presence_ttl: int | None
    """Seconds for which a state is good; None: presence does not leave the server."""


def compose_federation(
    rules: FederationRules, services: FederationServices, client: PeerClient
) -> Federation:
    """Everything but its peers, which ``directory.refresh`` reads. ``client`` speaks to them."""
    storage, inbox, counters, clock = services.storage, services.inbox, services.counters, services.clock
    directory = PeerDirectory(storage, rules.peers, clock)
    signer = EventSigner(domain=rules.domain, keys=rules.keys, clock_ns=lambda: int(clock() * NANOSECONDS))
    window = EventWindow(lifetime=rules.relay_ttl)
    courier = Courier(
        LaneServices(
            storage=storage,
            inbox=inbox,
            reports=services.reports,
            directory=directory,
            client=client,
            signer=signer,
            counters=counters,
            backoff=rules.backoff,
            clock=clock,
        )
    )
    links = AccountLinks(
        domain=rules.domain, storage=storage, inbox=inbox, directory=directory, window=window, clock=clock
    )
    inbound = Inbound(
        domain=rules.domain,
        directory=directory,
        storage=storage,
        inbox=inbox,
        counters=counters,
        window=window,
        rate=RateLimit(burst=rules.events_per_second, period=1.0, clock=time.monotonic),
        clock=clock,
        max_frame=rules.max_frame,
        heard=courier.heard,
        links=links,
    )
    presence = None
    if rules.presence_ttl is not None:
        presence = RemotePresence(
            storage=storage,
            registry=services.registry,
            cluster=services.cluster,
            board=services.board,
            directory=directory,
            client=client,
            signer=signer,
            clock=clock,
            ttl=rules.presence_ttl,
        )
        inbound.presence, services.board.on_told = presence, presence.told
    federation = Federation(
        directory=directory,
        courier=courier,
        inbound=inbound,
        friends=RemoteFriends(
            domain=rules.domain,
            storage=storage,
            inbox=inbox,
            directory=directory,
            inbound=inbound,
            window=window,
            clock=clock,
            notices=services.notices,
        ),
        links=links,
        telling=OffsetTelling(
            storage=storage,
            inbox=inbox,
            window=window,
            clock=clock,
            carries=lambda: courier.carries,
        ),
        questions=PeerQuestions(directory, client, signer),
        answers=PeerAnswers(storage, services.issuer, rules.domain),
        cluster=services.cluster,
        counters=counters,
        presence=presence,
        description={
            "domain": rules.domain,
            "endpoint": rules.endpoint,
            "public_key": rules.keys.public.hex(),
            "batches": True,
            "version": server_version(),
        },
        figures=lambda: peer_figures(storage, rules.peers, relay_ttl=rules.relay_ttl, now=int(clock())),
    )
    inbox.on_remote = federation.committed
    return federation


@asynccontextmanager
async def open_federation(
    config: ServerConfig, keys: DeviceKeyPair, services: FederationServices
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
    rules = FederationRules(
        domain=domain,
        endpoint=section.endpoint or f"https://{domain}",
        keys=keys,
        peers=section.peers.peers,
        relay_ttl=config.limits.relay_ttl,
        events_per_second=section.events_per_second,
        max_frame=config.limits.max_frame,
        backoff=Backoff(shortest=section.backoff_min, longest=section.backoff_max),
        presence_ttl=config.limits.presence_ttl if section.presence else None,
    )
    async with open_peer_client(
        tls_ca=section.tls_ca, patience=section.timeout, version=server_version()
    ) as client:
        federation = compose_federation(rules, services, client)
        await federation.directory.refresh()
        yield federation
