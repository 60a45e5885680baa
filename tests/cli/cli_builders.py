"""A scripted server behind the real listener, and profiles that know it."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing

from commucat_cli.client import Connection, attach
from commucat_cli.profile import Account, Profile, ProfileKeys, open_profile
from commucat_cli.profile.keys import save_keys
from commucat_cli.profile.state import open_state
from commucat_cli.transport import H2Client, Timeouts, running
from commucat_crypto import DeviceCertificate, DeviceKeyPair, NoisePattern, StaticKeyPair
from commucat_proto import (
    DELIVERY_ACK,
    SEND_ONLY,
    ClientParameters,
    ClientProved,
    Frame,
    FramesReceived,
    FrameType,
    HandshakeDetail,
    HandshakeFailed,
    HelloReceived,
    PeerClosed,
    ServerParameters,
    ServerSession,
    SessionFailed,
    encode_frame,
    json_text,
)
from commucat_proto.hello import Hello
from commucat_proto.sealing import SealedContent, seal
from commucat_proto.server_session import ServerKey
from commucat_server.listener import (
    ConnectStream,
    ListenerSettings,
    ShutdownSignal,
    StreamLostError,
    serve_listeners,
    tls_context,
)
from server.listener_builders import h2_connection, write_certificate

DOMAIN = "chat.example"
NOW = 1_800_000_000
LATER = 4_000_000_000


def device(number: int) -> DeviceKeyPair:
    return DeviceKeyPair.from_private(bytes([number]) * 32)


@attrs.define(eq=False)
class Attached:
    """One session as the scripted server sees it."""

    stream: ConnectStream
    session: ServerSession
    hello: Hello

    async def push(self, *encoded: bytes) -> None:
        await self.stream.send(self.session.seal(encoded))

    async def tell_end(self, kind: str) -> None:
        """End the session for a reason."""
        await self.tell(FrameType.ERROR, 0, {"error": kind})
        await self.stream.end()

    async def tell(self, frame_type: FrameType, channel: int, value: dict[str, Any]) -> None:
        await self.push(self.session.control_frame(frame_type, channel, value))


@attrs.define(eq=False)
class ScriptedServer:
    """Speaks the protocol honestly, except where a test says otherwise."""

    domain: str = DOMAIN
    key: StaticKeyPair = attrs.field(factory=lambda: StaticKeyPair.from_private(bytes(range(32))))
    authority: DeviceKeyPair = attrs.field(factory=lambda: DeviceKeyPair.from_seed(b"a" * 32))
    epoch: str = "e1"
    certificates: dict[str, DeviceCertificate] = attrs.Factory(dict)
    inbox: list[bytes] = attrs.Factory(list)
    """Encoded durable frames, numbered from 1."""
    answer: Callable[[Frame], dict[str, Any] | None] = lambda _: {}
    """{}: acknowledge; other members are added to an Ack, or make an Error if ``error`` is among them."""
    on_attached: Callable[["Attached"], Awaitable[None]] | None = None
    refuse: tuple[HandshakeDetail, dict[str, Any]] | None = None
    problem: tuple[int, dict[str, Any]] | None = None
    ack: dict[str, Any] = attrs.Factory(dict)
    info: dict[str, Any] = attrs.Factory(dict)
    hellos: list[Hello] = attrs.Factory(list)
    codes: list[str | None] = attrs.Factory(list)
    received: list[Frame] = attrs.Factory(list)
    confirmed: int = 0
    requests: list[str] = attrs.Factory(list)
    reset_after: int | None = None
    """Break the stream off, once, after so many frames."""
    ends_when_confirmed: bool = False
    """End the session once everything in the inbox is confirmed."""
    unavailable: bool = False
    """REST answers 503."""
    silent: bool = False
    """Answer nothing but the response's head."""

    def add_device(self, device_id: str, keys: DeviceKeyPair | bytes, **changes: Any) -> DeviceCertificate:
        values: dict[str, Any] = {
            "serial": 1,
            "user_id": f"user-of-{device_id}",
            "device_id": device_id,
            "public_key": keys if isinstance(keys, bytes) else keys.public,
            "issued_at": 0,
            "expires_at": LATER,
        }
        self.certificates[device_id] = DeviceCertificate.issue(self.authority, **(values | changes))
        return self.certificates[device_id]

    def deliver(self, frame_type: FrameType, channel: int, payload: bytes) -> int:
        """Put a durable frame into the inbox; returns its number."""
        number = len(self.inbox) + 1
        self.inbox.append(encode_frame(frame_type, channel, number, payload))
        return number

    def messages(self) -> list[Frame]:
        return [frame for frame in self.received if frame.type is FrameType.MSG]

    # -- /connect -----------------------------------------------------------------------------------

    async def __call__(self, stream: ConnectStream) -> None:
        with contextlib.suppress(StreamLostError):  # some tests hang up in the middle
            await self._serve(stream)

    async def _serve(self, stream: ConnectStream) -> None:
        if self.problem is not None:
            status, document = self.problem
            await stream.start(status, [("content-type", "application/problem+json")])
            await stream.send(json.dumps(document).encode())
            return await stream.end()
        await stream.start(200, [("content-type", "application/octet-stream")])
        if self.silent:
            await trio.sleep_forever()
        parameters = ServerParameters(domain=self.domain, keys=[ServerKey(version=1, keys=self.key)])
        session = ServerSession(parameters, ephemeral=StaticKeyPair.generate())
        attached: Attached | None = None
        while True:
            events = session.receive_data(await stream.receive())
            while events:
                match events.pop(0):
                    case HelloReceived(hello, _):
                        self.hellos.append(hello)
                        attached = Attached(stream, session, hello)
                        if self.refuse is not None:
                            detail, extra = self.refuse
                            await stream.send(session.refuse(detail, **extra))
                            return await stream.end()
                        auth = session.send_auth(
                            session="token", user_id=f"user-of-{hello.device_id}", user={"handle": "x"}
                        )
                        await stream.send(auth)
                        events += session.pending_events()
                    case ClientProved(hello, code):
                        assert attached is not None
                        self.codes.append(code)
                        await stream.send(session.establish(self._ack(hello)))
                        await self._deliver(attached)
                        if self.on_attached is not None:
                            await self.on_attached(attached)
                        events += session.pending_events()
                    case FramesReceived(frames):
                        assert attached is not None
                        for frame in frames:
                            await self._receive(attached, frame)
                            if self.reset_after is not None and len(self.received) >= self.reset_after:
                                self.reset_after = None
                                return stream.reset()
                    case HandshakeFailed(reply=reply):
                        await stream.send(reply)
                        return await stream.end()
                    case PeerClosed() | SessionFailed():
                        return await stream.end()

    def _ack(self, hello: Hello) -> dict[str, Any]:
        known = self.certificates.get(hello.device_id)
        if known is None or known.public_key != hello.device_public:
            known = self.add_device(hello.device_id, hello.device_public)
        ack: dict[str, Any] = {
            "session": "token",
            "user_id": f"user-of-{hello.device_id}",
            "device_ca_public": self.authority.public.hex(),
            "device_certificate": known.to_wire(),
            "keepalive_interval": 30,
            "inbox": {"epoch": self.epoch, "next": len(self.inbox) + 1, "confirmed": self.confirmed},
        }
        return ack | self.ack

    async def _deliver(self, attached: Attached) -> None:
        if SEND_ONLY in attached.hello.capabilities:
            return
        resume = attached.hello.resume
        start = resume.ack if resume is not None and resume.epoch == self.epoch else self.confirmed
        if waiting := self.inbox[start:]:
            await attached.push(*waiting)

    async def _receive(self, attached: Attached, frame: Frame) -> None:
        self.received.append(frame)
        if frame.type is FrameType.ACK:
            assert isinstance(frame.control, dict)
            self.confirmed = max(self.confirmed, frame.control["ack"])
            if self.ends_when_confirmed and self.confirmed == len(self.inbox):
                await attached.stream.end()
            return
        answer = self.answer(frame)
        if answer is None:
            return
        if "error" in answer:
            await attached.tell(FrameType.ERROR, frame.channel, {"ref": frame.sequence, **answer})
        else:
            await attached.tell(FrameType.ACK, frame.channel, {"ack": frame.sequence, **answer})

    # -- REST -----------------------------------------------------------------------------------------

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.requests.append(path)
        if path == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while (await trio.lowlevel.checkpoint()) is None:
                await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
        status, document = self._rest(path, dict(scope["headers"]))
        kind = b"application/json" if status == 200 else b"application/problem+json"
        head = {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}
        await send(head)
        await send({"type": "http.response.body", "body": json_text.dumps(document)})

    def _rest(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, dict[str, Any]]:
        if self.unavailable:
            return 503, {"title": "ServiceUnavailable", "status": 503}
        if path == "/api/server-info":
            return 200, {
                "domain": self.domain,
                "noise_public": self.key.public.hex(),
                "noise_keys": [{"version": 1, "public": self.key.public.hex()}],
                "device_ca_public": self.authority.public.hex(),
                "supported_patterns": ["XK", "IK"],
                "supported_versions": [1],
            } | self.info
        if headers.get(b"authorization") != b"Bearer token":
            return 401, {"title": "Unauthorized", "status": 401, "detail": "session not found or expired"}
        device_id = path.removeprefix("/api/devices/").removesuffix("/certificate")
        if device_id in self.certificates:
            return 200, {"certificate": self.certificates[device_id].to_wire()}
        return 404, {"title": "NotFound", "status": 404, "detail": "device not found"}


