"""Routes and presence of live sessions, as other nodes and other programs find them in Redis."""

import pytest
import trio

from commucat_storage.redis.sessions import CHUNK
from databases.redis_server import RedisServer
from storage.redis_builders import LONG, fresh, node, presence, quick, redis_cli, settled, until

USER = {"id": "u1", "user_id": "u1", "handle": "tom", "display_name": "Tomás", "avatar_url": None}


@pytest.fixture
def device() -> str:
    return fresh("device")


async def test_a_live_session_has_a_route_and_presence_in_the_reference_form(
    redis_url: str, device: str
) -> None:
    async with node(redis_url) as redis:
        redis.bus.note_session(device, "ab" * 32)
        redis.bus.note_presence(device, "busy", USER)
        await settled(redis)

        assert await redis_cli(redis_url, "GET", f"route:{device}") == f"n1:{'ab' * 32}"
        assert await presence(redis_url, device) == {
            "entity": device,
            "state": "busy",
            "expires_at": "2027-01-15T08:05:00+00:00",
            "user": USER,
        }
        for key in ("route", "presence"):
            assert LONG - 60 < int(await redis_cli(redis_url, "TTL", f"{key}:{device}")) <= LONG


async def test_presence_without_more_is_online(redis_url: str, device: str) -> None:
    async with node(redis_url) as redis:
        redis.bus.note_session(device, "h")
        await settled(redis)

        found = await presence(redis_url, device)
    assert (found["state"], found["user"]) == ("online", None)


async def test_the_end_of_a_session_takes_its_route_back_and_says_offline(
    redis_url: str, device: str
) -> None:
    async with node(redis_url) as redis:
        redis.bus.note_session(device, "h")
        redis.bus.note_presence(device, "busy", USER)
        await settled(redis)

        redis.bus.forget_session(device, "h")
        await settled(redis)

        assert await redis_cli(redis_url, "EXISTS", f"route:{device}") == "0"
        found = await presence(redis_url, device)
    assert (found["state"], found["user"]) == ("offline", USER)


async def test_the_end_of_an_earlier_session_takes_nothing_back(redis_url: str, device: str) -> None:
    async with node(redis_url) as redis:
        redis.bus.note_session(device, "old")
        redis.bus.note_session(device, "new")
        redis.bus.forget_session(device, "old")
        await settled(redis)

        assert await redis_cli(redis_url, "GET", f"route:{device}") == "n1:new"


async def test_a_session_that_another_node_took_over_takes_nothing_back(redis_url: str, device: str) -> None:
    async with node(redis_url, "n1") as first, node(redis_url, "n2") as second:
        first.bus.note_session(device, "h1")
        await settled(first)
        second.bus.note_session(device, "h2")
        await settled(second)

        first.bus.forget_session(device, "h1")
        await settled(first)

        assert await redis_cli(redis_url, "GET", f"route:{device}") == "n2:h2"
        assert (await presence(redis_url, device))["state"] == "online"
        assert await first.bus.route_of([device]) == {device: "n2"}


async def test_a_renewal_does_not_take_a_device_back(redis_url: str, device: str) -> None:
    async with node(redis_url, "n1", settings=quick(presence_ttl=1)) as first:
        other = fresh("other")
        first.bus.note_session(device, "h1")
        first.bus.note_session(other, "h1")
        await settled(first)
        await redis_cli(redis_url, "SET", f"route:{device}", "n2:h2")
        await redis_cli(redis_url, "DEL", f"route:{other}")
        # When the other one is back, both have been renewed.
        await until(lambda: first.bus.route_of([other]), {other: "n1"})

        assert await first.bus.route_of([device]) == {device: "n2"}


async def test_renewals_keep_sessions_beyond_their_lifetime(redis_url: str) -> None:
    devices = [fresh("device") for _ in range(2 * CHUNK + 1)]
    async with node(redis_url, settings=quick(presence_ttl=1)) as redis:
        for device in devices:
            redis.bus.note_session(device, "h")
        began = trio.current_time()
        await until(lambda: redis.bus.route_of(devices), dict.fromkeys(devices, "n1"))
        while trio.current_time() < began + 3:
            await redis.bus.route_of(devices)
        assert await redis.bus.route_of(devices) == dict.fromkeys(devices, "n1")


async def test_what_a_killed_node_would_leave_expires(redis_url: str, device: str) -> None:
    async with node(redis_url, settings=quick(presence_ttl=1)) as redis:
        redis.bus.note_session(device, "h")
        await settled(redis)

        for key in ("route", "presence"):
            assert 0 < int(await redis_cli(redis_url, "PTTL", f"{key}:{device}")) <= 1000


async def test_a_node_that_ends_takes_all_its_routes_back(redis_url: str) -> None:
    devices = [fresh("device") for _ in range(CHUNK + 1)]
    async with node(redis_url, "n2") as other:
        async with node(redis_url, "n1") as redis:
            for device in devices:
                redis.bus.note_session(device, "h")
            await until(lambda: other.bus.route_of(devices), dict.fromkeys(devices, "n1"))

        assert await other.bus.route_of(devices) == {}


async def test_what_others_left_under_our_keys_is_overwritten(redis_url: str, device: str) -> None:
    async with node(redis_url) as redis:
        for key in ("route", "presence"):
            await redis_cli(redis_url, "RPUSH", f"{key}:{device}", "x")
        redis.bus.note_session(device, "h")
        await settled(redis)

        assert await redis.bus.route_of([device]) == {device: "n1"}


@pytest.mark.parametrize("value", ["", "x", "no-colon", "\udcff"])
async def test_a_route_that_names_no_node_is_none(redis_url: str, device: str, value: str) -> None:
    async with node(redis_url) as redis:
        await redis_cli(redis_url, "SET", f"route:{device}", value)

        assert await redis.bus.route_of([device]) == {}


async def test_unknown_devices_are_left_out_and_nothing_is_asked_about_nobody(
    redis_url: str, device: str
) -> None:
    async with node(redis_url) as redis:
        assert await redis.bus.route_of([]) == {}
        assert await redis.bus.route_of([device, device]) == {}


async def test_two_databases_do_not_mix(redis_server: RedisServer, device: str) -> None:
    async with (
        node(redis_server.url(db=1), "n1") as first,
        node(redis_server.url(db=2), "n2") as second,
    ):
        first.bus.note_session(device, "h")
        await settled(first)

        assert await first.bus.route_of([device]) == {device: "n1"}
        assert await second.bus.route_of([device]) == {}
