"""Events that servers sign for each other: canonical bytes, digest, signature, JSON.

The digest is BLAKE3 over id, origin, scope, the instant and the payload, without anything between them:
moving characters from one of the first three to the next keeps it. So whoever takes an event must also hold
origin and scope against what it expects, before it believes either.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs
from blake3 import blake3

from commucat_crypto import CryptoError, DeviceKeyPair, sign_event, verify_event
from commucat_proto import json_text
from commucat_proto.errors import RemoteProtocolError
from commucat_proto.federation.instants import format_instant, hashed, parse_instant
from commucat_proto.json_text import JsonTextError, JsonValue

_MOST_NUMBERS: Final = 4096
"""Of an array of bytes; a wrong length is told by the verification, a huge one by nobody."""


class EventFormatError(RemoteProtocolError):
    """Not the JSON of a signed event."""


class Verification(enum.Enum):
    """Why an event is not believed. The value is the name that peers use."""

    DIGEST_MISMATCH = "DigestMismatch"
    """The digest is not that of the event."""
    SIGNATURE = "Signature"
    """It was not signed by this key."""


class EventVerificationError(RemoteProtocolError):
    """The event is not what the peer has signed."""

    def __init__(self, reason: Verification) -> None:
        super().__init__(reason.value)
        self.reason = reason


@attrs.frozen(kw_only=True)
class Event:
    """What one server tells another one."""

    event_id: str
    origin: str
    """The domain of the server that tells it."""
    created_at: int
    """Nanoseconds since 1970."""
    payload: JsonValue = attrs.field(repr=False)
    scope: str
    """The domain that it is for, or ``relay``."""

    def digest(self) -> bytes:
        """32 bytes, what is signed.

        Raises:
            JsonTextError: the payload has no JSON text.
        """
        hasher = blake3(self.event_id.encode() + self.origin.encode() + self.scope.encode())
        hasher.update(hashed(self.created_at))
        hasher.update(json_text.dumps(self.payload))
        return hasher.digest()

    def sign(self, keys: DeviceKeyPair) -> "SignedEvent":
        """The event with the signature of the server that it comes from."""
        digest = self.digest()
        return SignedEvent(event=self, signature=sign_event(keys, digest), digest=digest)


@attrs.frozen(kw_only=True)
class SignedEvent:
    """An event as it travels. Decoded ones are not verified yet."""

    event: Event
    signature: bytes
    digest: bytes

    def verify(self, public: bytes) -> None:
        """Hold the event against the peer's Ed25519 key.

        Raises:
            EventVerificationError: digest or signature, in this order, are not those of the event.
        """
        try:
            actual = self.event.digest()
        except (JsonTextError, UnicodeEncodeError):
            actual = b""
        if actual != self.digest:
            raise EventVerificationError(Verification.DIGEST_MISMATCH)
        try:
            verify_event(public, self.digest, self.signature)
        except CryptoError as exc:
            raise EventVerificationError(Verification.SIGNATURE) from exc

    def encode(self) -> bytes:
        """The JSON text, members in the order of their declaration, bytes as arrays of numbers."""
        event = self.event
        members = {
            "event_id": json_text.dumps(event.event_id),
            "origin": json_text.dumps(event.origin),
            "created_at": json_text.dumps(format_instant(event.created_at)),
            # With its keys sorted, as they are hashed.
            "payload": json_text.dumps(event.payload),
            "scope": json_text.dumps(event.scope),
        }
        inner = b",".join(b'"%s":%s' % (name.encode(), text) for name, text in members.items())
        signature, digest = json_text.dumps(list(self.signature)), json_text.dumps(list(self.digest))
        return b'{"event":{%s},"signature":%s,"digest":%s}' % (inner, signature, digest)

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """Read what :meth:`encode` writes; members that nobody knows are passed over.

        Raises:
            EventFormatError: it is something else.
        """
        try:
            return cls.from_value(json_text.loads(text))
        except JsonTextError as exc:
            raise EventFormatError(str(exc)) from exc

    @classmethod
    def from_value(cls, value: JsonValue) -> Self:
        """:meth:`decode` for what was parsed already.

        Raises:
            EventFormatError: it is something else.
        """
        members = _object(value, "the event")
        inner = _object(members.get("event"), "event")
        if "payload" not in inner:
            raise EventFormatError("payload is missing")
        try:
            created_at = parse_instant(_text(inner, "created_at"))
        except RemoteProtocolError as exc:
            raise EventFormatError(f"created_at: {exc}") from exc
        return cls(
            event=Event(
                event_id=_text(inner, "event_id"),
                origin=_text(inner, "origin"),
                created_at=created_at,
                payload=inner["payload"],
                scope=_text(inner, "scope"),
            ),
            signature=_bytes(members, "signature"),
            digest=_bytes(members, "digest"),
        )


def _object(value: JsonValue, name: str) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise EventFormatError(f"{name} is no object")
    return value


def _text(members: Mapping[str, JsonValue], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise EventFormatError(f"{name} is no string")
    return value


def _bytes(members: Mapping[str, JsonValue], name: str) -> bytes:
    value: Any = members.get(name)
    if not isinstance(value, list) or len(value) > _MOST_NUMBERS:
        raise EventFormatError(f"{name} is no array of bytes")
    if not all(type(number) is int and 0 <= number <= 255 for number in value):
        raise EventFormatError(f"{name} is no array of bytes")
    return bytes(value)
