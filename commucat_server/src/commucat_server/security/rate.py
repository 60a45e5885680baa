"""Rate limits per address, without a growing table."""

import functools
import ipaddress
from collections import OrderedDict
from collections.abc import Callable

from commucat_storage.buckets import Buckets

# More addresses than this at once means that many are strangers: the longest silent one goes.
MAX_IDENTITIES = 50_000


@functools.lru_cache(maxsize=4096)
def identity_of(host: str) -> str:
    """IPv4: the address. IPv6: its /64, which is what one subscriber gets."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)


class RateLimit:
    """A token bucket per identity: ``burst`` at once, refilled evenly over ``period`` seconds.

    Whoever finds it empty is refused for ``penalty`` seconds; 0 means until there is a token again.
    ``clock`` must not go backwards: the monotonic clock, not the time of day.
    """

    def __init__(
        self, *, burst: int, period: float, penalty: float = 0.0, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        # Tokens, when they were counted, and until when nothing is given.
        self._buckets: OrderedDict[str, tuple[float, float, float]] = OrderedDict()
        self.configure(burst=burst, period=period, penalty=penalty)

    def configure(self, *, burst: int, period: float, penalty: float = 0.0) -> None:
        """Change the numbers; what was taken stays taken."""
        self.burst = burst
        self.period = period
        self.penalty = penalty
        self._burst = float(burst)
        self._rate = burst / period

    def take(self, identity: str) -> float:
        """Take one token. 0.0 if there was one, otherwise the seconds until there is."""
        now = self._clock()
        tokens, blocked = self._draw(identity, now)
        # Not longer than the penalty of now: it may have been configured anew.
        wait = min(blocked - now, self.penalty)
        if wait > 0.0:
            self._put(identity, tokens, now, blocked)
            return wait
        if tokens >= 1.0:
            self._put(identity, tokens - 1.0, now, 0.0)
            return 0.0
        self._put(identity, tokens, now, now + self.penalty)
        return self.penalty or (1.0 - tokens) / self._rate

    def block(self, identity: str, seconds: float) -> None:
        """Refuse for so long, as after a penalty; no longer than a penalty lasts."""
        now = self._clock()
        tokens, since, _ = self._buckets.pop(identity, (self._burst, now, 0.0))
        self._put(identity, tokens, since, now + seconds)

    def give_back(self, identity: str) -> None:
        """Undo one :meth:`take`: what succeeded shall not count."""
        if identity in self._buckets:
            tokens, since, blocked = self._buckets.pop(identity)
            self._put(identity, min(self._burst, tokens + 1.0), since, blocked)

    def charge(self, identity: str, tokens: int) -> None:
        """Take more tokens, there or not: what is not there is owed."""
        now = self._clock()
        held, blocked = self._draw(identity, now)
        self._put(identity, held - tokens, now, blocked)

    def lower(self, identity: str, tokens: float) -> None:
        """Let an identity have no more than so many now; below 0, what it owes."""
        now = self._clock()
        held, blocked = self._draw(identity, now)
        self._put(identity, min(held, tokens), now, blocked)

    def _draw(self, identity: str, now: float) -> tuple[float, float]:
        """Take the bucket out, as it is now: its tokens, and until when nothing is given."""
        tokens, since, blocked = self._buckets.pop(identity, (self._burst, now, 0.0))
        return min(self._burst, tokens + (now - since) * self._rate), blocked

    def _put(self, identity: str, tokens: float, now: float, blocked: float) -> None:
        self._buckets[identity] = (tokens, now, blocked)
        if len(self._buckets) > MAX_IDENTITIES:
            self._buckets.popitem(last=False)

    def __len__(self) -> int:
        return len(self._buckets)


class SharedRateLimit:
    """A :class:`RateLimit` that counts for all processes of a cluster, if they share ``buckets``.

    While nobody answers for the cluster each process counts by itself, and goes on doing so beside: who
    is refused here is refused without asking.
    """

    def __init__(self, scope: str, local: RateLimit, buckets: Buckets | None = None) -> None:
        self._scope = scope
        self._local = local
        self._buckets = buckets

    async def take(self, identity: str) -> float:
        """Take one token. 0.0 if there was one, otherwise the seconds until there is.

        Without a cluster at once, without a checkpoint; otherwise within some hundredths of a second.
        """
        wait = self._local.take(identity)
        if wait > 0.0 or self._buckets is None:
            return wait
        wait = await self._shared_wait(self._buckets, identity)
        if wait > 0.0:
            self._local.give_back(identity)
            if self._local.penalty:
                # Whoever is refused for seconds need not be asked about again.
                self._local.block(identity, wait)
        return wait

    def configure(self, *, burst: int, period: float, penalty: float = 0.0) -> None:
        """Change the numbers; what was taken stays taken."""
        self._local.configure(burst=burst, period=period, penalty=penalty)

    @property
    def numbers(self) -> tuple[int, float, float]:
        """Tokens, the seconds in which so many come back, and the seconds of the penalty."""
        return self._local.burst, self._local.period, self._local.penalty

    def give_back(self, identity: str) -> None:
        """Undo one :meth:`take`: what succeeded shall not count."""
        self._local.give_back(identity)
        if self._buckets is not None:
            self._buckets.give_back(self._scope, identity, burst=self._local.burst)

    async def _shared_wait(self, buckets: Buckets, identity: str) -> float:
        local = self._local
        wait = await buckets.take(
            self._scope, identity, burst=local.burst, period=local.period, penalty=local.penalty
        )
        return 0.0 if wait is None else wait
