"""Redis, if it is configured."""

import time
from collections.abc import Iterator

import trio

from commucat_cli.diagnose.finding import Finding, failure, ok, warning
from commucat_server.config import ServerConfig
from commucat_server.provision import open_shared
from commucat_storage import StorageError


def check_shared(config: ServerConfig) -> Iterator[Finding]:
    """Whether a server with this configuration could use Redis now; nothing without one."""
    if config.storage.redis_url is None:
        return
    told: list[str] = []
    try:
        trio.run(_open, config, told)
    except StorageError as exc:
        yield failure("redis", str(exc))
        return
    if told:
        # A server would start, and go on without it.
        yield warning("redis", told[0])
    else:
        yield ok("redis", "takes our commands")


async def _open(config: ServerConfig, told: list[str]) -> None:
    def tell(trouble: str | None) -> None:
        if trouble is not None:
            told.append(trouble)

    async with open_shared(config, node="diagnose", clock=time.time, tell=tell):
        pass
