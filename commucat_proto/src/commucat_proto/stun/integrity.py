"""MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT (RFC 8489, sections 14.5 to 14.7)."""

import enum
import hashlib
import hmac
import struct
import zlib
from typing import Final

import attrs

from commucat_proto.stun.attributes import AttributeType
from commucat_proto.stun.errors import StunError, StunFault
from commucat_proto.stun.message import HEADER_LEN, Attribute, StunMessage, decode

FINGERPRINT_XOR: Final = 0x5354554E  # section 14.7: "STUN" in ASCII
_FINGERPRINT_LEN: Final = 8
_TRAILERS: Final = {
    AttributeType.MESSAGE_INTEGRITY,
    AttributeType.MESSAGE_INTEGRITY_SHA256,
    AttributeType.FINGERPRINT,
}


class Integrity(enum.Enum):
    """Which code protects a message."""

    SHA1 = AttributeType.MESSAGE_INTEGRITY
    """20 bytes; what ICE and TURN servers of today use."""
    SHA256 = AttributeType.MESSAGE_INTEGRITY_SHA256
    """32 bytes."""

    def code(self, key: bytes, covered: bytes) -> bytes:
        """HMAC of the bytes in front of the attribute, whose header counts the attribute in."""
        return hmac.new(key, covered, "sha1" if self is Integrity.SHA1 else "sha256").digest()

    @property
    def size(self) -> int:
        """Bytes of the code."""
        return 20 if self is Integrity.SHA1 else 32


def long_term_key(username: str, realm: str, password: str) -> bytes:
    """The key of long-term credentials, MD5 as TURN servers have it (RFC 8489, section 9.2.2).

    The three are used as given: ASCII is not changed by the preparation that the RFC asks for.
    """
    text = f"{username}:{realm}:{password}".encode()
    return hashlib.md5(text, usedforsecurity=False).digest()


def seal(
    message: StunMessage,
    *,
    key: bytes | None = None,
    integrity: Integrity = Integrity.SHA1,
    fingerprint: bool = False,
) -> bytes:
    """The bytes of a message with the attributes that must come last.

    Args:
        message: without those attributes.
        key: of the HMAC: a password in UTF-8 (short-term credentials), or :func:`long_term_key`; None: no
            integrity.
        integrity: which HMAC.
        fingerprint: whether FINGERPRINT ends the message.

    Raises:
        LocalProtocolError: a part does not fit its field.
    """
    if key is not None:
        code = integrity.code(key, message.encode(extra=4 + integrity.size))
        message = attrs.evolve(message, attributes=(*message.attributes, Attribute(integrity.value, code)))
    if not fingerprint:
        return message.encode()
    data = message.encode(extra=_FINGERPRINT_LEN)
    return data + struct.pack("!HHI", AttributeType.FINGERPRINT, 4, zlib.crc32(data) ^ FINGERPRINT_XOR)


def verify(data: bytes, key: bytes | None = None) -> tuple[StunMessage, Integrity | None]:
    """Read a message; check its fingerprint if it has one, and its integrity under ``key`` if one is given.

    Returns the message with only those attributes that count: what follows an integrity attribute is
    dropped (RFC 8489, section 14.5), and so is FINGERPRINT. The second value is the code that holds under
    ``key``; None if there is no such attribute, no key, or the code is another. Of both codes in one message
    SHA-256 decides.

    Raises:
        StunError: the bytes are no message, or the fingerprint is wrong.
    """
    message = decode(data)
    _check_fingerprint(data, message)
    counted: list[Attribute] = []
    codes: dict[Integrity, bool] = {}
    position = HEADER_LEN
    for attribute in message.attributes:
        if attribute.type == AttributeType.FINGERPRINT or Integrity.SHA256 in codes:
            break
        known = attribute.type in _TRAILERS
        if codes and not known:
            break
        if known:
            integrity = Integrity(attribute.type)
            codes.setdefault(integrity, _holds(integrity, data[:position], attribute.value, key))
        counted.append(attribute)
        position += 4 + len(attribute.value) + -len(attribute.value) % 4
    message = attrs.evolve(message, attributes=tuple(counted))
    decisive = Integrity.SHA256 if Integrity.SHA256 in codes else Integrity.SHA1
    return message, decisive if codes.get(decisive, False) else None


def _holds(integrity: Integrity, before: bytes, code: bytes, key: bytes | None) -> bool:
    if key is None or len(code) != integrity.size:
        # Shortened codes of SHA-256 are legal only where both sides agree on them (section 14.6).
        return False
    length = len(before) - HEADER_LEN + 4 + len(code)
    covered = before[:2] + length.to_bytes(2, "big") + before[4:]
    return hmac.compare_digest(integrity.code(key, covered), code)


def _check_fingerprint(data: bytes, message: StunMessage) -> None:
    last = message.attributes[-1] if message.attributes else None
    if message.first(AttributeType.FINGERPRINT) is None:
        return
    if last is None or last.type != AttributeType.FINGERPRINT or len(last.value) != 4:
        raise StunError(StunFault.FINGERPRINT)  # section 14.7: it is the last one
    expected = zlib.crc32(data[:-_FINGERPRINT_LEN]) ^ FINGERPRINT_XOR
    if int.from_bytes(last.value, "big") != expected:
        raise StunError(StunFault.FINGERPRINT)
