"""A CommuCat client written from the protocol description alone.

It shares no line with the project: frames, Schnorr proof, certificate check and session are its own, Noise,
HTTP/2 and TLS come from third parties. A mistake that client and server of the project have in common
shows up here.
"""

import contextlib
import hashlib
import json
import secrets
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import blake3
import h2.config
import h2.connection
import h2.events
import h2.exceptions
from nacl import bindings
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from noise.connection import Keypair, NoiseConnection

DEADLINE = 30.0
PROLOGUE = b"commucat"
PROOF_DOMAIN = b"commucat:zkp:handshake:v1"
MAX_NOISE_MESSAGE = 65_535
MAX_NOISE_PLAINTEXT = 65_519
NOISE_TAG = 16
SCRATCH_CHANNEL = 2**32 - 1
MAX_U32 = 2**32 - 1
CERTIFICATE_FIELDS = ("serial", "user_id", "device_id", "public_key", "issuer", "issued_at", "expires_at")

JsonObject = dict[str, Any]


class SpecError(Exception):
    """The peer did something that the protocol does not allow."""


class StreamEndedError(Exception):
    """The server ended the session."""


# Frames


class FrameType(IntEnum):
    HELLO = 0x01
    AUTH = 0x02
    JOIN = 0x03
    LEAVE = 0x04
    MSG = 0x05
    ACK = 0x06
    TYPING = 0x07
    PRESENCE = 0x08
    KEY_UPDATE = 0x09
    GROUP_CREATE = 0x0A
    GROUP_INVITE = 0x0B
    GROUP_EVENT = 0x0C
    ERROR = 0x0D
    CALL_OFFER = 0x0E
    CALL_ANSWER = 0x0F
    CALL_END = 0x10
    VOICE_FRAME = 0x11
    VIDEO_FRAME = 0x12
    CALL_STATS = 0x13
    TRANSPORT_UPDATE = 0x14


def encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | bytearray, offset: int) -> tuple[int, int] | None:
    """Value and the offset behind it; None when the bytes stop before the last group."""
    value = 0
    for index in range(10):
        if offset + index >= len(data):
            return None
        byte = data[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (2**64 - 1), offset + index + 1
    raise SpecError("varint overflow")


def dump_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Frame:
    kind: FrameType
    channel: int
    sequence: int
    payload: bytes

    @classmethod
    def of_json(cls, kind: FrameType, channel: int, sequence: int, value: Any) -> Self:
        return cls(kind, channel, sequence, dump_json(value))

    def json(self) -> JsonObject:
        value = json.loads(self.payload.decode("utf-8"))
        if not isinstance(value, dict):
            raise SpecError(f"{self.kind.name} without an object")
        return value

    def encode(self) -> bytes:
        head = bytes([self.kind]) + encode_varint(self.channel) + encode_varint(self.sequence)
        body = head + encode_varint(len(self.payload)) + self.payload
        return encode_varint(len(body)) + body


def take_counted(buffer: bytearray) -> bytes | None:
    """Remove one `varint(length) bytes` from the front, or None when it is not complete."""
    head = decode_varint(buffer, 0)
    if head is None or len(buffer) < head[1] + head[0]:
        return None
    length, start = head
    taken = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return taken


def decode_body(body: bytes) -> Frame:
    offset = 1
    numbers = []
    for _ in range(3):
        decoded = decode_varint(body, offset)
        if decoded is None:
            raise SpecError("frame body ends early")
        number, offset = decoded
        numbers.append(number)
    channel, sequence, length = numbers
    if channel > MAX_U32 or sequence > MAX_U32 or length > len(body) - offset:
        raise SpecError("frame field out of range")
    return Frame(FrameType(body[0]), channel, sequence, body[offset : offset + length])


def take_frame(buffer: bytearray) -> Frame | None:
    body = take_counted(buffer)
    return None if body is None else decode_body(body)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# Keys, proof and certificate


def device_private(seed: bytes) -> bytes:
    return blake3.blake3(seed).digest()


def device_public(private: bytes) -> bytes:
    return bytes(SigningKey(private).verify_key)


@dataclass(frozen=True)
class Proof:
    commitment: bytes
    response: bytes

    def wire(self) -> dict[str, str]:
        return {"commitment": self.commitment.hex(), "response": self.response.hex()}


def ed25519_scalar(private: bytes) -> bytes:
    half = bytearray(hashlib.sha512(private).digest()[:32])
    half[0] &= 248
    half[31] = half[31] & 127 | 64
    return bindings.crypto_core_ed25519_scalar_reduce(bytes(half) + bytes(32))


def proof_context(domain: str, device_id: str, public: bytes, client_static: bytes) -> bytes:
    parts = [PROOF_DOMAIN]
    for text in (domain.encode(), device_id.encode()):
        parts += [len(text).to_bytes(4, "little"), text]
    return b"".join([*parts, public, client_static])


def proof_challenge(context: bytes, public: bytes, commitment: bytes) -> bytes:
    text = PROOF_DOMAIN + len(context).to_bytes(8, "little") + context + public + commitment
    return bindings.crypto_core_ed25519_scalar_reduce(blake3.blake3(text).digest(length=64))


def prove(private: bytes, context: bytes, randomness: bytes) -> Proof:
    nonce = bindings.crypto_core_ed25519_scalar_reduce(randomness)
    commitment = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce)
    challenge = proof_challenge(context, device_public(private), commitment)
    product = bindings.crypto_core_ed25519_scalar_mul(challenge, ed25519_scalar(private))
    return Proof(commitment, bindings.crypto_core_ed25519_scalar_add(nonce, product))


