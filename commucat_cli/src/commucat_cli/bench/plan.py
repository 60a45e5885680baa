"""What a benchmark shall do."""

import enum
from pathlib import Path

import attrs

from commucat_cli.bench.payload import HEADER_LEN

MAX_SIZE = 1_000_000
"""Bytes of a payload; with header and encryption it still fits the default frame limit."""

MAX_RECEIVERS = 500
"""Below the default limit of devices that one route may name."""


class Scenario(enum.Enum):
    """The way of the messages."""

    RELAY = "relay"
    """Receivers are connected while the sender sends."""
    OFFLINE = "offline"
    """Receivers come when everything is sent."""


@attrs.frozen(kw_only=True)
class Plan:
    """One run of a benchmark."""

    scenario: Scenario
    messages: int = attrs.field(default=20_000, validator=attrs.validators.ge(1))
    size: int = attrs.field(
        default=256, validator=[attrs.validators.ge(HEADER_LEN), attrs.validators.le(MAX_SIZE)]
    )
    """Bytes of the payload of each Msg frame: what would be the sealed text."""
    window: int = attrs.field(default=500, validator=attrs.validators.ge(1))
    """Messages on the way that the server has not acknowledged."""
    receivers: int = attrs.field(
        default=1, validator=[attrs.validators.ge(1), attrs.validators.le(MAX_RECEIVERS)]
    )
    """Devices that get each message."""
    server: str | None = None
    """Address of a running server; None starts one."""
    tls_ca: Path | None = None
    """For ``server`` only."""
    stall: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    """Seconds without any progress after which the rest counts as lost."""

    @property
    def deliveries(self) -> int:
        """Messages that arrive when none is lost."""
        return self.messages * self.receivers
