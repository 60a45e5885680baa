"""Token buckets in Redis: ``ratelimit:<scope>:<identity>``, by the clock of the Redis server."""

from collections.abc import Mapping
from itertools import islice
from typing import Final

from commucat_storage.redis.asks import Asks, UnansweredError
from commucat_storage.redis.connection import Argument

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
# KEYS: buckets. ARGV: tokens one holds, milliseconds until an empty one is full, the least it may hold, and
# for each how many were spent.
_SPEND: Final = """
local burst, period, least = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local life = math.ceil((burst - least) * period / burst) + 1000
local left = {}
for i, key in ipairs(KEYS) do
  local held = redis.pcall('HMGET', key, 'tokens', 'at')
  if held.err then redis.call('DEL', key) held = {} end
  local tokens, at = tonumber(held[1] or nil) or burst, tonumber(held[2] or nil) or now
  tokens = math.min(burst, tokens + math.max(0, now - at) * burst / period) - tonumber(ARGV[3 + i])
  tokens = math.max(least, tokens)
  redis.call('HSET', key, 'tokens', tostring(tokens), 'at', string.format('%.3f', now))
  redis.call('PEXPIRE', key, life)
  left[i] = tostring(tokens)
end
return table.concat(left, ' ')
"""
SPENT_AT_ONCE: Final = 256
"""Buckets of one script: Redis does nothing else meanwhile."""


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

    async def spend(
        self, scope: str, spent: Mapping[str, int], *, burst: int, period: float
    ) -> Mapping[str, float] | None:
        milliseconds = max(1, round(period * 1000))
        least = -max(float(burst), burst / period)
        left: dict[str, float] = {}
        waiting = iter(spent)
        while identities := list(islice(waiting, SPENT_AT_ONCE)):
            keys = [bucket_key(scope, each) for each in identities]
            counts = [spent[each] for each in identities]
            command: list[Argument] = ["EVAL", _SPEND, len(keys), *keys, burst, milliseconds, least, *counts]
            try:
                answer = await self._asks.ask(
                    *command,
                    seconds=self._seconds,
                    writes=True,
                )
            except UnansweredError:
                return left or None
            assert isinstance(answer, bytes), "the script returns one string"
            left.update(zip(identities, map(float, answer.split()), strict=True))
        return left
