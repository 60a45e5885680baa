"""Types of attributes, and the forms of ERROR-CODE and UNKNOWN-ATTRIBUTES."""

import enum
import struct
from collections.abc import Iterable

from commucat_proto.errors import LocalProtocolError
from commucat_proto.stun.errors import StunError, StunFault

MAX_REASON = 763
"""Bytes of a reason (RFC 8489, section 14.8)."""


class AttributeType(enum.IntEnum):
    """RFC 8489, section 18.3; RFC 8445, section 20; RFC 8656, section 18."""

    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_TRANSPORT = 0x0019
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    XOR_MAPPED_ADDRESS = 0x0020
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A


class ErrorCode(enum.IntEnum):
    """Codes of error responses (RFC 8489, section 14.8; RFC 8656, section 19)."""

    BAD_REQUEST = 400
    UNAUTHENTICATED = 401
    FORBIDDEN = 403
    UNKNOWN_ATTRIBUTE = 420
    STALE_NONCE = 438


def error_value(code: int, reason: str) -> bytes:
    """ERROR-CODE: two zero bytes, the hundreds, the rest, the reason in UTF-8.

    Raises:
        LocalProtocolError: the code is not from 300 to 699, or the reason is too long.
    """
    text = reason.encode()
    if not 300 <= code <= 699 or len(text) > MAX_REASON:
        raise LocalProtocolError("a STUN error has a code from 300 to 699 and a short reason")
    return bytes([0, 0, code // 100, code % 100]) + text


def parse_error(value: bytes) -> tuple[int, str]:
    """Code and reason of ERROR-CODE.

    Raises:
        StunError: the value has another shape.
    """
    if len(value) < 4 or not 3 <= value[2] & 0x07 <= 6 or value[3] > 99:
        raise StunError(StunFault.VALUE)
    try:
        return 100 * (value[2] & 0x07) + value[3], value[4:].decode()
    except UnicodeDecodeError as exc:
        raise StunError(StunFault.VALUE) from exc


def unknown_value(types: Iterable[int]) -> bytes:
    """UNKNOWN-ATTRIBUTES: the types that a request had and its receiver does not know."""
    return b"".join(struct.pack("!H", each) for each in types)


def parse_unknown(value: bytes) -> tuple[int, ...]:
    """The types in UNKNOWN-ATTRIBUTES.

    Raises:
        StunError: the value has an odd length.
    """
    if len(value) % 2:
        raise StunError(StunFault.VALUE)
    return tuple(each for (each,) in struct.iter_unpack("!H", value))
