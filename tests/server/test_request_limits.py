"""Rate limits of requests and of frames: who is refused, how it is told, and what is not counted."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from commucat_proto import FrameType
from commucat_server.api.gate import PAIRING_CLAIMS
from commucat_server.config import Networks, ProxyHeader, ServerConfig
from commucat_server.security.clients import ClientAddresses
from commucat_server.security.limits import RateLimits
from commucat_server.security.messages import MessageLimits
from server.api_builders import Api
from server.config_builders import load_text
from server.connect_builders import MemoryConnectStream, Person, Server, running_server
from server.rest_builders import api_context

ALICE, BOB = Person(handle="alice"), Person(handle="bob")
CHANNEL = 7
RATES = """
[security.rate_limit]
http_burst = 3
http_window_ms = 1000
http_penalty_ms = 10000
pairing_burst = 2
pairing_window_ms = 60000
pairing_penalty_ms = 120000
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


def config(tmp_path: Path, text: str = RATES) -> ServerConfig:
    folder = tmp_path / "configuration"
    folder.mkdir(exist_ok=True)
    return load_text(folder, text)


def limited(server: Server, tmp_path: Path, clock: Clock, clients: ClientAddresses | None = None) -> Api:
    limits = RateLimits.build(config(tmp_path), clock=clock)
    return Api(api_context(server, limits=limits, clients=clients or ClientAddresses()))


async def statuses(
    api: Api, count: int, path: str = "/api/server-info", client: str = "192.0.2.1"
) -> list[int]:
    return [(await api.ask("GET", path, client=client)).status for _ in range(count)]


# -- requests -------------------------------------------------------------------------------------------


async def test_an_address_that_asks_too_often_is_told_when_to_come_back(
    server: Server, tmp_path: Path, clock: Clock
) -> None:
    api = limited(server, tmp_path, clock)
    assert await statuses(api, 3) == [200, 200, 200]

    answer = await api.ask("GET", "/api/server-info")

    assert answer.status == 429
    assert answer.headers["retry-after"] == "10"
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body) == {"type": "about:blank", "title": "Too Many Requests", "status": 429}
    assert server.context.counters.rate_limited_http == 1
    clock.now += 9.5
    assert (await api.ask("GET", "/api/server-info")).headers["retry-after"] == "1"
    clock.now += 0.5
    assert await statuses(api, 1) == [200]


async def test_addresses_count_apart_and_ports_do_not(server: Server, tmp_path: Path, clock: Clock) -> None:
    api = limited(server, tmp_path, clock)
    await statuses(api, 4, client="2001:db8:1:2::1")

    assert await statuses(api, 1, client="2001:db8:1:2:ffff::2") == [429]
    assert await statuses(api, 1, client="2001:db8:1:3::1") == [200]
    assert await statuses(api, 1, client="192.0.2.1") == [200]


async def test_unknown_paths_and_health_count_like_others(
    server: Server, tmp_path: Path, clock: Clock
) -> None:
    api = limited(server, tmp_path, clock)

    assert [await statuses(api, 1, path) for path in ("/nowhere", "/healthz", "/readyz", "/metrics")] == [
        [404],
        [200],
        [200],
        [429],
    ]


async def test_behind_a_proxy_its_clients_count_apart(server: Server, tmp_path: Path, clock: Clock) -> None:
    clients = ClientAddresses(trusted=Networks.parse(["10.0.0.1"]), header=ProxyHeader.X_FORWARDED_FOR)
    api = limited(server, tmp_path, clock, clients)

    async def ask(client: str, *said: str) -> int:
        headers = [("x-forwarded-for", each) for each in said]
        return (await api.ask("GET", "/api/server-info", *headers, client=client)).status

    assert [await ask("10.0.0.1", "192.0.2.1") for _ in range(4)][-1] == 429
    assert await ask("10.0.0.1", "192.0.2.2") == 200
    # Somebody else's word, and what the client itself wrote before the proxy, choose no bucket.
    assert [await ask("192.0.2.9", f"192.0.2.{number}") for number in range(10, 14)][-1] == 429
    assert await ask("10.0.0.1", "198.51.100.1", "192.0.2.1") == 429


@pytest.mark.parametrize("path", [*sorted(PAIRING_CLAIMS), "/api/pair/claim/"])
async def test_claims_have_a_limit_of_their_own(
    server: Server, tmp_path: Path, clock: Clock, path: str
) -> None:
    api = limited(server, tmp_path, clock)

    answers = []
    for _ in range(3):
        answers.append(await api.ask("POST", path, body=b"{}"))
        clock.now += 1.0

    assert [answer.status == 429 for answer in answers] == [False, False, True]
    assert answers[-1].headers["retry-after"] == "120"
    assert await statuses(api, 1) == [200]


