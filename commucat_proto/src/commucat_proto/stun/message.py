"""The form of a STUN message: a header of 20 bytes, then attributes (RFC 8489, sections 5 and 14)."""

import enum
import struct
from typing import Final

import attrs

from commucat_proto.errors import LocalProtocolError
from commucat_proto.stun.errors import StunError, StunFault

HEADER_LEN: Final = 20
MAGIC_COOKIE: Final = 0x2112A442
TRANSACTION_LEN: Final = 12
MAX_MESSAGE: Final = 2048
"""Bytes of a datagram that is looked at; more than any path carries in one piece."""
MAX_ATTRIBUTES: Final = 64
"""An honest message has about ten; a datagram full of empty ones would cost a loop of hundreds."""
_HEADER: Final = struct.Struct("!HHI12s")
_TLV: Final = struct.Struct("!HH")


class Kind(enum.IntEnum):
    """The class of a message."""

    REQUEST = 0b00
    INDICATION = 0b01
    SUCCESS = 0b10
    ERROR = 0b11


class Method(enum.IntEnum):
    """What a message is about: RFC 8489, section 18.2, and RFC 8656, section 17."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


@attrs.frozen
class Attribute:
    """One attribute; ``value`` without the padding."""

    type: int
    value: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class StunMessage:
    """A message in parts.

    ``method`` is a number, as those of other protocols are legal too; ``transaction`` has 12 bytes.
    """

    kind: Kind
    method: int
    transaction: bytes
    attributes: tuple[Attribute, ...] = ()

    def first(self, kind: int) -> bytes | None:
        """The value of the first attribute of a type; later ones do not count (RFC 8489, section 14)."""
        return next((each.value for each in self.attributes if each.type == kind), None)

    def encode(self, *, extra: int = 0) -> bytes:
        """The bytes of the message; the header's length counts ``extra`` bytes that the caller appends.

        Raises:
            LocalProtocolError: a part does not fit its field.
        """
        if len(self.transaction) != TRANSACTION_LEN or not 0 <= self.method < 0x1000:
            raise LocalProtocolError("a STUN message needs a method below 4096 and a transaction of 12 bytes")
        body = bytearray()
        for attribute in self.attributes:
            if not 0 <= attribute.type <= 0xFFFF or len(attribute.value) > 0xFFFF:
                raise LocalProtocolError("a STUN attribute does not fit its fields")
            body += _TLV.pack(attribute.type, len(attribute.value)) + attribute.value
            body += bytes(-len(attribute.value) % 4)
        if len(body) + extra > 0xFFFF:
            raise LocalProtocolError("a STUN message is longer than its length field can say")
        head = _HEADER.pack(
            _type_of(self.kind, self.method), len(body) + extra, MAGIC_COOKIE, self.transaction
        )
        return head + bytes(body)


def decode(data: bytes) -> StunMessage:
    """Read one message that fills a datagram exactly.

    Padding may hold anything (RFC 8489, section 14). What attributes hold is not looked at.

    Raises:
        StunError: the bytes are none.
    """
    if len(data) < HEADER_LEN:
        raise StunError(StunFault.SHORT)
    kind, length, cookie, transaction = _HEADER.unpack_from(data)
    if kind & 0xC000:
        raise StunError(StunFault.TYPE)
    if cookie != MAGIC_COOKIE:
        raise StunError(StunFault.COOKIE)
    if length % 4 or HEADER_LEN + length != len(data):
        raise StunError(StunFault.LENGTH)
    attributes: list[Attribute] = []
    position = HEADER_LEN
    while position < len(data):
        # There are four bytes at least: all lengths so far were multiples of it.
        name, size = _TLV.unpack_from(data, position)
        position += 4
        if position + size > len(data):
            raise StunError(StunFault.ATTRIBUTE)
        if len(attributes) == MAX_ATTRIBUTES:
            raise StunError(StunFault.TOO_MANY)
        attributes.append(Attribute(name, data[position : position + size]))
        position += size + -size % 4
    return StunMessage(
        kind=Kind((kind >> 7 & 0b10) | (kind >> 4 & 0b01)),
        method=(kind & 0x000F) | (kind >> 1 & 0x0070) | (kind >> 2 & 0x0F80),
        transaction=transaction,
        attributes=tuple(attributes),
    )


def _type_of(kind: Kind, method: int) -> int:
    """Method and class, interleaved (RFC 8489, figure 3)."""
    spread = (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2
    return spread | (kind & 0b01) << 4 | (kind & 0b10) << 7
