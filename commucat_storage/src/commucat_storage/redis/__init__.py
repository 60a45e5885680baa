"""What several processes know of each other; needs redis and trio-asyncio (the extra ``redis``).

Nothing else of the package imports it: importing it changes how asyncio finds its loop. What is kept
here may vanish at any moment; the truth is in the database.
"""

from commucat_storage.redis.disturb import cut_redis_clients, empty_redis, redis_is_empty
from commucat_storage.redis.pairing import PairingCode, RedisPairing
from commucat_storage.redis.service import Redis, open_redis, place_of
from commucat_storage.redis.settings import RedisSettings

__all__ = [
    "PairingCode",
    "Redis",
    "RedisPairing",
    "RedisSettings",
    "cut_redis_clients",
    "empty_redis",
    "open_redis",
    "place_of",
    "redis_is_empty",
]
