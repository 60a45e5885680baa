"""What an ICE-lite server says: answers to Binding requests, and its candidate (RFC 8445).

The three attributes of an answer, their order and the tie-breaker are those of the CCP-1 reference server.
That one reports its own address; whose address is reported is an argument here.
"""

from typing import Final

from blake3 import blake3

from commucat_proto.stun.addresses import SocketAddress, format_address, xor_address_value
from commucat_proto.stun.attributes import AttributeType
from commucat_proto.stun.errors import StunError, StunFault
from commucat_proto.stun.message import (
    HEADER_LEN,
    MAGIC_COOKIE,
    Attribute,
    Kind,
    Method,
    StunMessage,
)

SOFTWARE: Final = "CommuCat ICE-lite"
HOST_PRIORITY: Final = 126 << 24 | 65535 << 8 | 255
"""RFC 8445, section 5.1.2: type preference of host candidates, one interface, component 1."""


def is_binding_request(data: bytes) -> bool:
    """Whether a datagram asks for an answer; others are ignored (they may be anything).

    Raises:
        StunError: it does, but not in the form of STUN.
    """
    if len(data) < HEADER_LEN or data[:2] != b"\x00\x01":
        return False
    if HEADER_LEN + int.from_bytes(data[2:4], "big") > len(data):
        raise StunError(StunFault.LENGTH)
    if int.from_bytes(data[4:8], "big") != MAGIC_COOKIE:
        raise StunError(StunFault.COOKIE)
    return True


def binding_request(transaction: bytes, *attributes: Attribute) -> StunMessage:
    """Ask a server from which address this datagram comes; ``transaction`` is 12 random bytes."""
    return StunMessage(
        kind=Kind.REQUEST, method=Method.BINDING, transaction=transaction, attributes=attributes
    )


def binding_answer(
    transaction: bytes, mapped: SocketAddress, public: SocketAddress | None = None
) -> StunMessage:
    """A success response.

    Args:
        transaction: of the request.
        mapped: what XOR-MAPPED-ADDRESS says: the address that the request came from.
        public: the server's own address, of which ICE-CONTROLLED is made; without it the answer has neither
            that attribute nor SOFTWARE, and is hardly longer than the request.
    """
    attributes = [Attribute(AttributeType.XOR_MAPPED_ADDRESS, xor_address_value(mapped, transaction))]
    if public is not None:
        tie_breaker = blake3(format_address(public).encode()).digest()[:8]
        attributes.append(Attribute(AttributeType.ICE_CONTROLLED, tie_breaker))
        attributes.append(Attribute(AttributeType.SOFTWARE, SOFTWARE.encode()))
    return StunMessage(
        kind=Kind.SUCCESS, method=Method.BINDING, transaction=transaction, attributes=tuple(attributes)
    )


def foundation(address: SocketAddress) -> str:
    """Eight hexadecimal digits, equal for candidates of one IP address."""
    return blake3(address.ip.packed).hexdigest()[:8]


def host_candidate(address: SocketAddress) -> str:
    """The server's candidate in the form of RFC 8839, section 5.1."""
    return (
        f"candidate:{foundation(address)} 1 udp {HOST_PRIORITY} {address.ip} {address.port} "
        "typ host generation 0"
    )
