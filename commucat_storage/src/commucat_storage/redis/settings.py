"""How patient the Redis backend is. Times in seconds."""

import attrs


@attrs.frozen(kw_only=True)
class RedisSettings:
    """Lifetimes and deadlines; the defaults suit a server in the same building."""

    presence_ttl: int = attrs.field(default=30, validator=attrs.validators.ge(1))
    """Lifetime of what a killed process leaves behind; a live one renews it in time."""
    connect_timeout: float = 2.0
    """From the first packet to the answer to a PING."""
    command_timeout: float = 1.0
    """For one exchange of up to some hundred commands. A connection that is slower is given up."""
    ping_interval: float = 5.0
    """A connection that nothing passes over is asked for a sign of life."""
    decision_timeout: float = 0.05
    """How long a decision waits (a rate limit): a handshake waits with it."""
    answer_timeout: float = 0.25
    """How long other questions wait (routes, pairing codes)."""
    first_delay: float = 0.1
    """Between the first two attempts to connect; twice as long each time, with up to a half left out at
    random, so that the nodes of a cluster do not come back at the same moment."""
    longest_delay: float = 5.0
    close_timeout: float = 1.0
    """For the last words when the server stops."""

    @property
    def refresh_interval(self) -> float:
        """A refresh may get lost twice before anything expires."""
        return self.presence_ttl / 3
