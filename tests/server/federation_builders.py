"""Servers of several domains in one process, over real stores; what they send each other goes from memory to
memory, by the same services that the listener and the HTTP client stand before."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from commucat_crypto import DeviceKeyPair
from commucat_proto import Frame, FrameType, json_text
from commucat_proto.federation import Event, SignedEvent
from commucat_server.config.federation_section import ConfiguredPeer
from commucat_server.federation.addresses import EVENTS_PATH, FRIENDS_PATH, QUERY_PATH, WELL_KNOWN
from commucat_server.federation.backoff import Backoff
from commucat_server.federation.client import PeerAnswer, PeerClient, PeerUnreachableError
from commucat_server.federation.composition import (
    FederationRules,
    FederationServices,
    compose_federation,
)
from commucat_server.federation.inbound import RateLimitedError
from commucat_server.federation.peers import PeerDirectory
from commucat_server.federation.presence import RemotePresence
from commucat_server.federation.problems import RefusedEventError
from commucat_server.federation.service import Federation
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.ops.counters import Counters
from commucat_server.provision import Shared
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.friend_notices import FriendNotices
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_storage import (
    Confirm,
    InboxRow,
    Outcome,
    SqliteSettings,
    Storage,
    Submission,
    SubmissionOutcome,
    open_sqlite,
)
from storage.storage_builders import new_user

LIFETIME = 3600
DAY = 86_400
CHANNEL = 7
ENDPOINTS = "https://"


@attrs.define
class Clock:
    """Unix seconds that a test sets."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@attrs.define
class Wires:
    """Between all sites. A test may cut or spoil them."""

    sites: dict[str, "Site"] = attrs.Factory(dict)
    cut: set[str] = attrs.Factory(set)
    """Domains that cannot be reached."""
    lose_answers_of: set[str] = attrs.Factory(set)
    """Domains whose answers are lost, after they have done what was asked."""
    answers: dict[str, PeerAnswer] = attrs.Factory(dict)
    """What a domain answers to everything instead of what it is asked."""
    batches: bool = True
    """Whether the sites say that they take batches."""
    refuse_batches: bool = False
    """They say so, and do not."""
    batch_answer: PeerAnswer | None = None
    """What is said to batches, which nobody takes then."""
    requests: list[tuple[str, str]] = attrs.Factory(list)
    """Domain and path of each request."""

    async def request(self, method: str, url: str, body: bytes | None) -> PeerAnswer:
        """What :class:`Http` does."""
        await trio.lowlevel.checkpoint()
        domain, _, path = url.removeprefix(ENDPOINTS).partition("/")
        path = f"/{path}"
        self.requests.append((domain, path))
        if domain in self.cut:
            raise PeerUnreachableError("cut off")
        if domain in self.answers:
            return self.answers[domain]
        if path == EVENTS_PATH and b'"type":"messages"' in (body or b""):
            if self.refuse_batches:
                return PeerAnswer(400, {"title": "InvalidPayload"})
            if self.batch_answer is not None:
                return self.batch_answer
        answer = await self.sites[domain].answer(path, body or b"", batches=self.batches)
        if domain in self.lose_answers_of and path != WELL_KNOWN:
            raise PeerUnreachableError("the answer was lost")
        return answer

    async def aclose(self) -> None:
        """Nothing to close."""


class MemoryClient(PeerClient):
    """Speaks to the other sites over the wires."""

    def __init__(self, wires: Wires) -> None:
        super().__init__(None, 1.0, "test")
        self._http = wires


