"""Section about traces for an OpenTelemetry collector."""

from typing import Any
from urllib.parse import urlsplit

import attrs

from commucat_server.config.errors import InvalidValueError
from commucat_server.config.sections import env


def _address(_section: Any, _attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    if value is None:
        return
    try:
        parts = urlsplit(value)
        proper = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        proper = False
    if not proper or not value.isprintable() or " " in value:
        raise InvalidValueError(
            "is no address of a collector; it looks like http://127.0.0.1:4318",
            key="otlp_endpoint",
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidValueError(
            "must not hold a password; put a collector without one on this machine, which passes on to yours",
            key="otlp_endpoint",
        )


def _ratio(_section: Any, _attribute: "attrs.Attribute[Any]", value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InvalidValueError(f"must be 0 to 1, not {value:g}", key="sample_ratio")


@attrs.frozen(kw_only=True)
class TelemetrySection:
    """Section ``[telemetry]``: spans of requests and handshakes, for those who collect them."""

    otlp_endpoint: str | None = attrs.field(
        default=None, validator=_address, metadata=env("COMMUCAT_OTLP_ENDPOINT")
    )
    """Where spans go, by OTLP over HTTP; ``/v1/traces`` is added. Without it there are none."""
    sample_ratio: float = attrs.field(
        default=1.0, validator=_ratio, metadata=env("COMMUCAT_OTLP_SAMPLE_RATIO")
    )
    """Share of the traces that begin here; others follow the decision that they bring along."""
