"""What the advice on paths is made of."""

import attrs
import trio

from commucat_server.nat.assist import IceAdvice
from commucat_server.p2p.tickets import RelayTickets
from commucat_server.security.rate import RateLimit

TRIALS_AT_ONCE = 1
"""Trial encodings that run at a time: callers wait for each other, and never take more than one core."""


@attrs.frozen(kw_only=True)
class Assistance:
    """The services behind the advice."""

    ice: IceAdvice
    tickets: RelayTickets | None
    """``None``: the relay is switched off."""
    rate: RateLimit
    """Answers to one device."""
    prologue: bytes
    trials: trio.CapacityLimiter = attrs.Factory(lambda: trio.CapacityLimiter(TRIALS_AT_ONCE))
