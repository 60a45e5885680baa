"""Addresses and names of hosts as they are written in a configuration."""

import ipaddress
import re
from typing import Final, Self

import attrs

from commucat_server.config.errors import InvalidValueError, described

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_MAX_NAME: Final = 253  # RFC 1035, section 2.3.4, without the final dot


@attrs.frozen(kw_only=True)
class BindAddress:
    """Where the server listens. Port 0 lets the operating system choose a free one."""

    host: str
    """A name or an address; IPv6 without brackets."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port`` or ``[ipv6]:port``.

        Raises:
            InvalidValueError: the text is neither.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
            raise InvalidValueError(
                f"must be host:port (port 0 to 65535), such as 127.0.0.1:8443, not {described(text)}"
            )
        if host.startswith("[") and host.endswith("]"):
            inner = host[1:-1]
            if not _is_ip(inner, version=6):
                raise InvalidValueError(f"{described(inner)} in brackets is not an IPv6 address")
            return cls(host=inner, port=int(port))
        if ":" in host:
            raise InvalidValueError(
                f"an IPv6 address needs brackets, such as [::1]:8443, not {described(text)}"
            )
        if not host:
            raise InvalidValueError(
                f"needs a host before the port, such as 0.0.0.0:{int(port)} for all IPv4 addresses"
            )
        if not is_host_name(host):
            raise InvalidValueError(f"{described(host)} is not a host name or an IP address")
        return cls(host=host, port=int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_domain(text: str) -> None:
    """Check the server's public domain: a host name or an IP address, without scheme, port or path.

    Raises:
        InvalidValueError: it is something else.
    """
    if not is_host_name(text) and not _is_ip(text, version=6):
        raise InvalidValueError(
            f"must be a domain name such as chat.example.org (no scheme, no port; "
            f"international names in their xn-- form), not {described(text)}"
        )


def is_host_name(text: str) -> bool:
    """Tell whether the text is a host name or an IPv4 address."""
    labels = text.split(".")
    if labels[-1].isdecimal():  # RFC 1123, section 2.1: a last label of digits means an address
        return _is_ip(text, version=4)
    return len(text) <= _MAX_NAME and all(_LABEL.fullmatch(label) for label in labels)


def _is_ip(text: str, *, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False
