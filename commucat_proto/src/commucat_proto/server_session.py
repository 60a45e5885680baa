"""Server side of a session: bytes in, events out. No I/O, no clock, no storage.

The life of a session, and who moves it on:

======================  ===============================================  ==================
state                   what ends it                                     next state
======================  ===============================================  ==================
``AWAITING_HELLO``      a Hello frame whose proof and message 1 are good  ``HELLO_READ``
``HELLO_READ``          the caller: :meth:`ServerSession.send_auth`       ``AWAITING_PROOF``
``AWAITING_PROOF``      XK: Auth frame with message 3. IK: the first      ``PROVED``
                        transport message that decrypts
``PROVED``              the caller: :meth:`ServerSession.establish`       ``ESTABLISHED``
``ESTABLISHED``         either side ends it, or a violation               ``CLOSED``
======================  ===============================================  ==================

Where the caller establishes a *clear* session, for a client that drops its keys after the handshake, the
established stream is plain frames instead of Noise messages; nothing else is different.

In ``HELLO_READ`` and ``PROVED`` the machine waits for its caller; bytes that arrive
meanwhile are kept and looked at afterwards. Nothing that a peer sends before ``PROVED`` may
cause a write: message 1 of IK and the proof in a Hello can both be recordings.
"""

import enum
import hmac
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import attrs

from commucat_crypto import (
    NoiseError,
    NoiseHandshake,
    NoisePattern,
    NoiseTransport,
    ProofError,
    StaticKeyPair,
    verify_handshake,
)
from commucat_proto import json_text
from commucat_proto.clear_stream import ClearStream, FrameStream
from commucat_proto.decoder import FrameDecoder
from commucat_proto.errors import CodecError, LocalProtocolError
from commucat_proto.events import (
    ClientProved,
    FrameRefused,
    FramesReceived,
    HandshakeFailed,
    HelloReceived,
    PeerClosed,
    ServerEvent,
    SessionFailed,
)
from commucat_proto.frames import (
    MAX_FRAME_LEN,
    SUPPORTED_VERSIONS,
    Frame,
    FrameType,
    RefusedFrame,
    encode_frame,
)
from commucat_proto.hello import (
    MAX_HELLO_LEN,
    HandshakeDetail,
    HandshakeRefusedError,
    Hello,
    HiddenPayload,
    parse_hello,
    parse_hex,
)
from commucat_proto.secure_stream import CipherStreamError, SecureStream


class ServerState(enum.Enum):
    """See the table at the top of this module."""

    AWAITING_HELLO = "awaiting_hello"
    HELLO_READ = "hello_read"
    AWAITING_PROOF = "awaiting_proof"
    PROVED = "proved"
    ESTABLISHED = "established"
    CLOSED = "closed"


@attrs.frozen(kw_only=True)
class ServerKey:
    """One version of the server's Noise static key."""

    version: int
    keys: StaticKeyPair = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class ServerParameters:
    """What every session of one server shares."""

    domain: str
    keys: Sequence[ServerKey]
    """Newest first; each is tried on message 1."""
    prologue: bytes = b"commucat"
    patterns: Sequence[NoisePattern] = (NoisePattern.XK, NoisePattern.IK)
    max_frame_len: int = MAX_FRAME_LEN
    """Bytes; a longer frame ends the session."""


