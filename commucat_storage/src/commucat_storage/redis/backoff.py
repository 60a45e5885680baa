"""How long to wait before the next attempt to connect."""

import random


class Backoff:
    """Doubles the delay after each failure, up to a limit; a connection that lasted resets it."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._delay = first
        self._since: float | None = None

    def connected(self, now: float) -> None:
        """There is a connection, since now."""
        self._since = now

    def next(self, now: float) -> float:
        """Seconds to wait, after a connection or an attempt has failed now."""
        # A server that lets everybody in and refuses the first command must not be called again and again.
        if self._since is not None and now - self._since >= self._longest:
            self._delay = self._first
        self._since = None
        delay = self._delay
        self._delay = min(2 * delay, self._longest)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
