"""Addresses in STUN: family, port and IP address, plain or covered by the cookie and the transaction.

Some routers replace addresses wherever they see them in a packet; covered ones pass them by
(RFC 8489, section 14.2).
"""

import ipaddress
import struct
from typing import Final, TypeAlias

import attrs

from commucat_proto.stun.errors import StunError, StunFault
from commucat_proto.stun.message import MAGIC_COOKIE

_FAMILIES: Final = {4: 1, 6: 2}
_SIZES: Final = {1: 4, 2: 16}
_Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def _port(_address: object, _attribute: object, value: int) -> None:
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"port must be from 0 to 65535, not {value}")


@attrs.frozen
class SocketAddress:
    """An IP address and a UDP port."""

    ip: _Ip
    port: int = attrs.field(validator=_port)

    @classmethod
    def of(cls, host: str, port: int) -> "SocketAddress":
        """From the text of an IP address; an IPv4 address in IPv6 form becomes plain IPv4.

        Raises:
            ValueError: the text is no IP address, or the port is out of range.
        """
        ip: _Ip = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return cls(ip, port)

    @classmethod
    def parse(cls, text: str) -> "SocketAddress":
        """Read ``203.0.113.7:3478`` or ``[2001:db8::1]:3478``.

        Raises:
            ValueError: the text is neither.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5):
            raise ValueError("an address is written IP:port")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed != (":" in host):
            raise ValueError("an IPv6 address, and nothing else, stands in brackets")
        return cls(ipaddress.ip_address(host[1:-1] if bracketed else host), int(port))


def format_address(address: SocketAddress) -> str:
    """As :meth:`SocketAddress.parse` reads it."""
    host = f"[{address.ip}]" if address.ip.version == 6 else str(address.ip)
    return f"{host}:{address.port}"


def address_value(address: SocketAddress) -> bytes:
    """MAPPED-ADDRESS (RFC 8489, section 14.1): 0, family, port, 4 or 16 bytes."""
    return struct.pack("!BBH", 0, _FAMILIES[address.ip.version], address.port) + address.ip.packed


def xor_address_value(address: SocketAddress, transaction: bytes) -> bytes:
    """XOR-MAPPED-ADDRESS (section 14.2) and its kin in TURN."""
    plain = address_value(address)
    return plain[:2] + _covered(plain[2:], transaction)


def xor_address(value: bytes, transaction: bytes) -> SocketAddress:
    """Read what :func:`xor_address_value` has written.

    Raises:
        StunError: the value has another shape.
    """
    if len(value) < 4 or len(value) != 4 + _SIZES.get(value[1], 0):
        raise StunError(StunFault.VALUE)
    plain = _covered(value[2:], transaction)
    (port,) = struct.unpack_from("!H", plain)
    return SocketAddress(ipaddress.ip_address(plain[2:]), port)


def _covered(port_and_ip: bytes, transaction: bytes) -> bytes:
    cookie = MAGIC_COOKIE.to_bytes(4, "big")
    mask = cookie[:2] + (cookie + transaction)[: len(port_and_ip) - 2]
    return bytes(a ^ b for a, b in zip(port_and_ip, mask, strict=True))