@attrs.define(kw_only=True, eq=False)
class Site:
    """One server's part in federation."""

    domain: str
    keys: DeviceKeyPair
    clock: Clock
    storage: Storage
    inbox: Inbox
    counters: Counters
    directory: PeerDirectory
    reports: DeliveryReports
    registry: Registry
    board: PresenceBoard
    presence: RemotePresence
    federation: Federation
    commits: int = 0
    _committed: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    async def answer(self, path: str, body: bytes, *, batches: bool) -> PeerAnswer:
        """What its listener would give to a request."""
        federation = self.federation
        try:
            if path == WELL_KNOWN:
                return PeerAnswer(200, {**federation.description, "batches": batches})
            if path == EVENTS_PATH:
                taken = await federation.inbound.take(body)
                return PeerAnswer(taken.status, taken.document)
            if path == FRIENDS_PATH:
                return PeerAnswer(200, await federation.friends.take(body))
            if path == QUERY_PATH:
                peer, event = federation.inbound.believed(body)
                return PeerAnswer(200, await federation.answers.answer(peer, event.payload))
        except RefusedEventError as exc:
            return PeerAnswer(exc.refusal.status, {"title": exc.refusal.title, "detail": exc.refusal.detail})
        except RateLimitedError as exc:
            return PeerAnswer(429, {}, exc.wait)
        return PeerAnswer(404, {})

    async def take(self, body: bytes) -> PeerAnswer:
        """An event from outside."""
        return await self.answer(EVENTS_PATH, body, batches=True)

    async def submit(self, *submissions: Submission) -> list[SubmissionOutcome]:
        """As a session would; returns when they are committed."""
        outcomes: list[SubmissionOutcome] = []
        told = trio.Event()

        def answer(result: Any) -> None:
            assert isinstance(result, tuple), result
            outcomes.extend(_submitted(each) for each in result)
            told.set()

        await self.inbox.submit(submissions, answer)
        await told.wait()
        return outcomes

    async def write(
        self, sender: str, target: str, *texts: str, report: bool = False
    ) -> list[SubmissionOutcome]:
        """Messages of a local device."""
        return await self.submit(
            *(
                Submission(
                    sender,
                    CHANNEL,
                    FrameType.MSG,
                    text.encode(),
                    int(self.clock()) + LIFETIME,
                    (target,),
                    report=report,
                    reference=text.encode().ljust(16, b".")[:16] if report else b"",
                )
                for text in texts
            )
        )

    async def rows(self, device_id: str) -> list[InboxRow]:
        """Everything that waits for a local device."""
        page = await self.storage.read_after(
            device_id, 0, limit_rows=10_000, limit_bytes=10**9, now=int(self.clock())
        )
        return list(page.rows)

    async def texts(self, device_id: str) -> list[str]:
        """Of the messages among them."""
        return [row.payload.decode() for row in await self.rows(device_id) if row.frame_type == FrameType.MSG]

    async def wait_for(self, device_id: str, count: int) -> list[InboxRow]:
        """Until so much waits for the device."""
        with trio.fail_after(30):
            while True:
                commits = self.commits
                rows = await self.rows(device_id)
                if len(rows) >= count:
                    return rows
                await self._next_commit(commits)

    async def wait_sent(self, domain: str) -> None:
        """Until the outbox of the domain is empty."""
        with trio.fail_after(30):
            while True:
                commits = self.commits
                if not any(each.rows for each in await self.storage.outboxes() if each.domain == domain):
                    return
                await self._next_commit(commits)

    async def _next_commit(self, seen: int) -> None:
        while self.commits == seen:
            await self._committed.park()

    def note_commit(self, *_: object) -> None:
        """Something is on disk."""
        self.commits += 1
        self._committed.unpark_all()

    async def confirm(self, device_id: str, number: int) -> None:
        """As the device's session would."""
        state = await self.storage.inbox_state(device_id)
        assert state is not None
        await self.inbox.confirm(Confirm(device_id, state.epoch, number))

    async def noted(self) -> None:
        """A moment in which a lane may note how its peer is; that is no commit of the journal's batches."""
        await self.storage.settle()

    async def knows(self, *others: "Site") -> None:
        """Have them as peers of the configuration."""
        self.directory._configured = {
            other.domain: ConfiguredPeer(
                domain=other.domain, endpoint=ENDPOINTS + other.domain, public_key=other.keys.public
            )
            for other in others
        }
        await self.directory.refresh()

    def event(self, payload: Any, scope: str, **changes: Any) -> bytes:
        """A signed event of this site."""
        members = {
            "event_id": "evt-1",
            "origin": self.domain,
            "created_at": int(self.clock() * 10**9),
            "payload": payload,
            "scope": scope,
        } | changes
        return Event(**members).sign(self.keys).encode()


