"""How long a peer that could not be reached is left alone."""

import random

import attrs


@attrs.frozen(kw_only=True)
class Backoff:
    """Exponential, with jitter, so that servers that lost the same peer do not come back together."""

    shortest: float
    longest: float
    """Seconds."""

    def delay(self, failures: int, asked: float | None = None) -> float:
        """Seconds until the next attempt after so many failures in a row, 1 or more; ``asked``: what the
        peer itself has named."""
        # 2**16 seconds are more than any configured longest one.
        whole = min(self.longest, self.shortest * 2.0 ** min(failures - 1, 16))
        jittered: float = whole * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
        return max(jittered, min(asked, self.longest)) if asked is not None else jittered
