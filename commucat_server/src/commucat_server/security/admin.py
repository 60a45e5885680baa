"""Who may see what only the administrator shall see: metrics and statistics."""

import abc
import hmac
import ipaddress
import secrets
from collections.abc import Iterable

import attrs
from blake3 import blake3

_SALT_LEN = 16
_HOPS = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})
"""Headers that a proxy adds: the request does not come from the address that it seems to come from."""


class AdminAuthority(abc.ABC):
    """Knows the administrator's tokens."""

    @property
    @abc.abstractmethod
    def configured(self) -> bool:
        """Whether there is a token at all."""

    @abc.abstractmethod
    def check(self, header: str | None, now: float) -> bool:
        """Whether a request with this ``Authorization`` header, at this Unix time, is the administrator's."""


class ConfiguredToken(AdminAuthority):
    """The token of ``[admin] token``; kept as a salted hash, compared in constant time."""

    def __init__(self, token: str | None) -> None:
        self._salt = secrets.token_bytes(_SALT_LEN)
        self.set(token)

    def set(self, token: str | None) -> None:
        """Take another token, or none."""
        self._digest = None if token is None else self._hash(token)

    @property
    def configured(self) -> bool:
        return self._digest is not None

    def check(self, header: str | None, now: float) -> bool:
        token = bearer_token(header)
        return (
            self._digest is not None
            and token is not None
            and hmac.compare_digest(self._digest, self._hash(token))
        )

    def _hash(self, token: str) -> bytes:
        return blake3(self._salt + token.encode("utf-8", "surrogatepass")).digest()


class AnyToken(AdminAuthority):
    """The tokens of several authorities together."""

    def __init__(self, *authorities: AdminAuthority) -> None:
        self._authorities = authorities

    @property
    def configured(self) -> bool:
        return any(authority.configured for authority in self._authorities)

    def check(self, header: str | None, now: float) -> bool:
        good = False
        for authority in self._authorities:
            # Each is asked, so that the time does not tell whose token it is.
            good |= authority.check(header, now)
        return good


def bearer_token(header: str | None) -> str | None:
    """What ``Authorization: Bearer TOKEN`` brings; a value without a scheme counts as the token itself."""
    if header is None:
        return None
    scheme, _, rest = header.partition(" ")
    return (rest if scheme.lower() == "bearer" else header).strip() or None


@attrs.frozen(kw_only=True)
class AdminAccess:
    """Decides by token, or, where none is configured, by where the request comes from."""

    authority: AdminAuthority = attrs.field(factory=lambda: ConfiguredToken(None))
    anonymous: bool = False
    """Everybody may, if no token is configured."""
    bind_host: str = "127.0.0.1"
    """Where the server listens."""

    def allows(
        self, header: str | None, now: float, *, client: str, headers: Iterable[tuple[bytes, bytes]]
    ) -> bool:
        """Whether a request from the address ``client`` may be answered.

        Without a token only programs of this machine may ask, of a server that listens on this machine only:
        what a proxy passes on comes from elsewhere.
        """
        if self.authority.configured:
            return self.authority.check(header, now)
        if self.anonymous:
            return True
        local = is_loopback(self.bind_host) and is_loopback(client)
        return local and all(name not in _HOPS for name, _ in headers)


def is_loopback(host: str) -> bool:
    """Whether only this machine has this address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
