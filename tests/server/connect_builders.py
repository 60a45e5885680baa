"""A `/connect` driver over a real store, joined to a client session in memory."""

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from commucat_crypto import DeviceCertificate, DeviceKeyPair, NoisePattern, StaticKeyPair
from commucat_ledger import open_ledger
from commucat_proto import (
    DELIVERY_ACK,
    AuthReceived,
    ClientParameters,
    ClientSession,
    Established,
    Frame,
    FrameDecoder,
    FramesReceived,
    FrameType,
    Refused,
    Resume,
    ServerParameters,
    UserHint,
    encode_frame,
    json_text,
)
from commucat_server.calls.forwarder import Forwarder
from commucat_server.calls.limits import CallLimits
from commucat_server.calls.service import CallService
from commucat_server.config import ClearFrames
from commucat_server.connect.context import ConnectContext, ConnectSettings
from commucat_server.connect.handler import ConnectHandler
from commucat_server.identity.admissions import AdmissionPolicy, Admissions
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.noise_catalogue import NoiseCatalogue
from commucat_server.listener import ConnectStream, StreamLostError, StreamMisuseError
from commucat_server.ops.counters import Counters
from commucat_server.ops.upkeep import Upkeep
from commucat_server.provision import NoiseKeyVersion, Shared
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_server.security.rate import RateLimit, SharedRateLimit
from commucat_storage import CommitFailedError, SqliteSettings, Storage, open_sqlite

DOMAIN = "localhost"
SERVER_KEYS = StaticKeyPair.from_private(bytes(range(32)))
AUTHORITY = DeviceKeyPair.from_seed(b"a" * 32)
NOW = 1_800_000_000
ALONE = Shared()


class MemoryConnectStream(ConnectStream):
    """Both ends of one request in memory. What the server sends is taken with :meth:`read`."""

    def __init__(self, *, method: str = "POST", room: int = 10**9) -> None:
        self.method, self.path, self.query = method, "/connect", ""
        self.headers = {}
        self.remote_host, self.remote_port = "192.0.2.1", 40000
        self.status: int | None = None
        self.ended = False
        self.lost = False
        self.taken_over = 0
        self._room = room
        self._sent = 0
        self._up = bytearray()
        self._up_ended = False
        self._down = bytearray()
        self._changed = trio.lowlevel.ParkingLot()

    # -- the server's side

    async def start(self, status: int, headers: Any, *, with_body: bool = False) -> None:
        await trio.lowlevel.checkpoint()
        self.status = status

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not (self._up or self._up_ended or self.lost):
            await self._changed.park()
        if self.lost:
            raise StreamLostError("lost")
        data = bytes(self._up)
        self._up.clear()
        return data

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while len(self._down) >= self._room and not (self.lost or self.ended):
            await self._changed.park()
        if self.lost:
            raise StreamLostError("lost")
        if self.ended:
            raise StreamMisuseError("bytes after the end")
        self._down += data
        self._sent += len(data)
        self._changed.unpark_all()

    async def flushed(self) -> None:
        await trio.lowlevel.checkpoint()

    @property
    def sent_bytes(self) -> int:
        return self._sent

    async def confirm(self, beyond: int | None = None) -> int:
        """The client's transport answers for what the client has read."""
        await trio.lowlevel.checkpoint()
        wanted = self._sent if beyond is None else beyond + 1
        while self._sent - len(self._down) < wanted and not self.lost:
            await self._changed.park()
        if self.lost:
            raise StreamLostError("lost")
        return self._sent - len(self._down)

    async def end(self) -> None:
        await trio.lowlevel.checkpoint()
        self.ended = True
        self._changed.unpark_all()

    def cut_off(self) -> None:
        self._down.clear()
        self.ended = True
        self._changed.unpark_all()

    async def wait_closed(self) -> None:
        while not (self.lost or self.ended):
            await self._changed.park()

    def reset(self) -> None:
        self.lose()

    @property
    def outbox_bytes(self) -> int:
        return len(self._down)

    # -- the client's side

    def limit(self, room: int) -> None:
        """From now on so many bytes may wait to be read."""
        self._room = room
        self._changed.unpark_all()

    def write(self, data: bytes) -> None:
        self._up += data
        self._changed.unpark_all()

    def close(self) -> None:
        self._up_ended = True
        self._changed.unpark_all()

    def lose(self) -> None:
        self.lost = True
        self._changed.unpark_all()

    async def wait_lost(self) -> None:
        while not self.lost:
            await self._changed.park()

    async def read(self) -> bytes:
        """Everything the server sent since; ``b""`` once it has ended or lost the stream."""
        while not (self._down or self.ended or self.lost):
            await self._changed.park()
        data = bytes(self._down)
        self._down.clear()
        self._changed.unpark_all()
        return data


