"""Redis that hangs, dies, forgets, refuses or fills up: it is told, nobody waits, and it heals by itself."""

import random
import signal

import pytest
import trio
from redis.exceptions import ConnectionError as LostError

from commucat_storage.asyncio_loop import open_loop
from commucat_storage.redis import Redis
from commucat_storage.redis.address import RedisAddress
from commucat_storage.redis.connection import RedisConnection
from databases.redis_server import RedisServer, run_redis
from storage.redis_builders import (
    DEADLINE,
    Told,
    fresh,
    next_hint,
    node,
    quick,
    redis_cli,
    settled,
    subscribed,
    until,
)

PASSWORD = "hunter2-secret"


@pytest.fixture
def told() -> Told:
    return Told()


async def holds(server: RedisServer, redis: Redis, device: str) -> None:
    """Wait until Redis knows the device's route; the connection is whole."""
    await until(lambda: redis.bus.route_of([device]), {device: redis.bus.node})


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_after_a_restart_every_live_session_is_announced_again(
    redis_server: RedisServer, told: Told, how: signal.Signals
) -> None:
    devices = [fresh("device") for _ in range(250)]
    async with node(redis_server.url(), told=told) as redis:
        for device in devices:
            redis.bus.note_session(device, "h")
        await until(lambda: redis.bus.route_of(devices), dict.fromkeys(devices, "n1"))
        await trio.to_thread.run_sync(redis_server.stop, how)
        await told.wrong("cannot be reached")
        assert redis.bus.healthy() == "Redis cannot be reached"
        assert await redis.bus.route_of(devices) == {}
        # What ended meanwhile is not announced.
        redis.bus.forget_session(devices[0], "h")
        redis.bus.note_session("newcomer", "h")

        await trio.to_thread.run_sync(redis_server.start)
        await told.well()
        there = ["newcomer", *devices[1:]]
        await until(lambda: redis.bus.route_of([*devices, "newcomer"]), dict.fromkeys(there, "n1"))

        assert redis.bus.healthy() is None
        # Once for each change, however often it was tried.
        assert [line is None for line in told.lines] == [False, True]


async def test_a_server_that_hangs_is_given_up_and_taken_back(redis_server: RedisServer, told: Told) -> None:
    settings = quick(command_timeout=0.5, connect_timeout=0.5, decision_timeout=0.05)
    async with node(redis_server.url(), told=told, settings=settings) as redis:
        redis.bus.note_session("d", "h")
        await settled(redis)
        redis_server.pause()
        try:
            began = trio.current_time()
            assert await redis.buckets.take("connect", "x", burst=1, period=1.0) is None
            waited = trio.current_time() - began
            await told.wrong("does not answer in time")
            assert redis.bus.healthy() == "Redis does not answer in time"
            began = trio.current_time()
            assert await redis.buckets.take("connect", "x", burst=1, period=1.0) is None
            # Known to be away: not even this is waited for. Generous, as machines are busy.
            assert (waited >= 0.05, trio.current_time() - began < waited + 5) == (True, True)
        finally:
            redis_server.resume()
        await told.well()

        await holds(redis_server, redis, "d")


async def test_a_hang_is_noticed_although_nobody_asks(redis_server: RedisServer, told: Told) -> None:
    settings = quick(command_timeout=0.2, connect_timeout=0.2, ping_interval=0.1)
    async with node(redis_server.url(), told=told, settings=settings):
        redis_server.pause()
        try:
            await told.wrong("does not answer in time")
        finally:
            redis_server.resume()
        await told.well()


