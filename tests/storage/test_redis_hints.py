"""Hints from node to node."""

import pytest
import trio

from commucat_storage.bus import ALL_NODES, MAX_HINTS, MISSED, LocalBus, NodeBus
from databases.redis_server import RedisServer
from storage.redis_builders import DEADLINE, Told, next_hint, node, redis_cli, settled, subscribed


async def test_a_hint_arrives_at_the_node_it_is_for(redis_url: str) -> None:
    async with (
        node(redis_url, "n1") as one,
        node(redis_url, "n2") as two,
        node(redis_url, "n3") as three,
        two.bus.hints() as at_two,
        three.bus.hints() as at_three,
    ):
        assert await at_two.receive() == await at_three.receive() == MISSED
        await subscribed(redis_url, 3)
        one.bus.publish("n2", b"\x00for two\xff")
        one.bus.publish("n3", b"for three")

        assert await next_hint(at_two) == b"\x00for two\xff"
        assert await next_hint(at_three) == b"for three"


async def test_a_hint_for_all_arrives_everywhere(redis_url: str) -> None:
    async with (
        node(redis_url, "n1") as one,
        node(redis_url, "n2") as two,
        one.bus.hints() as at_one,
        two.bus.hints() as at_two,
    ):
        await subscribed(redis_url, 2)
        one.bus.publish(ALL_NODES, b"all")

        assert await next_hint(at_one) == b"all"
        assert await next_hint(at_two) == b"all"


async def test_hints_stay_in_their_database(redis_server: RedisServer) -> None:
    async with (
        node(redis_server.url(db=0), "n1") as one,
        node(redis_server.url(db=1), "n2") as two,
        two.bus.hints() as at_two,
    ):
        await subscribed(redis_server.url(), 2)
        one.bus.publish("n2", b"foreign")
        one.bus.publish(ALL_NODES, b"foreign")
        await settled(one)
        two.bus.publish("n2", b"own")

        assert await next_hint(at_two) == b"own"


async def test_a_hint_for_oneself_needs_no_redis(redis_server: RedisServer) -> None:
    told = Told()
    async with node(redis_server.url(), told=told) as redis, redis.bus.hints() as hints:
        redis_server.stop()
        await told.wrong("cannot be reached")
        redis.bus.publish("n1", b"own")

        assert await next_hint(hints) == b"own"


async def test_after_a_new_subscription_the_receiver_is_told_to_look(redis_server: RedisServer) -> None:
    told = Told()
    async with node(redis_server.url(), told=told) as redis, redis.bus.hints() as hints:
        assert await hints.receive() == MISSED
        await subscribed(redis_server.url(), 1)
        while not empty(hints):
            hints.receive_nowait()
        await redis_cli(redis_server.url(), "CLIENT", "KILL", "TYPE", "pubsub")

        with trio.fail_after(DEADLINE):
            assert await hints.receive() == MISSED


async def test_what_nobody_takes_is_dropped_and_that_is_told(redis_url: str) -> None:
    async with node(redis_url) as redis, redis.bus.hints() as hints:
        await subscribed(redis_url, 1)
        while not empty(hints):
            hints.receive_nowait()
        for number in range(MAX_HINTS + 5):
            redis.bus.publish("n1", b"%d" % number)
        got = [hints.receive_nowait() for _ in range(MAX_HINTS)]
        redis.bus.publish("n1", b"next")

        assert got == [b"%d" % number for number in range(MAX_HINTS)]
        assert hints.receive_nowait() == MISSED
        assert hints.receive_nowait() == b"next"


async def test_publishing_never_waits_and_drops_the_oldest(redis_server: RedisServer) -> None:
    told = Told()
    async with node(redis_server.url(), "n1", told) as redis:
        redis_server.stop()
        await told.wrong("cannot be reached")
        for number in range(MAX_HINTS + 7):
            redis.bus.publish("n2", b"%d" % number)
        redis.bus.publish("n2", b"x" * (16 * 2**20 + 1))

        assert redis.counters is not None
        assert redis.counters.hints_dropped == MAX_HINTS + 8


async def test_hints_of_a_short_outage_are_sent_late(redis_server: RedisServer) -> None:
    told = Told()
    url = redis_server.url()
    async with node(url, "n1", told) as one:
        redis_server.stop()
        await told.wrong("cannot be reached")
        one.bus.publish("n2", b"late")
        async with node(url, "n2") as two, two.bus.hints() as hints:
            await trio.to_thread.run_sync(redis_server.start)
            await told.well()

            # Whichever of the two was back first: nothing is lost for good.
            assert await hints.receive() == MISSED


async def test_only_one_takes_the_hints(redis_url: str) -> None:
    async with node(redis_url) as redis, redis.bus.hints():
        with pytest.raises(RuntimeError, match="taken already"):
            async with redis.bus.hints():
                pass


async def test_the_bus_of_a_process_that_is_alone() -> None:
    bus: NodeBus = LocalBus("me")
    async with bus.hints() as hints:
        bus.publish("me", b"one")
        bus.publish(ALL_NODES, b"two")
        bus.publish("other", b"lost")
        bus.note_session("d", "new")
        bus.note_presence("d", "busy", None)
        bus.forget_session("d", "old")

        assert [hints.receive_nowait(), hints.receive_nowait(), empty(hints)] == [b"one", b"two", True]
        assert await bus.route_of(["d", "e"]) == {"d": "me"}
        bus.forget_session("d", "new")
        assert await bus.route_of(["d"]) == {}
        assert (bus.node, bus.healthy()) == ("me", None)


def empty(hints: trio.MemoryReceiveChannel[bytes]) -> bool:
    return hints.statistics().current_buffer_used == 0
