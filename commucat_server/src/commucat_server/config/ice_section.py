"""Sections about paths between two devices: STUN and TURN, what clients are advised, and the relay."""

import enum
import ipaddress
import json
import re
from typing import Any, Final

import attrs

from commucat_server.config.address import BindAddress
from commucat_server.config.errors import InvalidValueError, described
from commucat_server.config.sections import between, env

DEFAULT_BIND: Final = BindAddress(host="0.0.0.0", port=3478)  # noqa: S104 - of no use on one interface only
_MOST_SERVERS: Final = 16
_MOST_URLS: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# RFC 7064 and 7065: scheme, host, port, and for TURN the transport.
_URL: Final = re.compile(
    r"(stuns?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?"
    r"|turns?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?(\?transport=(udp|tcp))?)"
)
_DAY: Final = 86_400


@attrs.frozen(kw_only=True)
class TurnServer:
    """A TURN server that clients may use: with credentials made for each, or with one for all."""

    name: str
    urls: tuple[str, ...]
    secret: str | None = attrs.field(default=None, repr=False)
    """coturn's ``static-auth-secret``."""
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    realm: str | None = None


@attrs.frozen
class TurnServers:
    """Ordered by name."""

    servers: tuple[TurnServer, ...] = ()

    @classmethod
    def parse(cls, value: object) -> "TurnServers":
        """Read the tables ``[ice.turn.NAME]``, or one JSON object with the same members.

        Raises:
            InvalidValueError: it is something else; the text begins with the server's name.
        """
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = None
        if not isinstance(value, dict):
            raise InvalidValueError(
                'must be sections [ice.turn.NAME], or JSON such as {"main": {"urls": "turn:..."}}'
            )
        if len(value) > _MOST_SERVERS:
            raise InvalidValueError(f"at most {_MOST_SERVERS} servers, not {len(value)}")
        return cls(tuple(_turn_server(name, table) for name, table in sorted(value.items())))

    def __bool__(self) -> bool:
        return bool(self.servers)


def _turn_server(name: str, table: object) -> TurnServer:
    if not _NAME.fullmatch(name):
        raise InvalidValueError(f"{described(name)} is no name: 1 to 64 letters, digits, - and _")
    if not isinstance(table, dict):
        raise InvalidValueError(f"{name}: must be a section, [ice.turn.{name}], not {described(table)}")
    known = {field.name for field in attrs.fields(TurnServer)} - {"name"}
    for key, value in table.items():
        if key not in known:
            raise InvalidValueError(
                f"{name}.{str(key)[:100]}: unknown key; remove it (known keys: {', '.join(sorted(known))})"
            )
        # Secrets pass here: no value is shown.
        if key != "urls" and not (
            isinstance(value, str) and value and value.isprintable() and len(value) <= 512
        ):
            raise InvalidValueError(f"{name}.{key}: must be printable text in quotes, 1 to 512 characters")
    given = table.keys()
    if "urls" not in given:
        raise InvalidValueError(
            f"{name}.urls: is missing; name the server, such as turn:turn.example.org:3478"
        )
    if "secret" in given and given & {"username", "password"}:
        raise InvalidValueError(f"{name}: has secret and username or password; give one or the other")
    if "secret" not in given and not given >= {"username", "password"}:
        raise InvalidValueError(f"{name}: needs secret, or username and password")
    settings = {key: value for key, value in table.items() if key != "urls"}
    return TurnServer(name=name, urls=_urls(name, table["urls"]), **settings)


def _urls(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in map(str.strip, value.split(",")) if part]
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_URLS:
        raise InvalidValueError(
            f"{name}.urls: must be 1 to {_MOST_URLS} addresses with commas between, not {described(value)}"
        )
    for url in value:
        if not isinstance(url, str) or not _URL.fullmatch(url):
            raise InvalidValueError(
                f"{name}.urls: {described(url)} is no address such as turn:turn.example.org:3478"
            )
    return tuple(value)


def _ip_address(_section: Any, attribute: "attrs.Attribute[Any]", value: BindAddress | None) -> None:
    if value is None:
        return
    try:
        ipaddress.ip_address(value.host)
    except ValueError as exc:
        raise InvalidValueError(
            f"must be an IP address and a port, such as 203.0.113.7:3478, not {described(str(value))}",
            key=attribute.name,
        ) from exc


