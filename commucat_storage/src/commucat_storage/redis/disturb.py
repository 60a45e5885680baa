"""What trials do to a Redis beside a server that runs."""

from typing import Final

from commucat_storage.asyncio_loop import open_loop
from commucat_storage.errors import StorageUnavailableError
from commucat_storage.redis.address import RedisAddress
from commucat_storage.redis.connection import Argument, RedisConnection, Reply
from commucat_storage.redis.service import address_of
from commucat_storage.redis.trouble import trouble_of

_NAME: Final = "commucat-trial"
_SECONDS: Final = 30.0  # for anything: who has stopped the server has to let it go on before


async def redis_is_empty(url: str) -> bool:
    """Whether no database of the server holds anything.

    Raises:
        StorageUnavailableError: the server cannot be asked; the text says why.
    """
    [keyspace] = await _order(url, ("INFO", "keyspace"))
    return b"db" not in bytes(keyspace)


async def empty_redis(url: str) -> None:
    """Forget everything, in all databases of the server. Raises as :func:`redis_is_empty`."""
    await _order(url, ("FLUSHALL",))


async def cut_redis_clients(url: str) -> int:
    """End all connections of clients but the own one; how many there were.

    Raises as :func:`redis_is_empty`.
    """
    replies = await _order(
        url, *(("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes") for kind in ("normal", "pubsub"))
    )
    return sum(int(reply) for reply in replies)


async def _order(url: str, *commands: tuple[Argument, ...]) -> list[Reply]:
    address: RedisAddress = address_of(url)

    async def unit() -> list[Reply]:
        try:
            connection = await RedisConnection.open(address, _NAME, _SECONDS)
            try:
                replies = await connection.exchange(commands, _SECONDS)
            finally:
                connection.abort()
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        except Exception as exc:
            raise StorageUnavailableError(str(trouble_of(exc, address))) from exc
        return replies

    async with open_loop() as loop:
        return await loop.run(unit)
