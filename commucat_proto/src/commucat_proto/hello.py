"""The handshake's JSON: what a Hello says, what Auth and Ack answer, and why one is refused.

See docs/protocol.md, "Handshake". Everything here is shape only; whether the device is
who it says is decided by the session machines.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from blake3 import blake3

from commucat_crypto import (
    CertificateError,
    CryptoError,
    DeviceCertificate,
    HandshakeProof,
    NoisePattern,
)
from commucat_proto import json_text
from commucat_proto.frames import SUPPORTED_VERSIONS, Frame, FrameType, negotiate_version

MAX_HELLO_LEN = 64 * 1024  # an unauthenticated peer keeps at most this much of our memory
MAX_DEVICE_ID_LEN = 128
MAX_USER_TEXT_LEN = 512
MAX_CAPABILITIES = 64
MAX_CODE_LEN = 128
BINDING_LEN = 32

CALL_MEDIA = "call-media"
"""Capability: the client reads media packets of version 2 and the updates about a call's media."""
DELIVERY_ACK = "delivery-ack"
"""Capability: the client confirms what it received with cumulative Acks on channel 0."""
DELIVERY_STATUS = "delivery-status"
"""Capability: the client is told what becomes of the messages that it sends in this session."""
SELF_COPY = "self-copy"
"""Capability: what the client sends in this session is also stored for its user's other devices."""
SEND_ONLY = "send-only"
"""Capability: the session only sends; it receives nothing and replaces nobody."""


class HandshakeDetail(enum.Enum):
    """The ``detail`` texts of a handshake Error."""

    INVALID = "invalid request"
    CRYPTO = "crypto failure"
    PAIRING = "pairing required"
    STORAGE = "storage failure"
    VERSION = "protocol negotiation failed"
    TIMEOUT = "handshake timeout"


class HandshakeRefusedError(Exception):
    """The handshake cannot go on; ``detail`` is what the peer is told."""

    def __init__(self, detail: HandshakeDetail, reason: str, *, told: str | None = None) -> None:
        super().__init__(reason)
        self.detail = detail
        self.reason = reason
        """For our log: which rule failed."""
        self.told = told if told is not None else detail.value


@attrs.frozen(kw_only=True)
class UserHint:
    """Who the device says it belongs to; nothing of it is proved."""

    user_id: str | None = None
    handle: str | None = None
    display_name: str | None = None
    avatar_url: str | None = None

    def to_wire(self) -> dict[str, str]:
        names = {"id": self.user_id, "handle": self.handle, "display_name": self.display_name}
        names["avatar_url"] = self.avatar_url
        return {name: value for name, value in names.items() if value is not None}


@attrs.frozen
class Resume:
    """Where a client's inbox cursor stands: everything up to ``ack`` of ``epoch`` is its own."""

    epoch: str
    ack: int


@attrs.frozen(kw_only=True)
class Hello:
    """A Hello of the right shape. ``channel`` is echoed in the Auth answer."""

    channel: int
    version: int
    pattern: NoisePattern
    device_id: str
    message_1: bytes = attrs.field(repr=False)
    client_static: bytes
    device_public: bytes
    proof: HandshakeProof = attrs.field(repr=False)
    certificate: DeviceCertificate | None = None
    user: UserHint = attrs.field(factory=UserHint)
    capabilities: frozenset[str] = frozenset()
    resume: Resume | None = None
    binding: bytes = attrs.field(repr=False)
    """What a client that protects its Hello repeats under encryption: :func:`hello_binding`."""


def parse_hello(frame: Frame, patterns: Sequence[NoisePattern]) -> Hello:
    """Read a Hello frame.

    Raises:
        HandshakeRefusedError: wrong type, missing or malformed members, no common version.
    """
    if frame.type is not FrameType.HELLO or not isinstance(frame.control, dict):
        raise _invalid("the first frame is not a Hello object")
    value = frame.control
    version = _version(value)
    pattern_name = value.get("pattern")
    pattern = next((p for p in patterns if p.value == pattern_name), None)
    if pattern is None:
        raise _invalid("pattern is missing or not supported")
    device_id = _text(value, "device_id", MAX_DEVICE_ID_LEN)
    if not device_id or not device_id.isprintable():
        raise _invalid("device_id is empty or has control characters")
    proof = value.get("zkp")
    if not isinstance(proof, dict):
        raise _invalid("zkp is missing")
    try:
        parsed_proof = HandshakeProof.from_wire(proof)
        certificate = _certificate(value)
    except CryptoError as exc:
        raise _invalid(f"zkp or certificate: {exc}") from exc
    return Hello(
        channel=frame.channel,
        version=version,
        pattern=pattern,
        device_id=device_id,
        message_1=_hex(value, "handshake"),
        client_static=_hex(value, "client_static", 32),
        device_public=_hex(value, "device_public", 32),
        proof=parsed_proof,
        certificate=certificate,
        user=_user_hint(value.get("user")),
        capabilities=_capabilities(value.get("capabilities")),
        resume=_resume(value.get("resume")),
        binding=hello_binding(pattern, frame.payload, value),
    )


