"""What calls may take, and how long they wait for people."""

import attrs


@attrs.define(kw_only=True)
class CallLimits:
    """One per server. The numbers may be changed at any time, and hold from the next frame on.

    Times in seconds.
    """

    ring_timeout: float = 60.0
    """How long a call rings."""
    grace: float = 30.0
    """How long a device that was in a call may be away; 0: it leaves the call with its session."""
    per_device: int = 4
    """Calls that one device may be in, and so may have begun. Being called does not count: strangers could
    fill the places."""
    participants: int = 32
    """Devices that may be in one call; it may ring at more."""
    total: int = 10_000
    """Calls at once, as far as this server knows of them, which is on all its nodes."""
    call_waiting: bool = True
    """Whether it rings at a device that is in a call."""
    strangers: bool = True
    """Whether those without a relation to a device may call it."""
    keep: int = 86_400
    """How long the store keeps a call that is over."""

    @property
    def busy_from(self) -> int:
        """In so many calls a device is busy."""
        return self.per_device if self.call_waiting else 1
