"""Token buckets and pairing codes that the nodes of a cluster share."""

import json

import pytest

from commucat_storage.redis import PairingCode, Redis
from databases.redis_server import RedisServer
from storage.redis_builders import Told, fresh, node, redis_cli, settled

NOW = 1_800_000_000
HOUR = 3600.0


async def takes(redis: Redis, scope: str, count: int, *, burst: int = 3, period: float = HOUR) -> list[bool]:
    """Whether each of so many attempts got a token."""
    waits = [await redis.buckets.take(scope, "192.0.2.1", burst=burst, period=period) for _ in range(count)]
    assert None not in waits
    return [wait == 0.0 for wait in waits]


async def test_nodes_share_a_bucket(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url, "n1") as one, node(redis_url, "n2") as two:
        assert await takes(one, scope, 2) == [True, True]
        assert await takes(two, scope, 2) == [True, False]
        assert await takes(one, scope, 1) == [False]


async def test_who_gets_no_token_is_told_when_there_is_one(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url) as redis:
        await takes(redis, scope, 3)
        wait = await redis.buckets.take(scope, "192.0.2.1", burst=3, period=HOUR)

    # A third of an hour for each token, less what has passed.
    assert wait is not None
    assert 1200 - 60 < wait <= 1200


async def test_tokens_come_back_with_time(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url) as redis:
        await takes(redis, scope, 4)
        key = f"ratelimit:{scope}:192.0.2.1"
        at = float(await redis_cli(redis_url, "HGET", key, "at"))
        await redis_cli(redis_url, "HSET", key, "at", str(at - 2 * 1_200_000))

        assert await takes(redis, scope, 3) == [True, True, False]


async def test_a_clock_that_was_set_back_gives_nothing_away(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url) as redis:
        await takes(redis, scope, 3)
        key = f"ratelimit:{scope}:192.0.2.1"
        at = float(await redis_cli(redis_url, "HGET", key, "at"))
        await redis_cli(redis_url, "HSET", key, "at", str(at + 10 * HOUR * 1000))

        assert await takes(redis, scope, 1) == [False]


async def test_what_is_given_back_can_be_taken_again_but_no_more(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url) as redis:
        await takes(redis, scope, 3)
        for _ in range(9):
            redis.buckets.give_back(scope, "192.0.2.1", burst=3)
        redis.buckets.give_back(scope, "192.0.2.9", burst=3)
        await settled(redis)

        assert await takes(redis, scope, 4) == [True, True, True, False]
        assert await redis_cli(redis_url, "EXISTS", f"ratelimit:{scope}:192.0.2.9") == "0"


async def test_buckets_expire_when_they_are_full_again(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url) as redis:
        await takes(redis, scope, 1, period=60.0)

    assert 30 < int(await redis_cli(redis_url, "TTL", f"ratelimit:{scope}:192.0.2.1")) <= 61


async def test_foreign_values_under_a_bucket_are_replaced(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url) as redis:
        await redis_cli(redis_url, "SET", f"ratelimit:{scope}:192.0.2.1", "x")
        assert await takes(redis, scope, 4) == [True, True, True, False]


async def test_a_server_without_scripts_leaves_the_decision_to_the_process() -> None:
    told = Told()
    offer = PairingCode(user_id="u", issuer_device_id="d", expires_at=NOW + 60)
    async with node("unix:///nowhere/redis.sock", told=told) as redis:
        assert await redis.buckets.take("connect", "x", burst=1, period=1.0) is None
        redis.buckets.give_back("connect", "x", burst=1)
        redis.pairing.remember("CODE", offer)
        assert await redis.pairing.find("CODE") is None


async def test_pairing_codes_are_found_until_they_are_claimed(redis_url: str) -> None:
    code = fresh("ABCD-EFGH")
    offer = PairingCode(user_id="u1", issuer_device_id="d1", expires_at=NOW + 300)
    async with node(redis_url, "n1") as one, node(redis_url, "n2") as two:
        one.pairing.remember(code, offer)
        await settled(one)

        assert await two.pairing.find(code) == offer
        assert json.loads(await redis_cli(redis_url, "GET", f"pairing:{code}")) == {
            "user_id": "u1",
            "issuer_device_id": "d1",
            "expires_at": "2027-01-15T08:05:00+00:00",
        }
        assert 200 < int(await redis_cli(redis_url, "TTL", f"pairing:{code}")) <= 300
        two.pairing.forget(code)
        await settled(two)
        assert await one.pairing.find(code) is None