def certificate_bytes(certificate: Mapping[str, Any]) -> bytes:
    """The signed bytes, built from the values in declared order; hex is lower case there."""
    ordered = {name: certificate[name] for name in CERTIFICATE_FIELDS}
    ordered |= {name: ordered[name].lower() for name in ("public_key", "issuer")}
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()


def certificate_is_valid(certificate: Mapping[str, Any], authority: bytes) -> bool:
    if bytes.fromhex(certificate["issuer"]) != authority:
        return False
    try:
        VerifyKey(authority).verify(certificate_bytes(certificate), bytes.fromhex(certificate["signature"]))
    except BadSignatureError:
        return False
    return True


@dataclass(frozen=True)
class Device:
    device_id: str
    handle: str
    private: bytes = field(default_factory=lambda: device_private(secrets.token_bytes(32)), repr=False)
    noise_private: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def public(self) -> bytes:
        return device_public(self.private)

    @property
    def noise_public(self) -> bytes:
        return bindings.crypto_scalarmult_base(self.noise_private)

    def prove(self, domain: str) -> Proof:
        context = proof_context(domain, self.device_id, self.public, self.noise_public)
        return prove(self.private, context, secrets.token_bytes(64))


def noise_initiator(pattern: str, own_private: bytes, server_public: bytes) -> NoiseConnection:
    noise = NoiseConnection.from_name(f"Noise_{pattern}_25519_ChaChaPoly_BLAKE2s".encode())
    noise.set_as_initiator()
    noise.set_prologue(PROLOGUE)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, own_private)
    noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, server_public)
    noise.start_handshake()
    return noise


# HTTP/2 over TLS


@dataclass(frozen=True)
class Endpoint:
    host: str
    port: int
    certificate: Path
    domain: str = "localhost"

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((self.host, self.port), timeout=DEADLINE)
        with contextlib.ExitStack() as undo:
            undo.callback(plain.close)
            secured = context.wrap_socket(plain, server_hostname=self.domain)
            undo.pop_all()
        return secured


@dataclass
class Stream:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: bool = False