@asynccontextmanager
async def in_memory(server: ScriptedServer) -> AsyncIterator[H2Client]:
    """The client's end of an HTTP/2 connection to the scripted server."""
    client_end, server_end = trio.testing.memory_stream_pair()
    served = h2_connection(server_end, server, server.app)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.serve)
        try:
            async with running(H2Client(client_end, "chat.example:443"), Timeouts()) as client:
                yield client
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the group
            failure = exc
        await client_end.aclose()
    if failure is not None:
        raise failure


def parameters(keys: ProfileKeys, server: ScriptedServer, **changes: Any) -> ClientParameters:
    values: dict[str, Any] = {
        "domain": DOMAIN,
        "server_static": server.key.public,
        "device_id": keys.device_id,
        "device_keys": keys.device,
        "static": keys.static,
        "capabilities": (DELIVERY_ACK,),
    }
    return ClientParameters(**(values | changes))


@asynccontextmanager
async def attached(server: ScriptedServer, **changes: Any) -> AsyncIterator[Connection]:
    """A session of a fresh device with the scripted server."""
    keys = ProfileKeys.generate()
    async with in_memory(server) as client, attach(client, parameters(keys, server, **changes)) as connection:
        yield connection


@asynccontextmanager
async def on_tcp(server: ScriptedServer, folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """The scripted server behind TLS on a free port: its address, and the file to trust."""
    cert, key = write_certificate(folder)
    shutdown = ShutdownSignal()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(
            lambda task_status: serve_listeners(
                listeners,
                tls_context(cert, key),
                ListenerSettings(drain_timeout=0.5),
                connect_handler=server,
                asgi_app=server.app,
                shutdown=shutdown,
                task_status=task_status,
            )
        )
        port = listeners[0].socket.getsockname()[1]
        try:
            yield f"https://127.0.0.1:{port}", cert
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the group
            failure = exc
        shutdown.request()
    if failure is not None:
        raise failure


def make_profile(folder: Path, server: ScriptedServer, url: str = "https://127.0.0.1:1") -> ProfileKeys:
    """A profile that has logged in; with ``tls-ca.pem`` if there is a certificate next to it."""
    folder.mkdir(mode=0o700)
    keys = ProfileKeys.generate()
    save_keys(folder, keys)
    certificate = server.add_device(keys.device_id, keys.device)
    ca_file = folder.parent / "cert.pem"
    if ca_file.exists():
        (folder / "tls-ca.pem").write_bytes(ca_file.read_bytes())
    with open_state(folder, create=True) as state:
        state.save_account(
            Account(
                server=url,
                trust="file",
                domain=server.domain,
                server_static=server.key.public,
                device_ca=server.authority.public,
                pattern=NoisePattern.XK,
                handle="me",
                user_id=f"user-of-{keys.device_id}",
                certificate=certificate,
            )
        )
    return keys


@contextmanager
def profile_of(folder: Path, server: ScriptedServer, url: str = "https://127.0.0.1:1") -> Any:
    make_profile(folder, server, url)
    with open_profile(folder) as profile:
        yield profile


def sealed_message(
    sender_id: str, sender: DeviceKeyPair, to: Profile, text: str, *, channel: int = 7, **changes: Any
) -> bytes:
    """What ``sender`` would put into a Msg frame for the owner of a profile."""
    values: dict[str, Any] = {
        "message_id": StaticKeyPair.generate().private[:16],
        "sender": sender_id,
        "recipients": (to.keys.device_id,),
        "channel": channel,
        "sent_at": NOW * 1000,
        "text": text,
    }
    return seal(
        SealedContent(**(values | changes)),
        sender,
        {to.keys.device_id: to.keys.device.public},
        content_key=StaticKeyPair.generate().private,
        ephemerals=[StaticKeyPair.generate()],
    )