async def test_flushed_keys_come_back_with_the_next_renewal(redis_server: RedisServer, told: Told) -> None:
    async with node(redis_server.url(), told=told, settings=quick(presence_ttl=1)) as redis:
        redis.bus.note_session("d", "h")
        await holds(redis_server, redis, "d")
        await redis_cli(redis_server.url(), "FLUSHALL")

        await holds(redis_server, redis, "d")
    assert told.lines == []


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_killed_connections_are_replaced(redis_server: RedisServer, told: Told, kind: str) -> None:
    async with (
        node(redis_server.url(), "n1", told) as one,
        node(redis_server.url(), "n2") as two,
        two.bus.hints() as hints,
    ):
        await hints.receive()
        one.bus.note_session("d", "h")
        await settled(one)
        for _ in range(5):
            await subscribed(redis_server.url(), 2)
            await redis_cli(redis_server.url(), "CLIENT", "KILL", "TYPE", kind)
            # Found out by using it; a connection that is idle is found out by its next ping.
            await one.bus.route_of(["d"])
            await told.wrong("cannot be reached")
            await told.well()
        await holds(redis_server, one, "d")
        await until(lambda: said(one, hints), True)
        assert one.counters is not None
        assert one.counters.connections >= 7


async def said(one: Redis, hints: trio.MemoryReceiveChannel[bytes]) -> bool:
    """Whether a hint arrives; both ends may still be coming back."""
    one.bus.publish("n2", b"hello")
    await settled(one)
    with trio.move_on_after(1):
        return await next_hint(hints) == b"hello"
    return False


async def test_a_new_password_is_told_and_the_old_state_heals(redis_server: RedisServer, told: Told) -> None:
    async with node(redis_server.url(), told=told) as redis:
        redis.bus.note_session("d", "h")
        await settled(redis)
        await subscribed(redis_server.url(), 1)
        await redis_cli(redis_server.url(), "CONFIG", "SET", "requirepass", PASSWORD)
        # Connections that are logged in stay so; new ones are refused.
        await redis_cli(redis_server.url(), "-a", PASSWORD, "CLIENT", "KILL", "TYPE", "pubsub")
        await told.wrong("refuses the user or the password")
        assert redis.bus.healthy() == "Redis refuses the user or the password"
        assert await redis.bus.route_of(["d"]) == {"d": "n1"}

        await redis_cli(redis_server.url(), "-a", PASSWORD, "CONFIG", "SET", "requirepass", "")
        await told.well()
        await holds(redis_server, redis, "d")
    assert PASSWORD not in str(told.lines)


async def test_a_full_server_is_told_and_heals(redis_server: RedisServer, told: Told) -> None:
    settings = quick(ping_interval=0.05)
    async with (
        node(redis_server.url(), "n1", told, settings) as redis,
        node(redis_server.url(), "n2") as two,
        two.bus.hints() as hints,
    ):
        await hints.receive()
        await redis_cli(redis_server.url(), "CONFIG", "SET", "maxmemory", "1")
        redis.bus.note_session("d", "h")
        await told.wrong("is full")
        assert redis.bus.healthy() == "Redis is full"
        assert await redis.buckets.take("connect", "x", burst=1, period=1.0) is None
        # Hints need no memory.
        await until(lambda: said(redis, hints), True)

        await redis_cli(redis_server.url(), "CONFIG", "SET", "maxmemory", "0")
        await told.well()
        assert await redis.buckets.take("connect", "x", burst=1, period=1.0) == 0.0
        assert redis.bus.healthy() is None


async def test_a_server_that_became_a_replica_is_left_until_it_takes_writes(
    redis_server: RedisServer, told: Told
) -> None:
    async with node(redis_server.url(), told=told, settings=quick(ping_interval=0.05)) as redis:
        redis.bus.note_session("d", "h")
        await holds(redis_server, redis, "d")
        await redis_cli(redis_server.url(), "REPLICAOF", "127.0.0.1", "1")
        redis.bus.note_session("e", "h")
        await told.wrong("takes no writes")

        await redis_cli(redis_server.url(), "REPLICAOF", "NO", "ONE")
        await told.well()
        await until(lambda: redis.bus.route_of(["d", "e"]), {"d": "n1", "e": "n1"})