class Http2:
    """One connection. Every wait has a deadline; h2 itself answers SETTINGS and PING, unless `muted`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._authority = f"{endpoint.domain}:{endpoint.port}"
        self._socket = endpoint.connect()
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._streams: dict[int, Stream] = {}
        self.muted = False
        self._received = 0
        self._pinged_at = -1
        self._pings_answered: set[bytes] = set()
        self._h2.initiate_connection()
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def offers_extended_connect(self) -> bool:
        """RFC 8441, section 3; known once something was received."""
        return self._h2.remote_settings.enable_connect_protocol == 1

    def start(self, method: str, path: str, headers: Mapping[str, str], *, end: bool) -> int:
        stream_id = self._h2.get_next_available_stream_id()
        pseudo = [
            (":method", method),
            (":scheme", "https"),
            (":authority", self._authority),
            (":path", path),
        ]
        self._streams[stream_id] = Stream()
        self._h2.send_headers(stream_id, [*pseudo, *headers.items()], end_stream=end)
        self._flush()
        return stream_id

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, JsonObject]:
        stream = self._streams[self.start("GET", path, headers or {}, end=True)]
        deadline = time.monotonic() + DEADLINE
        while not stream.ended:
            self.pump(deadline)
        return int(stream.headers[":status"]), json.loads(stream.body.decode("utf-8"))

    def headers(self, stream_id: int) -> dict[str, str]:
        stream = self._streams[stream_id]
        deadline = time.monotonic() + DEADLINE
        while not stream.headers:
            self.pump(deadline)
        return stream.headers

    def send(self, stream_id: int, data: bytes, chunk: int | None = None) -> None:
        """Send within the flow-control windows, in DATA frames of at most `chunk` bytes."""
        deadline = time.monotonic() + DEADLINE
        offset = 0
        while offset < len(data):
            room = self._h2.local_flow_control_window(stream_id)
            if not room:
                self.pump(deadline)
                continue
            size = min(room, self._h2.max_outbound_frame_size, chunk or len(data), len(data) - offset)
            self._h2.send_data(stream_id, data[offset : offset + size])
            self._flush()
            offset += size

    def finish(self, stream_id: int) -> None:
        self._h2.end_stream(stream_id)
        self._flush()

    def was_reset(self, stream_id: int) -> bool:
        stream = self._streams[stream_id]
        return stream.reset or not stream.ended

    def read(self, stream_id: int, deadline: float) -> bytes:
        """At least one byte of the response body."""
        stream = self._streams[stream_id]
        while not stream.body:
            if stream.ended:
                raise StreamEndedError
            self.pump(deadline)
        data = bytes(stream.body)
        stream.body.clear()
        return data

    def wait_for_ping(self) -> None:
        """Until the server has pinged behind everything that was received, and has seen our answer."""
        deadline = time.monotonic() + DEADLINE
        while self._pinged_at < self._received:
            self.pump(deadline)
        self.round_trip()

    def round_trip(self) -> None:
        mark = secrets.token_bytes(8)
        self._h2.ping(mark)
        self._flush()
        deadline = time.monotonic() + DEADLINE
        while mark not in self._pings_answered:
            self.pump(deadline)

    def pump(self, deadline: float) -> None:
        """Wait for bytes and handle what they say."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the server did not answer in time")
        self._socket.settimeout(remaining)
        data = self._socket.recv(65_536)
        if not data:
            raise StreamEndedError
        for event in self._h2.receive_data(data):
            self._handle(event)
        self._flush()

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=int(stream_id)):
                self._streams[stream_id].headers.update({str(k): str(v) for k, v in event.headers or []})
            case h2.events.DataReceived(stream_id=int(stream_id), data=bytes(data)):
                self._streams[stream_id].body += data
                self._received += len(data)
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
            case h2.events.StreamEnded(stream_id=int(stream_id)):
                self._streams[stream_id].ended = True
            case h2.events.StreamReset(stream_id=int(stream_id)):
                self._streams[stream_id].ended = self._streams[stream_id].reset = True
            case h2.events.PingReceived():
                self._pinged_at = self._received
            case h2.events.PingAckReceived(ping_data=bytes(mark)):
                self._pings_answered.add(mark)
            case h2.events.ConnectionTerminated():
                raise StreamEndedError
            case _:
                pass

    def _flush(self) -> None:
        if self.muted:
            return
        self._socket.settimeout(DEADLINE)
        self._socket.sendall(self._h2.data_to_send())


