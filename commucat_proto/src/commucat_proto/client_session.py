"""Client side of a session: bytes in, events out. No I/O, no clock, no storage.

``start`` gives the Hello; ``receive_data`` then leads through Auth (answered by ``reply``)
to the server's final Ack, after which frames flow. XK is the default. With IK the server
is satisfied by the first transport message, so ``reply`` is an empty one.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from commucat_crypto import (
    DeviceCertificate,
    DeviceKeyPair,
    NoiseError,
    NoiseHandshake,
    NoisePattern,
    StaticKeyPair,
    prove_handshake,
)
from commucat_proto import json_text
from commucat_proto.decoder import FrameDecoder
from commucat_proto.errors import CodecError, LocalProtocolError
from commucat_proto.events import (
    AuthReceived,
    ClientEvent,
    Established,
    FramesReceived,
    HandshakeFailed,
    PeerClosed,
    Refused,
    SessionFailed,
)
from commucat_proto.frames import MAX_FRAME_LEN, SUPPORTED_VERSIONS, Frame, FrameType, encode_frame
from commucat_proto.hello import (
    HandshakeDetail,
    HandshakeRefusedError,
    HiddenPayload,
    Resume,
    UserHint,
    hello_binding,
    parse_hex,
)
from commucat_proto.secure_stream import CipherStreamError, SecureStream


class ClientState(enum.Enum):
    """Life of a client session."""

    NEW = "new"
    AWAITING_AUTH = "awaiting_auth"
    AWAITING_ACK = "awaiting_ack"
    ESTABLISHED = "established"
    CLOSED = "closed"


@attrs.frozen(kw_only=True)
class ClientParameters:
    """Who connects to whom, and how."""

    domain: str
    """The server's configured domain, byte for byte: the proof is bound to it."""
    server_static: bytes
    """The server's Noise static key, known beforehand (32 bytes)."""
    device_id: str
    device_keys: DeviceKeyPair = attrs.field(repr=False)
    static: StaticKeyPair = attrs.field(repr=False)
    """The client's own Noise static key."""
    pattern: NoisePattern = NoisePattern.XK
    prologue: bytes = b"commucat"
    user: UserHint = attrs.field(factory=UserHint)
    certificate: DeviceCertificate | None = None
    capabilities: tuple[str, ...] = ()
    resume: Resume | None = None
    code: str | None = attrs.field(default=None, repr=False)
    """One-time enrolment code; travels under Noise encryption only."""
    max_frame_len: int = MAX_FRAME_LEN