class ServerSession:
    """One client's session, from its first byte to its last."""

    __slots__ = (
        "_bound",
        "_code",
        "_decoder",
        "_early_frames",
        "_ephemeral",
        "_held",
        "_hello",
        "_key",
        "_noise",
        "_parameters",
        "_sequence",
        "_stream",
        "_transport",
        "state",
    )

    def __init__(self, parameters: ServerParameters, *, ephemeral: StaticKeyPair) -> None:
        """``ephemeral`` is a fresh X25519 pair for this session alone."""
        self._parameters = parameters
        self._ephemeral: StaticKeyPair | None = ephemeral
        self._decoder = FrameDecoder(MAX_HELLO_LEN)
        self._held = bytearray()
        self._noise: NoiseHandshake | None = None
        self._key: ServerKey | None = None
        self._hello: Hello | None = None
        self._code: str | None = None
        self._bound = False
        self._transport: NoiseTransport | None = None
        self._stream: FrameStream | None = None
        self._early_frames: Sequence[Frame | RefusedFrame] = ()
        self._sequence = 0
        self.state = ServerState.AWAITING_HELLO

    # -- bytes in -------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray) -> list[ServerEvent]:
        """Take bytes as the network split them; return what they completed.

        ``b""`` means that the peer ended its side. A violation is reported as the last event.

        Raises:
            LocalProtocolError: the session is closed already.
        """
        if self.state is ServerState.ESTABLISHED and data:
            return self._receive_frames(data)
        if self.state is ServerState.CLOSED:
            raise LocalProtocolError("the session is closed")
        if not data:
            self.state = ServerState.CLOSED
            return [PeerClosed()]
        self._held += data
        return self._advance()

    def _advance(self) -> list[ServerEvent]:
        """Go on with what is held, as far as the state allows."""
        try:
            if self.state is ServerState.AWAITING_HELLO:
                return self._read_hello()
            if self.state is ServerState.AWAITING_PROOF:
                return self._read_proof()
        except CodecError as exc:
            return [self._fail(HandshakeDetail.INVALID, exc.code.text, {"error": "decode"}, undecodable=True)]
        except HandshakeRefusedError as exc:
            return [self._fail(exc.detail, exc.reason, handshake_error(exc.told))]
        if len(self._held) > MAX_HELLO_LEN:
            # The caller is still deciding; a peer must not fill our memory meanwhile.
            self._held.clear()
            return [
                self._fail(HandshakeDetail.INVALID, "too much data before the answer", {"error": "decode"})
            ]
        return []

    def _next_clear_frame(self) -> Frame | None:
        self._decoder.feed(bytes(self._held))
        self._held.clear()
        frame = self._decoder.next_frame()
        if frame is not None:
            # What follows belongs to the next state, which may read it as ciphertext.
            self._held += self._decoder.take_rest()
        return frame

    def _read_hello(self) -> list[ServerEvent]:
        frame = self._next_clear_frame()
        if frame is None:
            return []
        hello = parse_hello(frame, self._parameters.patterns)
        try:
            verify_handshake(
                hello.proof,
                domain=self._parameters.domain,
                device_id=hello.device_id,
                device_public=hello.device_public,
                client_static=hello.client_static,
            )
        except ProofError as exc:
            raise HandshakeRefusedError(HandshakeDetail.INVALID, f"proof: {exc}") from exc
        self._read_message_1(hello)
        self._hello = hello
        self.state = ServerState.HELLO_READ
        assert self._key is not None
        return [HelloReceived(hello, self._key.version)]

    def _read_message_1(self, hello: Hello) -> None:
        for key in self._parameters.keys:
            noise = NoiseHandshake(
                pattern=hello.pattern,
                initiator=False,
                prologue=self._parameters.prologue,
                static=key.keys,
                ephemeral=self._ephemeral,
            )
            try:
                payload = noise.read_message(hello.message_1)
            except NoiseError:
                continue  # written for another of our keys, or not at all
            self._noise, self._key = noise, key
            if hello.pattern is NoisePattern.IK:
                self._compare_static(noise.remote_static, hello.client_static)
                self._read_hidden(payload, hello)
            return
        raise HandshakeRefusedError(HandshakeDetail.INVALID, "message 1 fits none of our static keys")

    def _read_hidden(self, payload: bytes, hello: Hello) -> None:
        hidden = HiddenPayload.decode(payload)
        if hidden.binding is not None and not hmac.compare_digest(hidden.binding, hello.binding):
            raise HandshakeRefusedError(HandshakeDetail.CRYPTO, "the Hello was changed on its way")
        self._bound = hidden.binding is not None
        self._code = hidden.code

    def _compare_static(self, delivered: bytes | None, claimed: bytes) -> None:
        """The proof binds ``client_static``; Noise must have delivered that very key."""
        if delivered is None or not hmac.compare_digest(delivered, claimed):
            raise HandshakeRefusedError(HandshakeDetail.CRYPTO, "client_static is not the Noise static key")

    def _read_proof(self) -> list[ServerEvent]:
        assert self._hello is not None
        assert self._noise is not None
        if self._hello.pattern is NoisePattern.IK:
            return self._read_first_transport_message()
        frame = self._next_clear_frame()
        if frame is None:
            return []
        if frame.type is not FrameType.AUTH or not isinstance(frame.control, dict):
            raise HandshakeRefusedError(HandshakeDetail.INVALID, "expected an Auth object")
        text = frame.control.get("handshake")
        if not isinstance(text, str):
            raise HandshakeRefusedError(HandshakeDetail.INVALID, "Auth carries no handshake")
        try:
            payload = self._noise.read_message(parse_hex(text, "handshake"))
        except NoiseError as exc:
            raise HandshakeRefusedError(HandshakeDetail.CRYPTO, f"message 3: {exc}") from exc
        self._compare_static(self._noise.remote_static, self._hello.client_static)
        self._read_hidden(payload, self._hello)
        self._transport = self._noise.split()
        return self._proved()

    def _read_first_transport_message(self) -> list[ServerEvent]:
        """IK: only the owner of ``client_static`` can write a message that decrypts."""
        assert self._transport is not None
        if self._stream is None:
            self._stream = self._secure_stream(self._transport)
        data = bytes(self._held)
        self._held.clear()
        try:
            frames = self._stream.open(data)
        except CipherStreamError as exc:
            raise HandshakeRefusedError(HandshakeDetail.CRYPTO, f"first message: {exc}") from exc
        self._early_frames = frames
        return self._proved() if self._transport.received else []

    def _proved(self) -> list[ServerEvent]:
        assert self._hello is not None
        self.state = ServerState.PROVED
        return [ClientProved(self._hello, self._code, self._bound)]

    def _secure_stream(self, transport: NoiseTransport) -> SecureStream[Frame | RefusedFrame]:
        limit = self._parameters.max_frame_len
        return SecureStream(transport, max_frame_len=limit, cut=FrameDecoder.next_whole)

    def _receive_frames(self, data: bytes | bytearray) -> list[ServerEvent]:
        assert self._stream is not None
        try:
            frames = self._stream.open(data)
        except CipherStreamError as exc:
            return self._broken("decrypt", str(exc))
        except CodecError as exc:
            return self._broken("decode", exc.code.text)
        return _reported(frames)

    def _broken(self, code: str, reason: str) -> list[ServerEvent]:
        assert self._stream is not None
        self.state = ServerState.CLOSED
        # Those before came in the same read, intact: not to be lost with the broken part.
        events = _reported(self._stream.salvage())
        events.append(SessionFailed(code, reason))
        return events

    # -- commands: bytes out ----------------------------------------------------------------------

    def send_auth(self, *, session: str, user_id: str, user: Mapping[str, Any]) -> bytes:
        """Answer the Hello with the Auth frame (Noise message 2 inside).

        ``session``, ``user_id`` and ``user`` go into the encrypted payload of message 2; for a
        device that does not exist yet they are tentative and reserve nothing.
        """
        self._require(ServerState.HELLO_READ)
        assert self._noise is not None
        assert self._hello is not None
        assert self._key is not None
        payload: dict[str, Any] = {
            "session": session,
            "domain": self._parameters.domain,
            "protocol_version": self._hello.version,
            "user_id": user_id,
            "user": dict(user),
        }
        message_2 = self._noise.write_message(json_text.dumps(payload))
        if self._hello.pattern is NoisePattern.IK:
            self._transport = self._noise.split()
        self.state = ServerState.AWAITING_PROOF
        self._decoder = FrameDecoder(MAX_HELLO_LEN)
        return self.control_frame(
            FrameType.AUTH,
            self._hello.channel,
            {
                "session": session,
                "device_id": self._hello.device_id,
                "handshake": message_2.hex(),
                "server_static": self._key.keys.public.hex(),
                "protocol_version": self._hello.version,
                "supported_versions": list(SUPPORTED_VERSIONS),
            },
        )

    def establish(self, ack: Mapping[str, Any], *, clear: bool = False) -> bytes:
        """The device is admitted: send the final Ack, in clear; encryption starts after it.

        With ``clear`` it never starts, in neither direction. Bytes that came early are still to be looked
        at: call :meth:`pending_events` next.

        Raises:
            LocalProtocolError: not proved, or ``clear`` with IK, whose client has encrypted already.
        """
        self._require(ServerState.PROVED)
        assert self._transport is not None
        if clear and self._stream is not None:
            raise LocalProtocolError("the client has encrypted already")
        data = self.control_frame(FrameType.ACK, 0, {"handshake": "ok", **ack})
        if clear:
            self._stream = ClearStream(max_frame_len=self._parameters.max_frame_len)
        elif self._stream is None:
            self._stream = self._secure_stream(self._transport)
        self.state = ServerState.ESTABLISHED
        # What the handshake needed is needed no longer, nor its memory; nor should its private key stay.
        self._noise = self._hello = self._ephemeral = None
        del self._decoder
        return data

    def pending_events(self) -> list[ServerEvent]:
        """Events of bytes that arrived while the machine waited for its caller."""
        if self.state is not ServerState.ESTABLISHED:
            return self._advance()
        events = _reported(self._early_frames)
        self._early_frames = ()
        if self._held:
            data = bytes(self._held)
            self._held.clear()
            events += self._receive_frames(data)
        return events

    def refuse(self, detail: HandshakeDetail, *, told: str | None = None, **extra: Any) -> bytes:
        """Refuse the client before it is established: an Error frame, in clear."""
        if self.state in (ServerState.ESTABLISHED, ServerState.CLOSED):
            raise LocalProtocolError("the handshake is over")
        self.state = ServerState.CLOSED
        error = handshake_error(told if told is not None else detail.value)
        if detail is HandshakeDetail.PAIRING:
            error |= {"title": "PairingRequired", "pairing_required": True}
        return self.control_frame(FrameType.ERROR, 0, {**error, **extra})

    def control_frame(self, frame_type: FrameType, channel: int, value: Mapping[str, Any]) -> bytes:
        """Encode a JSON frame under the next number of this connection's own counter.

        The counter numbers everything except durable frames, which carry inbox numbers.
        """
        return encode_frame(frame_type, channel, self.next_sequence(), json_text.dumps(dict(value)))

    def next_sequence(self) -> int:
        # 2^32 frames later the counter starts over: it names frames, it orders nothing.
        self._sequence = self._sequence % 0xFFFF_FFFF + 1
        return self._sequence

    def seal(self, encoded_frames: Iterable[bytes]) -> bytes:
        """Encrypt encoded frames for the established session, as few messages as they fit in; only join
        them if it is a clear one."""
        if self._stream is None:
            raise LocalProtocolError("the session is not established")
        return self._stream.seal(encoded_frames)

    def rest(self) -> None:
        """Called now and then: gives back memory if nothing was sent or received since the last call."""
        if self._stream is not None:
            self._stream.rest()

    @property
    def key(self) -> ServerKey:
        """The static key that read message 1."""
        if self._key is None:
            raise LocalProtocolError("no Hello was read")
        return self._key

    def _require(self, state: ServerState) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"not possible in state {self.state.value}")

    def _fail(
        self, detail: HandshakeDetail, reason: str, error: Mapping[str, Any], *, undecodable: bool = False
    ) -> HandshakeFailed:
        self.state = ServerState.CLOSED
        reply = self.control_frame(FrameType.ERROR, 0, error)
        return HandshakeFailed(detail, reason, reply, undecodable)


def _reported(frames: Sequence[Frame | RefusedFrame]) -> list[ServerEvent]:
    """One event for each run of good frames, and one for each refused frame between them."""
    good = [frame for frame in frames if isinstance(frame, Frame)]
    if len(good) == len(frames):  # nearly always
        return [FramesReceived(good)] if good else []
    events: list[ServerEvent] = []
    for kind, run in groupby(frames, type):
        if kind is RefusedFrame:
            events += [FrameRefused(frame) for frame in run if isinstance(frame, RefusedFrame)]
        else:
            events.append(FramesReceived([frame for frame in run if isinstance(frame, Frame)]))
    return events


def handshake_error(told: str) -> dict[str, Any]:
    """The JSON of a handshake Error."""
    return {"error": "handshake", "detail": told}