@attrs.define(kw_only=True)
class Person:
    """A device of a user, with keys of its own."""

    handle: str
    device_id: str = ""
    keys: DeviceKeyPair = attrs.field(factory=DeviceKeyPair.generate)
    static: StaticKeyPair = attrs.field(factory=StaticKeyPair.generate)

    def __attrs_post_init__(self) -> None:
        self.device_id = self.device_id or f"device-of-{self.handle}"

    def session(self, **changes: Any) -> ClientSession:
        values: dict[str, Any] = {
            "domain": DOMAIN,
            "server_static": SERVER_KEYS.public,
            "device_id": self.device_id,
            "device_keys": self.keys,
            "static": self.static,
            "user": UserHint(handle=self.handle),
            "capabilities": (DELIVERY_ACK,),
        }
        return ClientSession(
            ClientParameters(**(values | changes)),
            ephemeral=StaticKeyPair.generate(),
            proof_randomness=os.urandom(64),
        )


@attrs.define(eq=False)
class Client:
    """One connection of a person to the server under test."""

    session: ClientSession
    stream: MemoryConnectStream
    ack: dict[str, Any] = attrs.Factory(dict)
    refused: dict[str, Any] | None = None
    _frames: list[Frame] = attrs.Factory(list)
    presence: list[Frame] = attrs.Factory(list)
    """Apart from the others: it is told some time after a change, or not if a newer one overtook it."""

    async def handshake(self) -> "Client":
        self.stream.write(self.session.start())
        while not self.ack and self.refused is None:
            data = await self.stream.read()
            assert data, "the stream ended in the handshake"
            self._take(self.session.receive_data(data))
        return self

    def _take(self, events: list[Any]) -> None:
        for event in events:
            match event:
                case AuthReceived(reply):
                    self.stream.write(reply)
                case Established(ack):
                    self.ack = ack
                case Refused(error):
                    self.refused = error
                case FramesReceived(frames):
                    self._keep(frames)
                case _:
                    raise AssertionError(event)

    def _keep(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            (self.presence if frame.type is FrameType.PRESENCE else self._frames).append(frame)

    @property
    def waiting(self) -> tuple[Frame, ...]:
        """What was read and not asked for yet."""
        return tuple(self._frames)

    def forget(self) -> None:
        """Drop what was read so far."""
        self._frames.clear()

    def send(self, frame_type: FrameType, channel: int, payload: Any) -> int:
        if isinstance(payload, bytes):
            sequence, encoded = self.session.frame(frame_type, channel, payload)
        else:
            sequence, encoded = self.session.frame(frame_type, channel, json_text.dumps(payload))
        self.stream.write(self.session.seal([encoded]))
        return sequence

    async def _read(self) -> bool:
        """False when the stream has ended."""
        data = await self.stream.read()
        if data:
            self._take(self.session.receive_data(data))
        return bool(data)

    async def next_frame(self) -> Frame | None:
        """The next frame that is no presence; None when the server has ended the stream."""
        while not self._frames:
            if not await self._read():
                return None
        return self._frames.pop(0)

    async def next_presence(self) -> Frame:
        while not self.presence:
            assert await self._read(), "the stream ended before a presence"
        return self.presence.pop(0)

    async def next_of(self, frame_type: FrameType) -> Frame:
        assert frame_type is not FrameType.PRESENCE, "it is read apart"
        while True:
            frame = await self.next_frame()
            assert frame is not None, f"the stream ended before a {frame_type.wire_name}"
            if frame.type is frame_type:
                return frame

    async def answer(self, sequence: int) -> dict[str, Any]:
        """The Ack or Error that answers ``sequence``."""
        while True:
            frame = await self.next_frame()
            assert frame is not None
            if frame.type in (FrameType.ACK, FrameType.ERROR):
                value: dict[str, Any] = dict(frame.control)  # type: ignore[arg-type]
                if sequence in (value.get("ack"), value.get("ref")):
                    return value

    async def join(self, channel: int, *members: str) -> dict[str, Any]:
        return await self.answer(self.send(FrameType.JOIN, channel, {"members": list(members)}))

    async def message(self, channel: int, payload: bytes) -> dict[str, Any]:
        return await self.answer(self.send(FrameType.MSG, channel, payload))

    @property
    def token(self) -> str:
        return str(self.ack["session"])

    @property
    def epoch(self) -> str:
        return str(self.ack["inbox"]["epoch"])


@attrs.define(eq=False)
class ClearClient(Client):
    """A client that forgets its keys when the handshake is done."""

    _decoder: FrameDecoder = attrs.Factory(FrameDecoder)

    async def handshake(self) -> "ClearClient":
        self.stream.write(self.session.start())
        while not self.ack and self.refused is None:
            await self._read()
        return self

    async def _read(self) -> bool:
        """False when the stream has ended."""
        data = await self.stream.read()
        self._decoder.feed(data)
        for frame in self._decoder.frames():
            if self.ack:
                self._keep([frame])
            else:
                encoded = encode_frame(frame.type, frame.channel, frame.sequence, frame.payload)
                self._take(self.session.receive_data(encoded))
        return bool(data)

    def send(self, frame_type: FrameType, channel: int, payload: Any) -> int:
        data = payload if isinstance(payload, bytes) else json_text.dumps(payload)
        sequence, encoded = self.session.frame(frame_type, channel, data)
        self.stream.write(encoded)
        return sequence


@attrs.define(kw_only=True, eq=False)
class Server:
    """The services behind `/connect`, and a nursery that runs its streams."""

    context: ConnectContext
    nursery: trio.Nursery
    handler: ConnectHandler
    reports: DeliveryReports

    @property
    def storage(self) -> Storage:
        return self.context.storage

    def open(self, person: Person, stream: MemoryConnectStream | None = None, **changes: Any) -> Client:
        """A connection whose handshake has not begun."""
        stream = stream or MemoryConnectStream()
        self.nursery.start_soon(self.handler, stream)
        return Client(person.session(**changes), stream)

    async def connect_clear(
        self,
        person: Person,
        *,
        stream: MemoryConnectStream | None = None,
        user_agent: str = "CommuCat-CLI/0.1",
        **changes: Any,
    ) -> ClearClient:
        """A connection as the terminal client of 2025 makes it."""
        stream = stream or MemoryConnectStream()
        stream.headers = {"user-agent": user_agent}
        self.nursery.start_soon(self.handler, stream)
        session = person.session(**({"capabilities": ("noise", "zstd")} | changes))
        return await ClearClient(session, stream).handshake()

    async def connect(
        self,
        person: Person,
        *,
        stream: MemoryConnectStream | None = None,
        pattern: NoisePattern = NoisePattern.XK,
        certificate: DeviceCertificate | None = None,
        resume: Resume | None = None,
        **changes: Any,
    ) -> Client:
        client = self.open(person, stream, pattern=pattern, certificate=certificate, resume=resume, **changes)
        return await client.handshake()


async def until_dropped(server: Server, person: Person, clock: trio.testing.MockClock) -> None:
    """Until the time has passed that a client may take nothing, and the person's session is gone."""
    registry, patience = server.context.registry, server.context.settings.write_stall
    assert registry.receiver(person.device_id) is not None
    while registry.receiver(person.device_id) is not None:
        # In steps: the session's writer may still be on its way to what the client does not take.
        await trio.testing.wait_all_tasks_blocked(0.01)
        clock.jump(patience / 4)


def upkeep_of(server: Server, keepalive: int = 3600) -> Upkeep:
    """The upkeep of these services; its work is started by the test, task by task."""
    context = server.context
    return Upkeep(
        storage=server.storage,
        registry=context.registry,
        presence=context.presence,
        reports=server.reports,
        counters=context.counters,
        clock=context.clock,
        presence_ttl=30,
        keepalive=keepalive,
    )


def _limit(scope: str, burst: int, period: float, shared: Shared) -> SharedRateLimit:
    return SharedRateLimit(
        scope, RateLimit(burst=burst, period=period, clock=trio.current_time), shared.buckets
    )


@asynccontextmanager
async def running_server(
    path: Path,
    *,
    clock: Callable[[], float] = lambda: NOW,
    policy: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    sqlite: SqliteSettings | None = None,
    connects: int = 200,
    new_devices_per_hour: int = 1000,
    max_frame_len: int = 2**20,
    shared: Shared = ALONE,
    calls: CallLimits | None = None,
    forwarding: dict[str, Any] | None = None,
) -> AsyncIterator[Server]:
    async with (
        open_sqlite(path / "store.db", settings=sqlite or SqliteSettings()) as storage,
        open_ledger("null", None) as ledger,
        trio.open_nursery() as nursery,
    ):
        registry, counters = Registry(), Counters()
        cluster = Cluster(storage, shared.bus, registry, counters)
        reports = DeliveryReports(counters=counters, clock=clock, lifetime=86_400)
        inbox = Inbox(storage, registry, counters, reports)
        issuer = CertificateIssuer(AUTHORITY, storage, clock)
        rules: dict[str, Any] = {
            "domain": DOMAIN,
            "auto_approve_devices": True,
            "join_by_handle": False,
            "max_auto_devices_per_user": 1,
            "session_ttl": 3600,
        }
        limits: dict[str, Any] = {
            "handshake_timeout": 10.0,
            "write_stall": 30.0,
            "drain_timeout": 10.0,
            "keepalive": 3600,
            "relay_ttl": 86_400,
            "channel_members": 512,
            "delivery_status": True,
            "clear_frames": ClearFrames.NEVER,
            "open_join": False,
            "max_handshakes": 100,
        }
        key = NoiseKeyVersion(
            version=1, keys=SERVER_KEYS, valid_after=0, rotates_at=NOW * 2, expires_at=NOW * 2
        )
        call_service = CallService(
            storage=storage,
            registry=registry,
            inbox=inbox,
            cluster=cluster,
            ledger=ledger,
            counters=counters,
            clock=clock,
            limits=calls or CallLimits(),
        )
        forwarder = Forwarder(
            board=call_service.board,
            registry=registry,
            inbox=inbox,
            cluster=cluster,
            counters=counters,
            **(forwarding or {}),
        )
        inbox.on_group_change = lambda operation: forwarder.expire(operation.channel)
        context = ConnectContext(
            settings=ConnectSettings(**({"domain": DOMAIN} | limits | (settings or {}))),
            noise_keys=NoiseCatalogue(
                [key],
                ServerParameters(domain=DOMAIN, keys=(), max_frame_len=max_frame_len),
                clock=clock,
                authority=AUTHORITY,
            ),
            storage=storage,
            ledger=ledger,
            admissions=Admissions(storage, issuer, AdmissionPolicy(**(rules | (policy or {}))), clock),
            issuer=issuer,
            registry=registry,
            inbox=inbox,
            cluster=cluster,
            presence=PresenceBoard(storage, registry, cluster, shared.bus, ttl=30, clock=clock),
            calls=call_service,
            forwarder=forwarder,
            counters=counters,
            bus=shared.bus,
            connect_limit=_limit("connect", connects, 1.0, shared),
            new_user_limit=_limit("new_device", new_devices_per_hour, 3600.0, shared),
            clock=clock,
        )
        nursery.start_soon(context.presence.tell_peers)
        await nursery.start(context.calls.run)
        nursery.start_soon(context.forwarder.rounds.run)
        await nursery.start(context.forwarder.transcoding.run)
        nursery.start_soon(reports.run, inbox.submit, inbox.settle)
        yield Server(context=context, nursery=nursery, handler=ConnectHandler(context), reports=reports)
        nursery.cancel_scope.cancel()


def break_commits(patch: pytest.MonkeyPatch, server: Server, reason: str) -> None:
    """Let every batch that comes to the journal from now on fail, as one whose disk is full does."""

    def fail_now(_: Any, done: Any) -> bool:
        done(CommitFailedError(reason))
        return True

    async def fail(batch: Any, done: Any) -> None:
        await trio.lowlevel.checkpoint()
        fail_now(batch, done)

    patch.setattr(server.storage, "enqueue", fail)
    patch.setattr(server.storage, "enqueue_now", fail_now)