def hello_binding(pattern: NoisePattern, payload: bytes, value: Mapping[str, Any]) -> bytes:
    """32 bytes that change with every member of a Hello.

    XK: BLAKE3 of the Hello's payload. IK carries the binding in message 1, which stands in the
    Hello itself, so there it is BLAKE3 of the canonical JSON without ``handshake``.
    """
    if pattern is NoisePattern.XK:
        return blake3(payload).digest()
    rest = {name: member for name, member in value.items() if name != "handshake"}
    return blake3(json_text.dumps(rest)).digest()


def _invalid(reason: str) -> HandshakeRefusedError:
    return HandshakeRefusedError(HandshakeDetail.INVALID, reason)


def _version(value: Mapping[str, Any]) -> int:
    """Highest common version; the texts are those that existing clients know."""
    if "supported_versions" in value:
        offered = value["supported_versions"]
        if not isinstance(offered, list):
            raise _no_version("supported_versions must be an array")
        for number in offered:
            _check_version_number(number, "supported_versions entries must be unsigned integers")
        if not offered:
            raise _no_version("supported_versions cannot be empty")
        common = negotiate_version(SUPPORTED_VERSIONS, offered)
        if common is None:
            ours = ", ".join(map(str, SUPPORTED_VERSIONS))
            theirs = ", ".join(map(str, offered[:16]))
            raise _no_version(f"no common protocol version; peer=[{theirs}]; supported=[{ours}]")
        return common
    if "protocol_version" in value:
        number = value["protocol_version"]
        _check_version_number(number, "protocol_version must be an unsigned integer")
        if number not in SUPPORTED_VERSIONS:
            ours = ", ".join(map(str, SUPPORTED_VERSIONS))
            raise _no_version(f"unsupported protocol version {number}; supported=[{ours}]")
        return int(number)
    return 1


def _check_version_number(number: Any, text: str) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise _no_version(text)
    if number > 0xFFFF:
        raise _no_version(f"protocol version {number} out of range")


def _no_version(text: str) -> HandshakeRefusedError:
    told = f"{HandshakeDetail.VERSION.value}: {text}"
    return HandshakeRefusedError(HandshakeDetail.VERSION, text, told=told)


def _text(value: Mapping[str, Any], name: str, limit: int) -> str:
    text = value.get(name)
    if not isinstance(text, str) or len(text) > limit:
        raise _invalid(f"{name} is missing, not a string or too long")
    return text


def _hex(value: Mapping[str, Any], name: str, length: int | None = None) -> bytes:
    text = value.get(name)
    if not isinstance(text, str):
        raise _invalid(f"{name} is missing or not a string")
    return parse_hex(text, name, length)


def parse_hex(text: str, name: str, length: int | None = None) -> bytes:
    """Hex digits of either case and nothing else (``bytes.fromhex`` would skip blanks)."""
    try:
        raw = bytes.fromhex(text)
    except ValueError as exc:
        raise _invalid(f"{name} is not hex") from exc
    if len(text) != 2 * len(raw) or (length is not None and len(raw) != length):
        raise _invalid(f"{name} has the wrong length")
    return raw


def _certificate(value: Mapping[str, Any]) -> DeviceCertificate | None:
    if "certificate" not in value:
        return None
    if not isinstance(value["certificate"], dict):
        raise CertificateError("certificate is not an object")
    return DeviceCertificate.from_wire(value["certificate"])


def _user_hint(value: Any) -> UserHint:
    if not isinstance(value, dict):
        return UserHint()

    def text(*names: str) -> str | None:
        for name in names:
            found = value.get(name)
            if isinstance(found, str) and len(found) <= MAX_USER_TEXT_LEN:
                return found
        return None

    return UserHint(
        user_id=text("id", "user_id"),
        handle=text("handle"),
        display_name=text("display_name"),
        avatar_url=text("avatar_url"),
    )


def _capabilities(value: Any) -> frozenset[str]:
    if not isinstance(value, list):
        return frozenset()
    return frozenset(name for name in value[:MAX_CAPABILITIES] if isinstance(name, str))


def _resume(value: Any) -> Resume | None:
    """A malformed resume is no resume: it can only ever save a redelivery."""
    if not isinstance(value, dict):
        return None
    epoch, ack = value.get("epoch"), value.get("ack")
    if not isinstance(epoch, str) or len(epoch) > 64:
        return None
    if not isinstance(ack, int) or isinstance(ack, bool) or not 0 <= ack <= 0xFFFF_FFFF:
        return None
    return Resume(epoch, ack)


@attrs.frozen
class HiddenPayload:
    """What our client says under Noise encryption: in message 3 of XK, in message 1 of IK.

    Layout: 32 bytes :func:`hello_binding`, then an enrolment code in UTF-8 (0 to 128 bytes).
    An empty payload says neither, as the reference client's does.
    """

    binding: bytes | None
    code: str | None = attrs.field(repr=False)

    def encode(self) -> bytes:
        return (self.binding or b"") + (self.code or "").encode()

    @classmethod
    def decode(cls, payload: bytes) -> "HiddenPayload":
        """Raises :class:`HandshakeRefusedError` for anything that is not the layout above."""
        if not payload:
            return cls(None, None)
        if len(payload) < BINDING_LEN or len(payload) > BINDING_LEN + MAX_CODE_LEN:
            raise _invalid("the hidden payload has the wrong length")
        try:
            code = payload[BINDING_LEN:].decode()
        except UnicodeDecodeError as exc:
            raise _invalid("the enrolment code is not UTF-8") from exc
        return cls(payload[:BINDING_LEN], code or None)
