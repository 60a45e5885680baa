"""Section about other servers: who they are, and how they are spoken to."""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from commucat_crypto import is_proper_public_key
from commucat_server.config.address import check_domain
from commucat_server.config.errors import InvalidValueError, described
from commucat_server.config.sections import between, env

_MOST: Final = 1_000
_KEY: Final = re.compile(r"[0-9a-fA-F]{64}")


@attrs.frozen(kw_only=True)
class ConfiguredPeer:
    """A server that the configuration names."""

    domain: str
    """In lower case."""
    endpoint: str
    """Where it takes events, such as ``https://chat.example.org``."""
    public_key: bytes
    """32 bytes, Ed25519: what it signs with."""


@attrs.frozen
class ConfiguredPeers:
    """Each domain once."""

    peers: tuple[ConfiguredPeer, ...] = ()

    @classmethod
    def parse(cls, value: object) -> "ConfiguredPeers":
        """Read a list of texts ``domain,endpoint,key``, or one text with ``;`` between them.

        Raises:
            InvalidValueError: it is something else.
        """
        if value == "":
            raise InvalidValueError("is empty; give a value or remove it")
        if isinstance(value, str):
            value = [part for part in map(str.strip, value.split(";")) if part]
        if not isinstance(value, list) or len(value) > _MOST:
            raise InvalidValueError(
                f'must be a list of at most {_MOST} texts "domain,endpoint,key", not {described(value)}'
            )
        peers = tuple(map(_peer, value))
        domains = [peer.domain for peer in peers]
        for domain in domains:
            if domains.count(domain) > 1:
                raise InvalidValueError(f"names {domain} twice")
        return cls(peers)

    def __bool__(self) -> bool:
        return bool(self.peers)


def _peer(value: object) -> ConfiguredPeer:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if len(parts) != 3:
        raise InvalidValueError(
            f"{described(value)} is no peer: write its domain, its address and its key, as in "
            '"b.example,https://b.example,64 hexadecimal digits"'
        )
    domain, endpoint, key = parts
    return ConfiguredPeer(
        domain=peer_domain(domain), endpoint=peer_endpoint(endpoint), public_key=peer_key(key)
    )


def peer_domain(text: str) -> str:
    """The domain of another server, in lower case.

    Raises:
        InvalidValueError: it is none.
    """
    check_domain(text)
    return text.lower()


def peer_endpoint(text: str) -> str:
    """Where another server takes events: ``https://host[:port][/path]``, without a slash at the end.

    Raises:
        InvalidValueError: it is something else.
    """
    try:
        parts = urlsplit(text)
        proper = parts.scheme == "https" and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        proper = False
    if not proper or not text.isprintable() or " " in text or parts.query or parts.fragment:
        raise InvalidValueError(f"must be an address such as https://b.example, not {described(text)}")
    return text.rstrip("/")


def peer_key(text: str) -> bytes:
    """The key of another server.

    Raises:
        InvalidValueError: it is no Ed25519 key in 64 hexadecimal digits.
    """
    key = bytes.fromhex(text) if _KEY.fullmatch(text) else b""
    if not key or not is_proper_public_key(key):
        raise InvalidValueError(
            f"{described(text)} is no key: 64 hexadecimal digits, the device_ca_public of /api/server-info"
        )
    return key


def _patience(section: Any, attribute: "attrs.Attribute[Any]", value: int) -> None:
    between(1, 86_400)(section, attribute, value)
    if value < section.backoff_min:
        raise InvalidValueError("must not be less than backoff_min", key="backoff_max")


@attrs.frozen(kw_only=True)
class FederationSection:
    """Section ``[federation]``: servers of other domains, whose users ours can write to."""

    enabled: bool = attrs.field(default=True, metadata=env("COMMUCAT_FEDERATION_ENABLED"))
    """Whether there is any: without it other servers are neither heard nor written to."""
    peers: ConfiguredPeers = attrs.field(factory=ConfiguredPeers, metadata=env("COMMUCAT_FEDERATION_PEERS"))
    """Servers that are known in any case; ``commucat-cli peers`` adds others while the server runs."""
    endpoint: str | None = attrs.field(default=None, metadata=env("COMMUCAT_FEDERATION_ENDPOINT"))
    """Where others reach this server; ``https://DOMAIN`` unless set."""
    tls_ca: Path | None = attrs.field(default=None, metadata=env("COMMUCAT_FEDERATION_TLS_CA"))
    """PEM certificates that peers' certificates may be signed by, beside those of the system."""
    backoff_min: int = attrs.field(
        default=5, validator=between(1, 3600), metadata=env("COMMUCAT_FEDERATION_BACKOFF_MIN")
    )
    """Seconds until a server that could not be reached is tried again; twice as many each time."""
    backoff_max: int = attrs.field(
        default=300, validator=_patience, metadata=env("COMMUCAT_FEDERATION_BACKOFF_MAX")
    )
    """Up to so many seconds."""
    timeout: int = attrs.field(
        default=20, validator=between(1, 300), metadata=env("COMMUCAT_FEDERATION_TIMEOUT")
    )
    """Seconds that another server may take for an answer."""
    events_per_second: int = attrs.field(
        default=5_000, validator=between(1, 1_000_000), metadata=env("COMMUCAT_FEDERATION_EVENTS_PER_SECOND")
    )
    """Events that are taken of one server."""
    presence: bool = attrs.field(default=False, metadata=env("COMMUCAT_FEDERATION_PRESENCE"))
    """Whether friends on other servers are told when devices come and go."""

    def __attrs_post_init__(self) -> None:
        if self.endpoint is not None:
            try:
                peer_endpoint(self.endpoint)
            except InvalidValueError as exc:
                raise InvalidValueError(str(exc), key="endpoint") from exc
