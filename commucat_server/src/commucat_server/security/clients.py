"""Whose request it is when there are proxies in front: only what a trusted proxy says counts."""

import ipaddress
from typing import Final

import attrs

from commucat_server.config import Networks, ProxyHeader

MAX_HOPS: Final = 32
"""Entries of a header that are looked at, from its end: nobody has more proxies."""


@attrs.define(kw_only=True, eq=False)
class ClientAddresses:
    """Finds the client's address behind trusted proxies (section ``[proxy]``); may be changed meanwhile."""

    trusted: Networks = attrs.field(factory=Networks)
    header: ProxyHeader = ProxyHeader.NONE

    @property
    def header_name(self) -> str | None:
        """The header to be given to :meth:`resolve`, in lower case; None if none is believed."""
        return None if self.header is ProxyHeader.NONE else self.header.value

    def trusted_peer(self, host: str) -> bool:
        """Whether this is the address of a trusted proxy."""
        return host in self.trusted

    def resolve(self, peer: str, value: str) -> str:
        """The client's address.

        Each proxy adds, at the end, the address that it was asked from. So the list is read from its end, as
        long as the address before is a trusted proxy's; what stands further on was written by somebody else.

        Args:
            peer: the address that the connection came from.
            value: all headers of the name, in their order, joined by commas; "" if there was none.
        """
        address = peer
        if self.header is ProxyHeader.NONE or not value or peer not in self.trusted:
            return address
        read = address_of if self.header is ProxyHeader.X_FORWARDED_FOR else _forwarded_for
        for hop in reversed(value.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            if address not in self.trusted:
                break
            found = read(hop)
            if found is None:
                break  # Obfuscated, unknown or garbage: the last proxy is all that is known.
            address = found
        return address


def address_of(text: str) -> str | None:
    """An IP address in text, perhaps with a port, IPv6 perhaps in brackets; None if it is none."""
    text = text.strip()
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port[1:])) or (port and port[0] != ":"):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(port):
            return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    return str(address)


def _forwarded_for(element: str) -> str | None:
    """The parameter ``for`` of one element (RFC 7239, sections 4 and 6)."""
    pairs = [pair.partition("=") for pair in element.split(";")]
    values = [value.strip() for name, _, value in pairs if name.strip().lower() == "for"]
    if len(values) != 1:
        return None  # Twice is not allowed, and then nobody knows which one was meant.
    [value] = values
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return address_of(value)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5