def _reachable(section: Any, attribute: "attrs.Attribute[Any]", value: BindAddress | None) -> None:
    _ip_address(section, attribute, value)
    if value is not None and (value.port == 0 or ipaddress.ip_address(value.host).is_unspecified):
        raise InvalidValueError("must be an address that clients can reach", key=attribute.name)


@attrs.frozen(kw_only=True)
class IceSection:
    """Section ``[ice]``: the server's own STUN responder, and TURN servers of others."""

    lite_enabled: bool = attrs.field(default=False, metadata=env("COMMUCAT_ICE_LITE_ENABLED"))
    """Whether the server answers STUN Binding requests over UDP."""
    lite_bind: BindAddress = attrs.field(
        default=DEFAULT_BIND, validator=_ip_address, metadata=env("COMMUCAT_ICE_LITE_BIND")
    )
    """Where; port 0 lets the operating system choose a free one. ``[::]:3478`` takes IPv4, too."""
    lite_public_address: BindAddress | None = attrs.field(
        default=None, validator=_reachable, metadata=env("COMMUCAT_ICE_LITE_PUBLIC_ADDRESS")
    )
    """Where clients find it; ``lite_bind`` unless set."""
    lite_rate: int = attrs.field(
        default=50, validator=between(1, 1_000_000), metadata=env("COMMUCAT_ICE_LITE_RATE")
    )
    """Answers to one address, per second."""
    turn_ttl: int = attrs.field(
        default=600, validator=between(1, 2**32 - 1), metadata=env("COMMUCAT_ICE_TURN_TTL")
    )
    """Seconds that credentials for TURN servers with a shared secret are good; at least 60 are given."""
    turn: TurnServers = attrs.field(factory=TurnServers, metadata=env("COMMUCAT_ICE_TURN"))
    """Sections ``[ice.turn.NAME]``."""


class RelayAuth(enum.Enum):
    """Who may use ``/p2p``."""

    REQUIRED = "required"
    """Devices with a session token, and holders of a ticket of ``/api/p2p/assist``."""
    OPEN = "open"
    """Everybody who can reach the server, as with the reference server."""


@attrs.frozen(kw_only=True)
class P2pSection:
    """Section ``[p2p]``: advice on paths between two devices, and the relay ``/p2p``."""

    assist_enabled: bool = attrs.field(default=True, metadata=env("COMMUCAT_P2P_ASSIST_ENABLED"))
    assist_per_minute: int = attrs.field(
        default=30, validator=between(1, 1_000_000), metadata=env("COMMUCAT_P2P_ASSIST_PER_MINUTE")
    )
    """Answers to one device."""
    relay_enabled: bool = attrs.field(default=True, metadata=env("COMMUCAT_P2P_RELAY_ENABLED"))
    relay_auth: RelayAuth = attrs.field(default=RelayAuth.REQUIRED, metadata=env("COMMUCAT_P2P_RELAY_AUTH"))
    relay_pairs: int = attrs.field(
        default=1000, validator=between(1, 1_000_000), metadata=env("COMMUCAT_P2P_RELAY_PAIRS")
    )
    """Meetings at once, half ones included; with several workers, of each of them."""
    relay_per_user: int = attrs.field(
        default=8, validator=between(1, 1_000_000), metadata=env("COMMUCAT_P2P_RELAY_PER_USER")
    )
    """Connections of one user at once; of one address where nobody has to prove himself."""
    relay_bytes: int = attrs.field(
        default=1024**3, validator=between(1, 1024**5), metadata=env("COMMUCAT_P2P_RELAY_BYTES")
    )
    """Bytes of one meeting, both directions together."""
    relay_seconds: int = attrs.field(
        default=4 * 3600, validator=between(1, 30 * _DAY), metadata=env("COMMUCAT_P2P_RELAY_SECONDS")
    )
    """Seconds of one meeting."""
    relay_idle: int = attrs.field(
        default=120, validator=between(1, _DAY), metadata=env("COMMUCAT_P2P_RELAY_IDLE")
    )
    """Seconds without a message in either direction after which a meeting ends."""