@dataclass(frozen=True)
class ServerInfo:
    domain: str
    noise_public: bytes
    device_ca_public: bytes


def server_info(endpoint: Endpoint) -> ServerInfo:
    with Http2(endpoint) as http:
        status, info = http.get("/api/server-info")
    if status != 200:
        raise SpecError(f"server-info answered {status}")
    ca, noise = bytes.fromhex(info["device_ca_public"]), bytes.fromhex(info["noise_public"])
    return ServerInfo(info["domain"], noise, ca)


# Sessions


class Wire:
    """The byte stream of one /connect: clear frames first, Noise messages after `encrypt_with`."""

    def __init__(
        self, endpoint: Endpoint, http: Http2 | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.http = http or Http2(endpoint)
        self.data_chunk: int | None = None
        self.noise_sizes: list[int] = []
        self.encrypted_bytes = bytearray()
        self._noise: NoiseConnection | None = None
        self._buffer = bytearray()
        self._plain = bytearray()
        with contextlib.ExitStack() as undo:
            undo.callback(self.http.close)
            fields = {"content-type": "application/octet-stream", **(headers or {})}
            self._stream = self.http.start("POST", "/connect", fields, end=False)
            self.response = self.http.headers(self._stream)
            undo.pop_all()

    def encrypt_with(self, noise: NoiseConnection) -> None:
        self._noise = noise

    def send_bytes(self, data: bytes) -> None:
        self.http.send(self._stream, data, self.data_chunk)

    def send_clear(self, frame: Frame) -> None:
        self.send_bytes(frame.encode())

    def receive_clear(self) -> Frame:
        deadline = time.monotonic() + DEADLINE
        while (frame := take_frame(self._buffer)) is None:
            self._buffer += self.http.read(self._stream, deadline)
        return frame

    def send_noise(self, pieces: Iterable[bytes]) -> None:
        """Each piece of plaintext becomes one Noise message."""
        if self._noise is None:
            raise SpecError("the handshake is not finished")
        messages = [self._noise.encrypt(piece) for piece in pieces]
        self.send_bytes(b"".join(encode_varint(len(message)) + message for message in messages))

    def receive_noise(self) -> Frame:
        deadline = time.monotonic() + DEADLINE
        while (frame := take_frame(self._plain)) is None:
            self._plain += self._next_plaintext(deadline)
        return frame

    def wait_for_end(self) -> bytes:
        """The bytes that still come before the server ends the response properly."""
        deadline = time.monotonic() + DEADLINE
        rest = bytearray(self._buffer)
        with contextlib.suppress(StreamEndedError):
            while True:
                rest += self.http.read(self._stream, deadline)
        if self.http.was_reset(self._stream):
            raise SpecError("the server reset the stream instead of ending it")
        return bytes(rest)

    def close(self) -> None:
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            self.http.finish(self._stream)
        self.http.close()

    def _next_plaintext(self, deadline: float) -> bytes:
        while (message := take_counted(self._buffer)) is None:
            self._buffer += self.http.read(self._stream, deadline)
        if self._noise is None or not NOISE_TAG <= len(message) <= MAX_NOISE_MESSAGE:
            raise SpecError(f"a Noise message of {len(message)} bytes")
        self.noise_sizes.append(len(message))
        self.encrypted_bytes += message
        return bytes(self._noise.decrypt(message))


def hello_payload(
    device: Device, pattern: str, message: bytes, proof: Proof, capabilities: Sequence[str]
) -> JsonObject:
    payload: JsonObject = {
        "pattern": pattern,
        "supported_versions": [1],
        "device_id": device.device_id,
        "client_static": device.noise_public.hex(),
        "device_public": device.public.hex(),
        "handshake": message.hex(),
        "zkp": proof.wire(),
        "user": {"handle": device.handle},
    }
    if capabilities:
        payload["capabilities"] = list(capabilities)
    return payload


class Session:
    """One device's session. `auth`, `ack` and `identity` keep what the server said in the handshake."""

    def __init__(
        self, endpoint: Endpoint, info: ServerInfo, device: Device, wire: Wire | None = None
    ) -> None:
        self.device = device
        self.wire = wire or Wire(endpoint)
        self.auth: Frame
        self.ack: Frame
        self.identity: JsonObject
        self.waiting: list[Frame] = []
        self._info = info
        self.last_sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.wire.close()

    def next_sequence(self) -> int:
        self.last_sequence += 1
        return self.last_sequence

    def say_hello(
        self,
        pattern: str,
        capabilities: Sequence[str] = (),
        proof: Proof | None = None,
        noise_private: bytes | None = None,
        certificate: JsonObject | None = None,
    ) -> NoiseConnection:
        device = self.device
        noise = noise_initiator(pattern, noise_private or device.noise_private, self._info.noise_public)
        message = bytes(noise.write_message(b""))
        proof = proof or device.prove(self._info.domain)
        payload = hello_payload(device, pattern, message, proof, capabilities)
        if certificate is not None:
            payload["certificate"] = certificate
        self.wire.send_clear(Frame.of_json(FrameType.HELLO, 0, self.next_sequence(), payload))
        return noise

    def read_auth(self, noise: NoiseConnection) -> None:
        self.auth = self._receive_clear(FrameType.AUTH)
        message = bytes.fromhex(self.auth.json()["handshake"])
        self.identity = json.loads(bytes(noise.read_message(message)).decode("utf-8"))

    def send_message_3(self, noise: NoiseConnection) -> None:
        message = bytes(noise.write_message(b""))
        payload = {"handshake": message.hex()}
        channel = self.auth.channel
        self.wire.send_clear(Frame.of_json(FrameType.AUTH, channel, self.next_sequence(), payload))

    def shake_hands(self, pattern: str, capabilities: Sequence[str]) -> None:
        noise = self.say_hello(pattern, capabilities)
        self.read_auth(noise)
        if pattern == "XK":
            self.send_message_3(noise)
            self.wire.encrypt_with(noise)
        else:
            self.wire.encrypt_with(noise)
            self.wire.send_noise([b""])
        self.ack = self._receive_clear(FrameType.ACK)

    def send(self, kind: FrameType, channel: int, payload: bytes) -> int:
        """Send one frame, over several Noise messages when it is long; return its sequence."""
        frame = Frame(kind, channel, self.next_sequence(), payload)
        self.wire.send_noise(cut(frame.encode(), MAX_NOISE_PLAINTEXT))
        return frame.sequence

    def receive(self, kind: FrameType) -> Frame:
        """The next frame of this type; others wait for their turn. An Error is never skipped."""
        for frame in self.waiting:
            if frame.kind is kind:
                self.waiting.remove(frame)
                return frame
        while (frame := self.wire.receive_noise()).kind is not kind:
            if frame.kind is FrameType.ERROR:
                raise SpecError(f"the server answered {frame.payload!r}")
            self.waiting.append(frame)
        return frame

    def join(self, channel: int, members: Sequence[str]) -> Frame:
        self.send(FrameType.JOIN, channel, dump_json({"members": list(members), "relay": True}))
        return self.receive(FrameType.ACK)

    def message(self, channel: int, payload: bytes) -> Frame:
        self.send(FrameType.MSG, channel, payload)
        return self.receive(FrameType.ACK)

    def confirm(self, number: int) -> None:
        """Confirm the inbox up to this number; the answer to the Join shows that it was handled."""
        self.send(FrameType.ACK, 0, dump_json({"ack": number}))
        self.join(SCRATCH_CHANNEL, [])

    def _receive_clear(self, kind: FrameType) -> Frame:
        frame = self.wire.receive_clear()
        if frame.kind is not kind:
            raise SpecError(f"{kind.name} expected, the server sent {frame}")
        return frame


def connect(
    endpoint: Endpoint,
    info: ServerInfo,
    device: Device,
    pattern: str = "XK",
    capabilities: Sequence[str] = ("delivery-ack",),
) -> Session:
    session = Session(endpoint, info, device)
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        session.shake_hands(pattern, capabilities)
        undo.pop_all()
    return session
