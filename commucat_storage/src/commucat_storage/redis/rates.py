"""Token buckets in Redis: ``ratelimit:<scope>:<identity>``, by the clock of the Redis server."""

from typing import Final

from commucat_storage.redis.asks import Asks, UnansweredError

# KEYS: the bucket. ARGV: tokens it holds, milliseconds until an empty one is full, and for which one is
# refused who finds it empty.
# A clock that was set back refills nothing; what another program left under the key is overwritten.
_TAKE: Final = """
local burst, period, penalty = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local held = redis.pcall('HMGET', KEYS[1], 'tokens', 'at', 'blocked')
if held.err then redis.call('DEL', KEYS[1]) held = {} end
local tokens, at = tonumber(held[1] or nil) or burst, tonumber(held[2] or nil) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * burst / period)
local blocked = tonumber(held[3] or nil) or 0
local wait = math.min(math.max(0, blocked - now), penalty)
if wait <= 0 then
  blocked = 0
  if tokens >= 1 then tokens = tokens - 1
  elseif penalty > 0 then wait = penalty blocked = now + penalty
  else wait = (1 - tokens) * period / burst end
end
local at, free = string.format('%.3f', now), string.format('%.3f', blocked)
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', at, 'blocked', free)
redis.call('PEXPIRE', KEYS[1], math.ceil(math.max(period, penalty)) + 1000)
return tostring(wait)
"""
# KEYS: the bucket. ARGV: tokens it holds.
_GIVE_BACK: Final = """
local tokens = tonumber(redis.call('HGET', KEYS[1], 'tokens') or nil)
if tokens then
  redis.call('HSET', KEYS[1], 'tokens', tostring(math.min(tonumber(ARGV[1]), tokens + 1)))
end
return 1
"""


def bucket_key(scope: str, identity: str) -> bytes:
    return f"ratelimit:{scope}:{identity}".encode("utf-8", "surrogatepass")


class RedisBuckets:
    """:class:`commucat_storage.buckets.Buckets` over one connection."""

    def __init__(self, asks: Asks, *, seconds: float) -> None:
        self._asks = asks
        self._seconds = seconds

    async def take(
        self, scope: str, identity: str, *, burst: int, period: float, penalty: float = 0.0
    ) -> float | None:
        milliseconds = max(1, round(period * 1000))
        try:
            wait = await self._asks.ask(
                *("EVAL", _TAKE, 1, bucket_key(scope, identity), burst, milliseconds, round(penalty * 1000)),
                seconds=self._seconds,
                writes=True,
            )
        except UnansweredError:
            return None
        return float(wait) / 1000

    def give_back(self, scope: str, identity: str, *, burst: int) -> None:
        self._asks.tell("EVAL", _GIVE_BACK, 1, bucket_key(scope, identity), burst, writes=True)
