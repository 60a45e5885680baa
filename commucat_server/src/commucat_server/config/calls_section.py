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
    media_streams: int = attrs.field(
        default=8, validator=between(1, 64), metadata=env("COMMUCAT_CALLS_MEDIA_STREAMS")
    )
    """Streams that one device sends in a call at once."""
    audio_packets: int = attrs.field(
        default=200, validator=between(1, 100_000), metadata=env("COMMUCAT_CALLS_AUDIO_PACKETS")
    )
    """Packets of sound a second that are passed on for one device in a call."""
    audio_bytes: int = attrs.field(
        default=524_288, validator=between(1, 2**30), metadata=env("COMMUCAT_CALLS_AUDIO_BYTES")
    )
    """The same in bytes."""
    video_packets: int = attrs.field(
        default=400, validator=between(1, 100_000), metadata=env("COMMUCAT_CALLS_VIDEO_PACKETS")
    )
    """Pictures a second that are passed on for one device in a call, over all layers."""
    video_bytes: int = attrs.field(
        default=4_194_304, validator=between(1, 2**30), metadata=env("COMMUCAT_CALLS_VIDEO_BYTES")
    )
    """The same in bytes."""
    forwarded_bytes: int = attrs.field(
        default=125_000_000, validator=between(0, 2**40), metadata=env("COMMUCAT_CALLS_FORWARDED_BYTES")
    )
    """Bytes of media a second that this process sends to receivers, 1 Gbit/s; 0: any number."""
    transcoders: int = attrs.field(
        default=2, validator=between(0, 256), metadata=env("COMMUCAT_CALLS_TRANSCODERS")
    )
    """Threads in which this process transcodes media for those who ask for it; 0: nothing is transcoded."""
    transcoded_streams: int = attrs.field(
        default=16, validator=between(1, 10_000), metadata=env("COMMUCAT_CALLS_TRANSCODED_STREAMS")
    )
    """Transcoders of this process at once: one for each stream and codec that is asked for."""