async def test_a_script_that_blocks_redis_is_waited_out(redis_server: RedisServer, told: Told) -> None:
    settings = quick(command_timeout=0.3, connect_timeout=0.3)
    redis_server.run("CONFIG", "SET", "lua-time-limit", "1")
    async with (
        node(redis_server.url(), told=told, settings=settings) as redis,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(block, redis_server)
        await told_something(redis, told)
        # It has written nothing, so it can be ended.
        await redis_cli(redis_server.url(), "SCRIPT", "KILL")
        await told.well()
        redis.bus.note_session("d", "h")
        await holds(redis_server, redis, "d")


async def block(server: RedisServer) -> None:
    command = ("EVAL", "while true do end", "0")
    ended = await trio.to_thread.run_sync(lambda: run_redis(server.url(), *command, check=False))
    assert "Script killed" in ended


async def told_something(redis: Redis, told: Told) -> None:
    with trio.fail_after(DEADLINE):
        while not told.lines:
            await redis.buckets.take("connect", "x", burst=1, period=1.0)
    assert redis.bus.healthy() is not None


async def test_cancelled_callers_leave_the_connections_whole(redis_server: RedisServer, told: Told) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    async with node(redis_server.url(), told=told) as redis:
        redis.bus.note_session("d", "h")
        await settled(redis)
        before = await clients(redis_server)

        async def give_up() -> None:
            with trio.move_on_after(moments.random() * 0.01):
                while True:
                    await redis.buckets.take(fresh("scope"), "x", burst=1, period=60.0)
                    assert await redis.bus.route_of(["d"]) == {"d": "n1"}
                    await redis.pairing.find("nothing")

        for _ in range(40):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(give_up)

        assert await redis.bus.route_of(["d", "e"]) == {"d": "n1"}
        assert await redis.buckets.take(fresh("scope"), "x", burst=1, period=60.0) == 0.0
        assert await clients(redis_server) == before
    assert told.lines == []


async def clients(server: RedisServer) -> set[str]:
    """The ids of the connections that are ours."""
    listed = await redis_cli(server.url(), "CLIENT", "LIST")
    return {line.split()[0] for line in listed.splitlines() if "name=commucat" in line}


async def test_a_server_that_is_cancelled_closes_its_connections(redis_server: RedisServer) -> None:
    for moment in range(20):
        with trio.move_on_after(moment * 0.003):
            async with node(redis_server.url()) as redis:
                redis.bus.note_session("d", "h")
                await trio.sleep_forever()
    with trio.fail_after(DEADLINE):
        while await clients(redis_server):
            pass


async def test_redis_that_comes_later_than_the_server_is_found(redis_server: RedisServer, told: Told) -> None:
    await trio.to_thread.run_sync(redis_server.stop)
    async with node(redis_server.url(), told=told) as redis:
        assert told.lines[0] is not None
        assert "cannot be reached" in told.lines[0]
        redis.bus.note_session("d", "h")
        assert await redis.buckets.take("connect", "x", burst=1, period=1.0) is None
        await trio.to_thread.run_sync(redis_server.start)
        await told.well()

        await holds(redis_server, redis, "d")


async def test_a_connection_dropped_in_the_moment_of_a_timeout_is_not_made_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library connects by itself when it sends, and whoever closes would wait for that for ever."""
    address = RedisAddress.parse(redis_server.url())
    async with open_loop() as loop:
        connection = await loop.run(lambda: RedisConnection.open(address, fresh("dropped"), DEADLINE))

        async def times_out(timeout: float) -> None:  # noqa: ASYNC109 - the library's name
            connection.abort()

        monkeypatch.setattr(connection._raw, "read_response", times_out)
        with trio.fail_after(DEADLINE), pytest.raises(LostError, match="closed"):
            await loop.run(lambda: connection.listen(lambda _: None, DEADLINE, DEADLINE))
        assert not connection._raw.is_connected