async def test_expired_codes_are_not_remembered(redis_url: str) -> None:
    code = fresh("code")
    async with node(redis_url) as redis:
        redis.pairing.remember(code, PairingCode(user_id="u", issuer_device_id="d", expires_at=NOW))
        await settled(redis)
        assert await redis.pairing.find(code) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"user_id":1,"issuer_device_id":"d","expires_at":"2027-01-15T08:05:00+00:00"}',
        '{"user_id":"u","issuer_device_id":"d","expires_at":"2027-01-15T08:05:00"}',
        '{"user_id":"u","issuer_device_id":"d","expires_at":5}',
    ],
)
async def test_foreign_values_under_a_code_are_no_offer(redis_url: str, value: str) -> None:
    code = fresh("code")
    async with node(redis_url) as redis:
        await redis_cli(redis_url, "SET", f"pairing:{code}", value)
        assert await redis.pairing.find(code) is None


async def test_answers_are_counted_where_there_are_none(redis_server: RedisServer) -> None:
    told = Told()
    async with node(redis_server.url(), told=told) as redis:
        redis_server.stop()
        await told.wrong("cannot be reached")
        await redis.buckets.take("connect", "x", burst=1, period=1.0)
        await redis.bus.route_of(["d"])

        assert redis.counters.unanswered == 2
        assert redis.counters.errors >= 1


async def test_who_finds_the_bucket_empty_is_refused_for_the_penalty_on_every_node(redis_url: str) -> None:
    scope = fresh("scope")
    key = f"ratelimit:{scope}:192.0.2.1"
    async with node(redis_url, "n1") as one, node(redis_url, "n2") as two:

        async def take(redis: Redis) -> float:
            wait = await redis.buckets.take(scope, "192.0.2.1", burst=1, period=0.001, penalty=60.0)
            assert wait is not None
            return wait

        assert await take(one) == 0.0
        # In this millisecond it is empty, perhaps; one that is half full cannot be.
        await redis_cli(redis_url, "HSET", key, "tokens", "0", "at", str(2**42))
        assert await take(one) == 60.0
        await redis_cli(redis_url, "HSET", key, "tokens", "1", "at", "0")
        assert 50.0 < await take(two) <= 60.0
        assert int(await redis_cli(redis_url, "PTTL", key)) > 50_000

        await redis_cli(redis_url, "HSET", key, "blocked", "1")
        assert await take(two) == 0.0


async def spend(redis: Redis, scope: str, tokens: int, *, burst: int = 10, period: float = HOUR) -> float:
    """What is left of a bucket after so many tokens were given out."""
    left = await redis.buckets.spend(scope, {"d1": tokens}, burst=burst, period=period)
    assert left is not None
    return left["d1"]


async def test_what_nodes_gave_out_by_themselves_adds_up(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url, "n1") as one, node(redis_url, "n2") as two:
        assert await spend(one, scope, 4) == 6.0
        assert await spend(two, scope, 9) == pytest.approx(-3.0, abs=0.1)
        # What one owes is forgotten in the end, and no more than a bucket is owed.
        assert await spend(one, scope, 1000) == -10.0


async def test_a_debt_is_paid_by_time(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url) as redis:
        await spend(redis, scope, 1000)
        key = f"ratelimit:{scope}:d1"
        assert int(await redis_cli(redis_url, "TTL", key)) > HOUR
        at = float(await redis_cli(redis_url, "HGET", key, "at"))
        await redis_cli(redis_url, "HSET", key, "at", str(at - 3 * HOUR * 1000))
        assert await spend(redis, scope, 1) == 9.0


async def test_thousands_are_told_in_several_scripts(redis_url: str) -> None:
    scope = fresh("scope")
    async with node(redis_url) as redis:
        spent = {f"d{number}": number % 3 for number in range(1000)}
        left = await redis.buckets.spend(scope, spent, burst=5, period=HOUR)

    assert left is not None
    assert list(left) == list(spent)
    assert [round(tokens) for tokens in left.values()] == [5 - count for count in spent.values()]


async def test_nobody_says_what_is_left_while_redis_is_away() -> None:
    async with node("unix:///nowhere/redis.sock") as redis:
        assert await redis.buckets.spend("message", {"d": 1}, burst=1, period=1.0) is None
