"""Limits that the servers of one cluster share, and what they do when nobody answers for the cluster."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from commucat_server.config import ConfigError, load_config
from commucat_server.provision import Shared, open_shared
from commucat_server.security.rate import RateLimit, SharedRateLimit
from commucat_storage import StorageUnavailableError
from commucat_storage.redis import Redis
from server.connect_builders import Person, running_server
from storage.redis_builders import fresh, node, redis_cli, settled

ALICE = Person(handle=fresh("alice"))
URL = "redis://me:hunter2@cache.example/2"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with node(redis_url) as redis:
        yield redis


def limit(scope: str, burst: int, redis: Redis | None) -> SharedRateLimit:
    local = RateLimit(burst=burst, period=3600.0, clock=trio.current_time)
    return SharedRateLimit(scope, local, None if redis is None else redis.buckets)


async def allowed(rate: SharedRateLimit, count: int) -> int:
    return [await rate.take("192.0.2.1") for _ in range(count)].count(0.0)


async def test_two_servers_let_through_as_much_as_one(redis: Redis) -> None:
    scope = fresh("scope")
    one, two = limit(scope, 5, redis), limit(scope, 5, redis)

    assert [await allowed(one, 3), await allowed(two, 3), await allowed(one, 3)] == [3, 2, 0]


async def test_what_succeeded_counts_nowhere(redis: Redis) -> None:
    scope = fresh("scope")
    one, two = limit(scope, 2, redis), limit(scope, 2, redis)
    for _ in range(5):
        assert await one.take("192.0.2.1") == 0.0
        one.give_back("192.0.2.1")
    await settled(redis)

    assert await allowed(two, 3) == 2


async def test_what_the_cluster_refuses_costs_the_own_bucket_nothing(redis: Redis) -> None:
    scope = fresh("scope")
    one, two = limit(scope, 2, redis), limit(scope, 2, redis)
    assert await allowed(one, 2) == 2
    assert await allowed(two, 5) == 0
    # Now nobody answers for the cluster: the server's own bucket is still full.
    two._buckets = None  # type: ignore[assignment]

    assert await allowed(two, 3) == 2


async def test_without_an_answer_each_process_counts_by_itself() -> None:
    async with node("unix:///nowhere/redis.sock") as redis:
        assert await allowed(limit("connect", 3, redis), 5) == 3


async def test_without_redis_nothing_is_waited_for() -> None:
    rate = limit("connect", 2, None)
    with trio.CancelScope() as scope:
        scope.cancel()
        # No checkpoint: a connection costs no turn of the loop for it.
        assert await allowed(rate, 3) == 2
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_a_session_is_noted_while_it_lasts(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    shared = Shared(bus=redis.bus, buckets=redis.buckets, counters=redis.counters)
    async with running_server(tmp_path, shared=shared) as server:
        alice = await server.connect(ALICE)
        await settled(redis)
        assert await redis.bus.route_of([ALICE.device_id]) == {ALICE.device_id: "n1"}

        again = await server.connect(ALICE)
        alice.stream.lose()
        await trio.testing.wait_all_tasks_blocked()
        await settled(redis)
        assert await redis.bus.route_of([ALICE.device_id]) == {ALICE.device_id: "n1"}

        again.stream.lose()
        await again.stream.wait_lost()
        with trio.fail_after(60):
            while await redis_cli(redis_url, "EXISTS", f"route:{ALICE.device_id}") == "1":
                pass


def test_the_configuration_names_redis_and_shows_no_password(tmp_path: Path) -> None:
    config = load_config(
        config_path=None, data_dir=None, bind=None, environ={"COMMUCAT_REDIS_URL": URL}, cwd=tmp_path
    )
    assert config.storage.redis_url == URL
    assert "shared between processes: through Redis" in config.summary()
    for text in (repr(config), *config.summary(), *config.warnings):
        assert "hunter2" not in text


@pytest.mark.parametrize("value", ["hunter2", "http://me:hunter2@x", "localhost:6379"])
def test_what_is_no_address_is_refused_unseen(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="must look like redis://") as caught:
        load_config(
            config_path=None, data_dir=None, bind=None, environ={"COMMUCAT_REDIS_URL": value}, cwd=tmp_path
        )
    assert "hunter2" not in str(caught.value)


async def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(
        config_path=None, data_dir=None, bind=None, environ={"COMMUCAT_REDIS_URL": URL}, cwd=tmp_path
    )
    for name in [name for name in sys.modules if name.startswith("commucat_storage.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(StorageUnavailableError, match="needs redis, which is not installed; run: pip"):
        async with open_shared(config, node="n", clock=trio.current_time):
            pass
