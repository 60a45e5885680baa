"""Redis as a server uses it, with patience for tests, and ways to wait for what it notices."""

import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from commucat_storage.redis import Redis, RedisSettings, open_redis
from databases.redis_server import run_redis

T = TypeVar("T")

DEADLINE = 60.0
"""Seconds; only a hang takes so long."""
LONG = 300
"""A lifetime after which nothing expires and nothing is renewed within a test."""
_ids = itertools.count(1)


def fresh(name: str) -> str:
    """A name that nobody used before, not in an earlier run either."""
    return f"{name}-{os.getpid()}-{next(_ids)}"


def quick(**changes: Any) -> RedisSettings:
    """Tries again at once, and is patient enough for a busy machine."""
    fixed: dict[str, Any] = {"presence_ttl": LONG, "first_delay": 0.01, "longest_delay": 0.05}
    patient = ("command_timeout", "connect_timeout", "close_timeout", "decision_timeout", "answer_timeout")
    return RedisSettings(**(fixed | dict.fromkeys(patient, DEADLINE) | changes))


class Told:
    """What was told of Redis; to be given as ``tell``."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[str | None](1000)
        self.lines: list[str | None] = []

    def __call__(self, line: str | None) -> None:
        self.lines.append(line)
        self._send.send_nowait(line)

    async def wrong(self, text: str) -> None:
        """Wait until this is told to be wrong."""
        with trio.fail_after(DEADLINE):
            while text not in (await self._receive.receive() or ""):
                pass

    async def well(self) -> None:
        """Wait until nothing is told to be wrong."""
        with trio.fail_after(DEADLINE):
            while await self._receive.receive() is not None:
                pass


@asynccontextmanager
async def node(
    url: str, name: str = "n1", told: Told | None = None, settings: RedisSettings | None = None
) -> AsyncIterator[Redis]:
    """One node of a cluster."""
    async with open_redis(
        url, node=name, tell=told or Told(), settings=settings or quick(), clock=lambda: 1_800_000_000
    ) as redis:
        yield redis


async def settled(redis: Redis) -> None:
    """Wait until everything that was noted so far has reached Redis."""
    # What is asked goes out together with what was noted before; the second question after both.
    for _ in range(2):
        await redis.bus.route_of(["nobody"])


async def until(ask: Callable[[], Awaitable[T]], wanted: T) -> None:
    """Ask Redis again and again until it gives this answer."""
    with trio.fail_after(DEADLINE):
        while await ask() != wanted:
            await trio.lowlevel.checkpoint()


async def redis_cli(url: str, *command: str) -> str:
    """Run a command with redis-cli while the nodes go on."""
    return await trio.to_thread.run_sync(lambda: run_redis(url, *command))


async def next_hint(hints: trio.MemoryReceiveChannel[bytes]) -> bytes:
    """The next hint that tells something."""
    with trio.fail_after(DEADLINE):
        while True:
            hint = await hints.receive()
            if hint:
                return hint


async def presence(url: str, device: str) -> dict[str, Any]:
    found = json.loads(await redis_cli(url, "GET", f"presence:{device}"))
    assert isinstance(found, dict)
    return found


async def subscribed(url: str, nodes: int) -> None:
    """Wait until so many nodes listen for hints."""
    with trio.fail_after(DEADLINE):
        while (await redis_cli(url, "CLIENT", "LIST", "TYPE", "pubsub")).count("cmd=subscribe") < nodes:
            pass