class ClientSession:
    """One session with a server, from the Hello to the last frame."""

    def __init__(
        self, parameters: ClientParameters, *, ephemeral: StaticKeyPair, proof_randomness: bytes
    ) -> None:
        """``ephemeral`` and ``proof_randomness`` (64 bytes) are fresh for this session alone."""
        self._parameters = parameters
        self._randomness = proof_randomness
        self._noise = NoiseHandshake(
            pattern=parameters.pattern,
            initiator=True,
            prologue=parameters.prologue,
            static=parameters.static,
            remote_static=parameters.server_static,
            ephemeral=ephemeral,
        )
        self._decoder = FrameDecoder(parameters.max_frame_len)
        self._stream: SecureStream[Frame] | None = None
        self._binding = b""
        self._sequence = 0
        self.state = ClientState.NEW
        self.welcome: dict[str, Any] = {}
        """JSON of Noise message 2 (``session``, ``domain``, ``user_id``, ``user``)."""

    # -- bytes out --------------------------------------------------------------------------------

    def start(self) -> bytes:
        """The Hello frame."""
        if self.state is not ClientState.NEW:
            raise LocalProtocolError("the session was started already")
        p = self._parameters
        proof = prove_handshake(
            p.device_keys,
            domain=p.domain,
            device_id=p.device_id,
            client_static=p.static.public,
            randomness=self._randomness,
        )
        hello: dict[str, Any] = {
            "supported_versions": list(SUPPORTED_VERSIONS),
            "pattern": p.pattern.value,
            "device_id": p.device_id,
            "client_static": p.static.public.hex(),
            "device_public": p.device_keys.public.hex(),
            "zkp": proof.to_wire(),
            "capabilities": ["noise", *p.capabilities],
        }
        if hint := p.user.to_wire():
            hello["user"] = hint
        if p.certificate is not None:
            hello["certificate"] = p.certificate.to_wire()
        if p.resume is not None:
            hello["resume"] = {"epoch": p.resume.epoch, "ack": p.resume.ack}
        if p.pattern is NoisePattern.IK:
            hidden = HiddenPayload(hello_binding(p.pattern, b"", hello), p.code)
            hello["handshake"] = self._noise.write_message(hidden.encode()).hex()
            payload = json_text.dumps(hello)
        else:
            hello["handshake"] = self._noise.write_message().hex()
            payload = json_text.dumps(hello)
            self._binding = hello_binding(p.pattern, payload, hello)
        self.state = ClientState.AWAITING_AUTH
        return encode_frame(FrameType.HELLO, 0, self.next_sequence(), payload)

    def frame(self, frame_type: FrameType, channel: int, payload: bytes) -> tuple[int, bytes]:
        """Encode a frame under the next sequence; returns (sequence, bytes for :meth:`seal`)."""
        sequence = self.next_sequence()
        return sequence, encode_frame(frame_type, channel, sequence, payload)

    def control_frame(
        self, frame_type: FrameType, channel: int, value: Mapping[str, Any]
    ) -> tuple[int, bytes]:
        """Like :meth:`frame`, for JSON frames."""
        return self.frame(frame_type, channel, json_text.dumps(dict(value)))

    def next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFF_FFFF + 1
        return self._sequence

    def seal(self, encoded_frames: Iterable[bytes]) -> bytes:
        """Encrypt encoded frames, as few Noise messages as they fit in.

        Raises:
            LocalProtocolError: the session is not established.
        """
        if self.state is not ClientState.ESTABLISHED or self._stream is None:
            raise LocalProtocolError("the session is not established")
        return self._stream.seal(encoded_frames)

    # -- bytes in ---------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray) -> list[ClientEvent]:
        """Take bytes as the network split them; return what they completed.

        ``b""`` means that the server ended its side. A violation is the last event.

        Raises:
            LocalProtocolError: the session is closed, or was not started.
        """
        if self.state in (ClientState.NEW, ClientState.CLOSED):
            raise LocalProtocolError(f"not possible in state {self.state.value}")
        if not data:
            self.state = ClientState.CLOSED
            return [PeerClosed()]
        if self.state is ClientState.ESTABLISHED:
            return self._receive_frames(data)
        self._decoder.feed(data)
        events: list[ClientEvent] = []
        try:
            while self.state in (ClientState.AWAITING_AUTH, ClientState.AWAITING_ACK):
                frame = self._decoder.next_frame()
                if frame is None:
                    return events
                events.append(self._receive_clear(frame))
        except CodecError as exc:
            self.state = ClientState.CLOSED
            failure = HandshakeFailed(HandshakeDetail.INVALID, exc.code.text, b"", undecodable=True)
            return [*events, failure]
        except HandshakeRefusedError as exc:
            self.state = ClientState.CLOSED
            return [*events, HandshakeFailed(exc.detail, exc.reason, b"")]
        if self.state is ClientState.ESTABLISHED and (rest := self._decoder.take_rest()):
            events += self._receive_frames(rest)
        return events

    def _receive_clear(self, frame: Frame) -> ClientEvent:
        value = None if frame.type.is_opaque else frame.control
        if not isinstance(value, dict):
            raise HandshakeRefusedError(HandshakeDetail.INVALID, "the server sent no JSON object")
        if frame.type is FrameType.ERROR:
            self.state = ClientState.CLOSED
            return Refused(value)
        if frame.type is FrameType.AUTH and self.state is ClientState.AWAITING_AUTH:
            return self._receive_auth(value)
        if frame.type is FrameType.ACK and self.state is ClientState.AWAITING_ACK:
            self.state = ClientState.ESTABLISHED
            return Established(value)
        raise HandshakeRefusedError(HandshakeDetail.INVALID, f"unexpected {frame.type.wire_name} frame")

    def _receive_auth(self, value: Mapping[str, Any]) -> AuthReceived:
        p = self._parameters
        text = value.get("handshake")
        if not isinstance(text, str):
            raise HandshakeRefusedError(HandshakeDetail.INVALID, "Auth carries no handshake")
        try:
            payload = self._noise.read_message(parse_hex(text, "handshake"))
        except NoiseError as exc:
            raise HandshakeRefusedError(HandshakeDetail.CRYPTO, f"message 2: {exc}") from exc
        self.welcome = self._read_welcome(payload)
        self.state = ClientState.AWAITING_ACK
        if p.pattern is NoisePattern.IK:
            self._stream = self._secure_stream()
            return AuthReceived(self._stream.seal([b""]))
        message_3 = self._noise.write_message(HiddenPayload(self._binding, p.code).encode())
        self._stream = self._secure_stream()
        reply = {"handshake": message_3.hex()}
        return AuthReceived(self.control_frame(FrameType.AUTH, 0, reply)[1])

    def _secure_stream(self) -> SecureStream[Frame]:
        # A server whose JSON cannot be read is broken as a whole: it has nobody to answer to.
        limit = self._parameters.max_frame_len
        return SecureStream(self._noise.split(), max_frame_len=limit, cut=FrameDecoder.next_frame)

    def _read_welcome(self, payload: bytes) -> dict[str, Any]:
        if not payload:
            return {}
        try:
            welcome = json_text.loads(payload)
        except json_text.JsonTextError as exc:
            raise HandshakeRefusedError(HandshakeDetail.INVALID, "message 2 carries no JSON") from exc
        if not isinstance(welcome, dict):
            raise HandshakeRefusedError(HandshakeDetail.INVALID, "message 2 carries no JSON object")
        if welcome.get("domain", self._parameters.domain) != self._parameters.domain:
            raise HandshakeRefusedError(HandshakeDetail.INVALID, "the server has another domain")
        return welcome

    def _receive_frames(self, data: bytes | bytearray) -> list[ClientEvent]:
        assert self._stream is not None
        try:
            frames = self._stream.open(data)
        except (CipherStreamError, CodecError) as exc:
            self.state = ClientState.CLOSED
            code = "decode" if isinstance(exc, CodecError) else "decrypt"
            failed = SessionFailed(code, str(exc))
            before = self._stream.salvage()
            return [FramesReceived(before), failed] if before else [failed]
        return [FramesReceived(frames)] if frames else []
