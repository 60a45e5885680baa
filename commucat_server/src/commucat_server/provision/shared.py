"""What the processes of one cluster share beside the store: through Redis if it is configured.

Its library is imported only then: it need not be installed otherwise, and changes how asyncio works once
it is imported.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import structlog

from commucat_server.config import ServerConfig
from commucat_storage import StorageUnavailableError
from commucat_storage.buckets import Buckets
from commucat_storage.bus import BusCounters, LocalBus, NodeBus

log = structlog.get_logger("commucat.redis")


@attrs.frozen(kw_only=True)
class Shared:
    """The services; those of a process that is alone reach nobody else."""

    bus: NodeBus = attrs.field(factory=LocalBus)
    buckets: Buckets | None = None
    """None: each process counts by itself."""
    counters: BusCounters | None = None


def _log(trouble: str | None) -> None:
    if trouble is None:
        log.info("redis is used again")
    else:
        log.warning("redis is not used for now", reason=trouble)


@asynccontextmanager
async def open_shared(
    config: ServerConfig,
    *,
    node: str,
    clock: Callable[[], float],
    tell: Callable[[str | None], None] = _log,
    own: Callable[[str], AbstractAsyncContextManager[NodeBus]] | None = None,
) -> AsyncIterator[Shared]:
    """Open what the configuration names, for the node of this name.

    ``own`` opens the bus of the store, which carries the hints when there is no Redis.

    Redis that cannot be reached is told, in the log unless elsewhere, and used as soon as it can.

    Raises:
        StorageError: Redis is configured wrongly; the text says how.
    """
    url = config.storage.redis_url
    if url is None:
        if own is None:
            yield Shared(bus=LocalBus(node))
            return
        async with own(node) as bus:
            yield Shared(bus=bus)
        return
    try:
        from commucat_storage.redis import RedisSettings, open_redis
    except ModuleNotFoundError as exc:
        raise StorageUnavailableError(
            f"storage.redis_url needs {exc.name}, which is not installed; "
            "run: pip install 'commucat-storage[redis]'"
        ) from exc
    settings = RedisSettings(presence_ttl=config.limits.presence_ttl)
    async with open_redis(url, node=node, tell=tell, settings=settings, clock=clock) as redis:
        yield Shared(bus=redis.bus, buckets=redis.buckets, counters=redis.counters)
