"""Friend requests between users of two servers, and their answers.

They are signed directly, not by way of a digest, over their parts with ``|`` between them. No part may hold
that character but the message: else one text would belong to two requests.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs

from commucat_crypto import CryptoError, DeviceKeyPair, verify_signature
from commucat_proto.errors import RemoteProtocolError
from commucat_proto.federation.instants import InstantError, parse_instant
from commucat_proto.json_text import JsonValue

_SIGNATURE_DIGITS: Final = 128
_MAX_ID: Final = 128
_MAX_ADDRESS: Final = 320


class FriendEventKind(enum.Enum):
    """``type`` of the object."""

    REQUEST = "friend_request"
    RESPONSE = "friend_response"
    """Whether the request was accepted; peers of 2025 do not know it."""


class FriendEventError(RemoteProtocolError):
    """Not a friend event, or not signed by the peer; the text is the ``detail`` of the refusal."""


@attrs.frozen(kw_only=True)
class FriendEvent:
    """A request of ``sender`` to ``recipient``, or the answer of ``sender`` to a request of ``recipient``."""

    kind: FriendEventKind
    request_id: str
    sender: str
    """``handle@domain``."""
    recipient: str
    """``handle@domain``."""
    timestamp: str
    """RFC 3339, as it was signed."""
    message: str | None = attrs.field(default=None, repr=False)
    """Of a request."""
    accept: bool | None = None
    """Of a response."""
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """What the signature covers, each part without blanks around it."""
        if self.kind is FriendEventKind.REQUEST:
            said = self.message or ""
        else:
            said = "accept" if self.accept else "reject"
        parts = (self.request_id, self.sender, self.recipient, said, self.timestamp)
        return "|".join(part.strip() for part in parts).encode()

    def sign(self, keys: DeviceKeyPair) -> "FriendEvent":
        """The same, signed."""
        return attrs.evolve(self, signature=keys.sign(self.signed_bytes()))

    def verify(self, public: bytes) -> None:
        """Hold it against the peer's Ed25519 key.

        Raises:
            FriendEventError: it was not signed by this key.
        """
        try:
            verify_signature(public, self.signed_bytes(), self.signature)
        except (CryptoError, ValueError) as exc:
            raise FriendEventError("invalid signature") from exc

    def to_wire(self) -> dict[str, JsonValue]:
        """The JSON object."""
        value: dict[str, JsonValue] = {
            "type": self.kind.value,
            "request_id": self.request_id,
            "from": self.sender,
            "to": self.recipient,
        }
        if self.kind is FriendEventKind.REQUEST:
            value["message"] = self.message
        else:
            value["accept"] = bool(self.accept)
        value |= {"timestamp": self.timestamp, "signature": self.signature.hex()}
        return value

    @classmethod
    def from_wire(cls, value: JsonValue) -> Self:
        """Read the object; it is not verified yet.

        Raises:
            FriendEventError: it is something else.
        """
        if not isinstance(value, Mapping):
            raise FriendEventError("invalid JSON payload")
        kind = _text(value, "type")
        try:
            known = FriendEventKind(kind)
        except ValueError as exc:
            raise FriendEventError(f"unsupported event type: {kind[:_MAX_ID]}") from exc
        event = cls(
            kind=known,
            request_id=_text(value, "request_id", _MAX_ID),
            sender=_text(value, "from", _MAX_ADDRESS),
            recipient=_text(value, "to", _MAX_ADDRESS),
            timestamp=_text(value, "timestamp"),
            message=_message(value) if known is FriendEventKind.REQUEST else None,
            accept=_accept(value) if known is FriendEventKind.RESPONSE else None,
            signature=_signature(_text(value, "signature")),
        )
        for name, part in (("request_id", event.request_id), ("from", event.sender), ("to", event.recipient)):
            if "|" in part:
                raise FriendEventError(f"'{name}' must not hold '|'")
        try:
            parse_instant(event.timestamp.strip())
        except InstantError as exc:
            raise FriendEventError(str(exc)) from exc
        return event


def _text(members: Mapping[str, JsonValue], name: str, most: int | None = None) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value.strip():
        raise FriendEventError(f"missing '{name}'" if name == "request_id" else f"missing '{name}' field")
    if most is not None and len(value) > most:
        raise FriendEventError(f"'{name}' is too long")
    return value


def _message(members: Mapping[str, JsonValue]) -> str | None:
    value = members.get("message")
    if value is not None and not isinstance(value, str):
        raise FriendEventError("'message' must be a string")
    return value


def _accept(members: Mapping[str, JsonValue]) -> bool:
    value: Any = members.get("accept")
    if not isinstance(value, bool):
        raise FriendEventError("missing 'accept' field")
    return value


def _signature(text: str) -> bytes:
    try:
        signature = bytes.fromhex(text)
    except ValueError as exc:
        raise FriendEventError("invalid signature encoding") from exc
    if len(text) != _SIGNATURE_DIGITS:
        raise FriendEventError("invalid signature length")
    return signature