def payload(sender: str | None, target: str, text: str = "sealed", **changes: Any) -> dict[str, Any]:
    """A message as a peer of 2025 writes it."""
    frame = Frame(FrameType.MSG, CHANNEL, 3, text.encode())
    return {
        "channel": CHANNEL,
        "sequence": 3,
        "payload": frame.encode().hex(),
        "sender": sender,
        "target": target,
    } | changes


def framed(frame: Frame, sender: str | None, target: str) -> dict[str, Any]:
    """Any frame as such a message."""
    return payload(sender, target, channel=frame.channel, payload=frame.encode().hex())


def tampered(body: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A signed event that somebody has changed on the way."""
    document = json.loads(body)
    change(document)
    return json_text.dumps(document)


def signed_by(keys: DeviceKeyPair, body: bytes) -> bytes:
    """The same event with another signature."""
    event = SignedEvent.decode(body).event
    return event.sign(keys).encode()


def _submitted(outcome: Outcome) -> SubmissionOutcome:
    assert isinstance(outcome, SubmissionOutcome)
    return outcome


@asynccontextmanager
async def open_sites(
    path: Path,
    *domains: str,
    events_per_second: int = 100_000,
    settings: SqliteSettings | None = None,
    carry: bool = True,
    backoff: Backoff = Backoff(shortest=0.02, longest=0.1),  # noqa: B008 - frozen
    people: Mapping[str, str] | None = None,
) -> AsyncIterator[list[Site]]:
    """Sites that know each other, each with users, one device each, named as they are.

    Args:
        carry: whether what waits in outboxes is carried.
        people: domain to its user; by default ``alice``, ``bob``, ``carol`` in this order.
    """
    wires = Wires()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        for domain in domains:
            file = path / f"{domain}.db"
            storage = await stack.enter_async_context(
                open_sqlite(file, settings=settings or SqliteSettings())
            )
            wires.sites[domain] = _site(domain, storage, wires, events_per_second, backoff)
        sites = list(wires.sites.values())
        for site, default in zip(sites, ("alice", "bob", "carol"), strict=False):
            name = (people or {}).get(site.domain, default)
            admission = new_user(name)
            assert admission.user is not None
            user = attrs.evolve(admission.user, domain=site.domain)
            await site.storage.admit(attrs.evolve(admission, user=user))
            await site.knows(*(other for other in sites if other is not site))
            if carry:
                nursery.start_soon(site.federation.courier.run)
        yield sites
        nursery.cancel_scope.cancel()


def _site(domain: str, storage: Storage, wires: Wires, events_per_second: int, backoff: Backoff) -> Site:
    clock, counters, registry = Clock(), Counters(), Registry()
    keys = DeviceKeyPair.from_seed(domain.encode() * 32)
    reports = DeliveryReports(counters=counters, clock=clock, lifetime=LIFETIME)
    inbox = Inbox(storage, registry, counters, reports)
    cluster = Cluster(storage, Shared().bus, registry, counters)
    board = PresenceBoard(storage, registry, cluster, Shared().bus, ttl=60, clock=clock)
    federation = compose_federation(
        FederationRules(
            domain=domain,
            endpoint=ENDPOINTS + domain,
            keys=keys,
            peers=(),
            relay_ttl=LIFETIME,
            events_per_second=events_per_second,
            max_frame=1024 * 1024,
            backoff=backoff,
            presence_ttl=60,
        ),
        FederationServices(
            storage=storage,
            inbox=inbox,
            reports=reports,
            cluster=cluster,
            counters=counters,
            issuer=CertificateIssuer(keys, storage, clock),
            notices=FriendNotices(inbox, storage, domain=domain, channel=0, lifetime=LIFETIME, clock=clock),
            registry=registry,
            board=board,
            clock=clock,
        ),
        MemoryClient(wires),
    )
    assert federation.presence is not None
    site = Site(
        domain=domain,
        keys=keys,
        clock=clock,
        storage=storage,
        inbox=inbox,
        counters=counters,
        directory=federation.directory,
        reports=reports,
        registry=registry,
        board=board,
        presence=federation.presence,
        federation=federation,
    )
    inbox.on_commit = site.note_commit
    return site


def wires_of(site: Site) -> Wires:
    """Between this site and the others."""
    http = site.federation.questions._client._http
    assert isinstance(http, Wires)
    return http
