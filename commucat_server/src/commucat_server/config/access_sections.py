"""Sections about who may ask for how much: the administrator, proxies in front, and rate limits.

As in :mod:`commucat_server.config.sections`, a field's metadata name its environment variable.
"""

import enum
from typing import Any, Final

import attrs

from commucat_server.config.errors import InvalidValueError
from commucat_server.config.networks import Networks
from commucat_server.config.sections import between, env

MIN_TOKEN_LEN: Final = 16
MAX_TOKEN_LEN: Final = 512
_MOST: Final = 1_000_000
_LONGEST_MS: Final = 24 * 3_600_000


def _token(_section: Any, _attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    # Nothing of the value is shown. Spaces would not survive the header that brings it.
    if value is None:
        return
    if not MIN_TOKEN_LEN <= len(value) <= MAX_TOKEN_LEN or not value.isascii() or " " in value:
        raise InvalidValueError(
            f"must be {MIN_TOKEN_LEN} to {MAX_TOKEN_LEN} printable ASCII characters without spaces, such as "
            "64 random hexadecimal digits",
            key="token",
        )


@attrs.frozen(kw_only=True)
class AdminSection:
    """Section ``[admin]``: who may see metrics and statistics."""

    token: str | None = attrs.field(
        default=None, repr=False, validator=_token, metadata=env("COMMUCAT_ADMIN_TOKEN")
    )
    """What ``Authorization: Bearer`` must bring. Without it, metrics are for this machine only."""
    allow_anonymous_metrics: bool = attrs.field(
        default=False, metadata=env("COMMUCAT_ADMIN_ALLOW_ANONYMOUS_METRICS")
    )
    """Whether everybody who can reach the server may see metrics and statistics."""


class ProxyHeader(enum.Enum):
    """The header in which a trusted proxy names the client."""

    NONE = "none"
    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"
    """RFC 7239."""


@attrs.frozen(kw_only=True)
class ProxySection:
    """Section ``[proxy]``: proxies in front of the server, and how they name the client's address."""

    trusted: Networks = attrs.field(factory=Networks, metadata=env("COMMUCAT_PROXY_TRUSTED"))
    """Networks of the proxies. What others say of themselves is not believed."""
    header: ProxyHeader = attrs.field(default=ProxyHeader.NONE, metadata=env("COMMUCAT_PROXY_HEADER"))
    protocol: bool = attrs.field(default=False, metadata=env("COMMUCAT_PROXY_PROTOCOL"))
    """Whether every connection of a trusted proxy begins with a header of the PROXY protocol (version 1 or
    2), before TLS."""

    def __attrs_post_init__(self) -> None:
        if not self.trusted and (self.protocol or self.header is not ProxyHeader.NONE):
            key = "protocol" if self.protocol else "header"
            raise InvalidValueError(
                "is set without trusted: name the proxies' networks, or anybody could choose an address",
                key=key,
            )


@attrs.frozen(kw_only=True)
class RateLimitSection:
    """Section ``[security.rate_limit]``: token buckets. ``burst`` at once, refilled evenly over the window;
    whoever finds the bucket empty is refused for the penalty. Addresses count as IPv4 address or IPv6 /64."""

    http_burst: int = attrs.field(
        default=60, validator=between(1, _MOST), metadata=env("COMMUCAT_RATE_HTTP_BURST")
    )
    """Requests other than ``/connect``: of one address, and of one device and one user that is known."""
    http_window_ms: int = attrs.field(
        default=1000, validator=between(1, _LONGEST_MS), metadata=env("COMMUCAT_RATE_HTTP_WINDOW_MS")
    )
    http_penalty_ms: int = attrs.field(
        default=10_000, validator=between(0, _LONGEST_MS), metadata=env("COMMUCAT_RATE_HTTP_PENALTY_MS")
    )
    connect_burst: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(between(1, _MOST)),
        metadata=env("COMMUCAT_RATE_CONNECT_BURST"),
    )
    """Handshakes of one address; those that succeed do not count. ``limits.connects_per_second`` unless
    set."""
    connect_window_ms: int = attrs.field(
        default=1000, validator=between(1, _LONGEST_MS), metadata=env("COMMUCAT_RATE_CONNECT_WINDOW_MS")
    )
    connect_penalty_ms: int = attrs.field(
        default=0, validator=between(0, _LONGEST_MS), metadata=env("COMMUCAT_RATE_CONNECT_PENALTY_MS")
    )
    pairing_burst: int = attrs.field(
        default=5, validator=between(1, _MOST), metadata=env("COMMUCAT_RATE_PAIRING_BURST")
    )
    """Claims of pairing codes by one address."""
    pairing_window_ms: int = attrs.field(
        default=60_000, validator=between(1, _LONGEST_MS), metadata=env("COMMUCAT_RATE_PAIRING_WINDOW_MS")
    )
    pairing_penalty_ms: int = attrs.field(
        default=120_000, validator=between(0, _LONGEST_MS), metadata=env("COMMUCAT_RATE_PAIRING_PENALTY_MS")
    )
    message_burst: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(between(1, _MOST)),
        metadata=env("COMMUCAT_RATE_MESSAGE_BURST"),
    )
    """Frames that one device may send to others. No limit unless set."""
    message_window_ms: int = attrs.field(
        default=1000, validator=between(1, _LONGEST_MS), metadata=env("COMMUCAT_RATE_MESSAGE_WINDOW_MS")
    )
    user_message_burst: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(between(1, _MOST)),
        metadata=env("COMMUCAT_RATE_USER_MESSAGE_BURST"),
    )
    """The same for all devices of one user together."""
    user_message_window_ms: int = attrs.field(
        default=1000, validator=between(1, _LONGEST_MS), metadata=env("COMMUCAT_RATE_USER_MESSAGE_WINDOW_MS")
    )
