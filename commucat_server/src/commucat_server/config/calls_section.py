"""Section about calls: how many there may be, whom they reach, and what is kept of them.

As in :mod:`commucat_server.config.sections`, a field's metadata name its environment variable.
"""

import enum
from typing import Final

import attrs

from commucat_server.config.sections import between, env

_YEAR: Final = 365 * 86_400


class FromStrangers(enum.Enum):
    """What becomes of the call of a device to which the called one has no relation."""

    RING = "ring"
    REFUSE = "refuse"


@attrs.frozen(kw_only=True)
class CallsSection:
    """Section ``[calls]``. How long a call rings is ``limits.ring_timeout``."""

    grace: int = attrs.field(default=30, validator=between(0, 600), metadata=env("COMMUCAT_CALLS_GRACE"))
    """Seconds for which a device that was in a call may be away before it leaves the call."""
    per_device: int = attrs.field(
        default=4, validator=between(1, 1000), metadata=env("COMMUCAT_CALLS_PER_DEVICE")
    )
    """Calls that one device may be in at once."""
    participants: int = attrs.field(
        default=32, validator=between(2, 1000), metadata=env("COMMUCAT_CALLS_PARTICIPANTS")
    )
    """Devices that may be in one call; it may ring at more."""
    total: int = attrs.field(
        default=10_000, validator=between(1, 1_000_000), metadata=env("COMMUCAT_CALLS_TOTAL")
    )
    """Calls at once, those that ring included; all nodes and workers of a server together."""
    call_waiting: bool = attrs.field(default=True, metadata=env("COMMUCAT_CALLS_CALL_WAITING"))
    """Whether a further call rings at a device that is in one."""
    from_strangers: FromStrangers = attrs.field(
        default=FromStrangers.RING, metadata=env("COMMUCAT_CALLS_FROM_STRANGERS")
    )
    keep: int = attrs.field(default=86_400, validator=between(0, _YEAR), metadata=env("COMMUCAT_CALLS_KEEP"))
    """Seconds for which the store keeps a call that is over; 0: it is deleted at its end."""
