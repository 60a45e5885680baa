"""Which keys and variables there are, and which of the reference server this version lacks."""

import difflib
from collections.abc import Iterable
from typing import Final

import attrs

from commucat_server.config import (
    access_sections,
    calls_section,
    federation_section,
    rotation_section,
    sections,
    telemetry_section,
)

PREFIX: Final = "COMMUCAT_"
SECTIONS: Final[dict[str, type]] = {
    "server": sections.ServerSection,
    "crypto": sections.CryptoSection,
    "storage": sections.StorageSection,
    "ledger": sections.LedgerSection,
    "limits": sections.LimitsSection,
    "delivery": sections.DeliverySection,
    "channels": sections.ChannelsSection,
    "transport": sections.TransportSection,
    "timeouts": sections.TimeoutsSection,
    "security": sections.SecuritySection,
    "security.rate_limit": access_sections.RateLimitSection,
    "admin": access_sections.AdminSection,
    "proxy": access_sections.ProxySection,
    "uploads": sections.UploadsSection,
    "attachments": sections.AttachmentsSection,
    "security.rotation": rotation_section.RotationSection,
    "logging": sections.LoggingSection,
    "telemetry": telemetry_section.TelemetrySection,
    "pairing": sections.PairingSection,
    "rotation.device": sections.DeviceRotationSection,
    "calls": calls_section.CallsSection,
    "federation": federation_section.FederationSection,
}
KEYS: Final[frozenset[str]] = frozenset(
    f"{section}.{field.name}" for section, kind in SECTIONS.items() for field in attrs.fields(kind)
)
"""``section.name``; the section may have a section above it, as ``security.rate_limit`` has."""
VARIABLES: Final[dict[str, str]] = {
    field.metadata["env"]: f"{section}.{field.name}"
    for section, kind in SECTIONS.items()
    for field in attrs.fields(kind)
}
"""Variable to key."""
OTHER_VARIABLES: Final = frozenset(
    {
        "COMMUCAT_CONFIG",
        "COMMUCAT_DATA_DIR",
        # Set by container images and by test environments; they tell the server nothing.
        "COMMUCAT_VERSION",
        "COMMUCAT_TEST_PG_DSN",
        "COMMUCAT_TEST_REDIS_URL",
    }
)
# Key (with everything below it), variable (a prefix if it ends in "_"), what it is.
_UNSUPPORTED: Final = (
    ("ice", "COMMUCAT_ICE_", "ICE and TURN"),
    ("crypto.pq_kem_public", "COMMUCAT_PQ_KEM_PUBLIC", "a post-quantum server key"),
    ("crypto.pq_kem_secret", "COMMUCAT_PQ_KEM_SECRET", "a post-quantum server key"),
    ("transport.reality_cert", "COMMUCAT_REALITY_", "transport disguise"),
    ("transport.reality_fingerprint", "COMMUCAT_REALITY_", "transport disguise"),
)


def unsupported_key(key: str) -> str | None:
    """What a key of the reference server would configure, if this version has not got it."""
    for name, _variable, what in _UNSUPPORTED:
        if key == name or key.startswith(name + "."):
            return what
    return None


def unsupported_variable(variable: str) -> str | None:
    """The same for an environment variable."""
    for _name, known, what in _UNSUPPORTED:
        if variable == known or (known.endswith("_") and variable.startswith(known)):
            return what
    return None


def suggestion(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that comes closest, None if none is close."""
    # Names are compared in bounded length: matching is quadratic.
    close = difflib.get_close_matches(name[:100], sorted(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def close_variable(variable: str) -> str | None:
    """The known variable of which this one is probably a misspelling."""
    known = {name.removeprefix(PREFIX): name for name in (*VARIABLES, *OTHER_VARIABLES)}
    # The shared prefix would make everything look alike, and the bar is high: other programs
    # and Kubernetes (COMMUCAT_SERVICE_HOST) set variables of this prefix too.
    close = suggestion(variable.removeprefix(PREFIX), known, cutoff=0.85)
    return None if close is None else known[close]
