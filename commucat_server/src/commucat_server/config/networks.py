"""Sets of addresses, written as networks."""

import ipaddress
from typing import Final, Self, TypeAlias

import attrs

from commucat_server.config.errors import InvalidValueError, described

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_MOST: Final = 256


@attrs.frozen
class Networks:
    """Addresses of some networks. ``"192.0.2.7" in networks`` is false for what is no address."""

    networks: tuple[_Network, ...] = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a list of texts, or one text with commas: ``10.0.0.0/8``, ``2001:db8::/32``, ``127.0.0.1``.

        Raises:
            InvalidValueError: it is something else.
        """
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if not isinstance(value, list) or len(value) > _MOST:
            raise InvalidValueError(
                f'must be a list of at most {_MOST} networks such as ["10.0.0.0/8"], not {described(value)}'
            )
        return cls(tuple(map(_network, value)))

    def __contains__(self, host: object) -> bool:
        if not self.networks or not isinstance(host, str):
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)

    def __bool__(self) -> bool:
        return bool(self.networks)


def _network(value: object) -> _Network:
    try:
        # A number would be taken for an address.
        return ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError as exc:
        raise InvalidValueError(
            f"{described(value)} is no network: write the address of the network and its length, such as "
            "10.0.0.0/8, or one address"
        ) from exc