@pytest.mark.parametrize("path", ["//api//pair/claim", "/api/pair//claim", "/api/pair/claim//"])
async def test_two_slashes_lead_to_no_claim_past_the_limit(
    server: Server, tmp_path: Path, clock: Clock, path: str
) -> None:
    answer = await limited(server, tmp_path, clock).ask("POST", path, body=b"{}")

    assert answer.status == 404
    assert json.loads(answer.body)["title"] == "Not Found"


async def test_a_device_counts_wherever_it_asks_from(server: Server, tmp_path: Path, clock: Clock) -> None:
    alice = await server.connect(ALICE)
    api = limited(server, tmp_path, clock)
    path = f"/api/devices/{ALICE.device_id}/certificate"

    answers = [
        await api.ask("GET", path, ("authorization", f"Bearer {alice.token}"), client=f"198.51.100.{number}")
        for number in range(4)
    ]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].headers["retry-after"] == "10"
    assert json.loads(answers[-1].body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
    }


async def test_new_numbers_hold_at_once(server: Server, tmp_path: Path, clock: Clock) -> None:
    limits = RateLimits.build(config(tmp_path), clock=clock)
    api = Api(api_context(server, limits=limits))
    await statuses(api, 4)

    limits.configure(config(tmp_path, RATES.replace("http_penalty_ms = 10000", "http_penalty_ms = 0")))

    clock.now += 1.0
    assert await statuses(api, 1) == [200]


def test_connects_are_limited_by_either_key(tmp_path: Path) -> None:
    assert RateLimits.build(config(tmp_path)).connect.numbers == (200, 1.0, 0.0)
    both = "[limits]\nconnects_per_second = 7\n"
    assert RateLimits.build(config(tmp_path, both)).connect.numbers == (7, 1.0, 0.0)
    both += "[security.rate_limit]\nconnect_burst = 20\nconnect_penalty_ms = 30000\n"
    assert RateLimits.build(config(tmp_path, both)).connect.numbers == (20, 1.0, 30.0)


async def test_connects_behind_a_proxy_count_for_the_client(tmp_path: Path) -> None:
    async with running_server(tmp_path, connects=1) as server:
        server.context.clients.trusted = Networks.parse(["192.0.2.1"])
        server.context.clients.header = ProxyHeader.X_FORWARDED_FOR

        async def refused(client: str) -> bool:
            stream = MemoryConnectStream()
            stream.headers = {"x-forwarded-for": client}
            stream.close()
            await server.handler(stream)
            assert stream.remote_host == client
            return stream.status == 429

        assert [await refused("198.51.100.1"), await refused("198.51.100.1")] == [False, True]
        assert not await refused("198.51.100.2")


# -- frames ---------------------------------------------------------------------------------------------


async def test_frames_beyond_the_limit_are_refused_and_may_be_sent_again(server: Server) -> None:
    clock = Clock()
    server.context.messages = MessageLimits(clock)
    server.context.messages.configure(device=(3, 1.0), user=None)
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    await server.connect(BOB)
    *good, bad = [alice.send(FrameType.MSG, CHANNEL, b"x") for _ in range(3)]

    refused = await alice.answer(bad)
    assert (refused["error"], refused["retry"], refused["ref"]) == ("rate_limited", True, bad)
    assert refused["retry_after"] == 1
    assert server.context.counters.rate_limited_messages == 1
    clock.now += 1.0
    assert "ack" in await alice.message(CHANNEL, b"again")
    assert server.context.counters.relay_enqueued == len(good) + 1


async def test_confirmations_are_never_refused(server: Server) -> None:
    server.context.messages = MessageLimits(Clock())
    server.context.messages.configure(device=(2, 1000.0), user=None)
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, ALICE.device_id)
    await alice.message(CHANNEL, b"x")
    for number in range(5):
        alice.send(FrameType.ACK, 0, {"ack": min(number, 1)})

    assert (await alice.message(CHANNEL, b"y"))["error"] == "rate_limited"
    assert server.context.counters.rate_limited_messages == 1


def test_all_devices_of_a_user_share_the_users_limit() -> None:
    limits = MessageLimits(Clock())
    limits.configure(device=(10, 1.0), user=(3, 1.0))

    assert [limits.take(device, "user") for device in ("a", "b", "c", "d")].count(0.0) == 3
    assert limits.take("e", "another") == 0.0


def test_what_the_user_may_not_costs_the_device_nothing() -> None:
    clock = Clock()
    limits = MessageLimits(clock)
    limits.configure(device=(2, 1000.0), user=(1, 1.0))
    assert limits.take("a", "user") == 0.0
    assert limits.take("a", "user") > 0.0
    clock.now += 1.0

    assert limits.take("a", "user") == 0.0


def test_limits_of_frames_are_off_unless_configured(tmp_path: Path) -> None:
    assert not RateLimits.build(config(tmp_path)).messages.active
    text = "[security.rate_limit]\nuser_message_burst = 5\n"
    limits = RateLimits.build(config(tmp_path, text))
    assert limits.messages.active
    limits.configure(config(tmp_path, "[limits]\n"))
    assert not limits.messages.active
