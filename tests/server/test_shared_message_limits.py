"""Limits of messages that several processes share through a real Redis."""

import pytest
import trio

from commucat_server.security.messages import MessageLimits
from commucat_storage.redis import Redis
from storage.redis_builders import fresh, node, redis_cli, until

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limits(redis: Redis, clock: Clock, *, device: int | None = 10, user: int | None = None) -> MessageLimits:
    built = MessageLimits(clock, redis.buckets)
    built.configure(device=device and (device, HOUR), user=user and (user, HOUR))
    return built


def sent(limits: MessageLimits, device: str, user: str, attempts: int = 100) -> int:
    return sum(limits.take(device, user) == 0.0 for _ in range(attempts))


async def test_a_device_that_sent_elsewhere_has_less_left_here(redis_url: str) -> None:
    device = fresh("device")
    async with node(redis_url, "n1") as first, node(redis_url, "n2") as second:
        one, two = limits(first, Clock()), limits(second, Clock())
        assert sent(one, device, "u", attempts=7) == 7
        assert two.take(device, "u") == 0.0
        await one.exchange()
        await two.exchange()

        assert sent(two, device, "u") == 2


async def test_two_processes_together_let_through_little_more_than_one(redis_url: str) -> None:
    """A flood on both at once: after the bursts, what comes back comes back once."""
    device = fresh("device")
    key = f"ratelimit:message:{device}"
    passed = 0
    async with node(redis_url, "n1") as first, node(redis_url, "n2") as second:
        clocks = Clock(), Clock()
        processes = limits(first, clocks[0]), limits(second, clocks[1])
        for _ in range(20):
            passed += sum(sent(each, device, "u") for each in processes)
            for each in processes:
                await each.exchange()
            # Half of the burst comes back, here as in Redis.
            for clock in clocks:
                clock.now += HOUR / 2
            at = float(await redis_cli(redis_url, "HGET", key, "at"))
            await redis_cli(redis_url, "HSET", key, "at", str(at - HOUR / 2 * 1000))

    # One process alone: 10 + 19 * 5. Each may be ahead by what it holds.
    assert 10 + 19 * 5 - 10 <= passed <= 10 + 19 * 5 + 20


async def test_all_devices_of_a_user_count_on_every_node(redis_url: str) -> None:
    user = fresh("user")
    async with node(redis_url, "n1") as first, node(redis_url, "n2") as second:
        one, two = (limits(redis, Clock(), device=None, user=10) for redis in (first, second))
        assert sent(one, "laptop", user, attempts=8) == 8
        await one.exchange()
        assert two.take("phone", user) == 0.0
        await two.exchange()

        assert sent(two, "phone", user) == 1


async def test_each_process_counts_by_itself_while_redis_is_away() -> None:
    async with node("unix:///nowhere/redis.sock") as redis:
        alone = limits(redis, Clock())
        assert sent(alone, "d", "u", attempts=4) == 4
        await alone.exchange()
        assert sent(alone, "d", "u") == 6


async def test_processes_exchange_by_themselves(redis_url: str, nursery: trio.Nursery) -> None:
    device = fresh("device")
    async with node(redis_url) as redis:
        running = limits(redis, Clock())
        running.take(device, "u")
        nursery.start_soon(running.run)
        # By the true clock: one that jumps would jump past the patience with Redis, too.
        await until(lambda: redis_cli(redis_url, "EXISTS", f"ratelimit:message:{device}"), "1")
        nursery.cancel_scope.cancel()


async def test_a_process_alone_has_nothing_to_exchange() -> None:
    alone = MessageLimits(Clock())
    alone.configure(device=(1, 1.0), user=None)
    await alone.run()
    await alone.exchange()
    assert sent(alone, "d", "u") == 1


@pytest.mark.parametrize("spent", [0, 3])
async def test_a_new_configuration_keeps_what_was_counted(redis_url: str, spent: int) -> None:
    device = fresh("device")
    async with node(redis_url) as redis:
        changed = limits(redis, Clock())
        sent(changed, device, "u", attempts=spent)
        changed.configure(device=(5, HOUR), user=None)
        await changed.exchange()
        assert sent(changed, device, "u") == 5 - spent
