"""``/api/p2p/assist``: what it says, to whom, and what it does not do."""

import base64
import hashlib
import hmac
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from commucat_proto import stun
from commucat_server.api.assistance import Assistance
from commucat_server.config.ice_section import TurnServer
from commucat_server.nat.assist import HintError, IceAdvice, hints_of, trial
from commucat_server.nat.credentials import IceCredentials
from commucat_server.ops.statistics import security_statistics
from commucat_server.p2p.tickets import RelayTickets
from commucat_server.security.rate import RateLimit
from server.connect_builders import AUTHORITY, NOW, Person
from server.rest_builders import Rest, running_rest

PATH = "/api/p2p/assist"
PUBLIC = stun.SocketAddress.parse("203.0.113.7:3478")
TURN = (
    TurnServer(name="a", urls=("turn:a.example",), secret="north", realm="example"),
    TurnServer(name="b", urls=("turn:b.example",), username="u", password="p"),
)


def assistance(
    *, turn: tuple[TurnServer, ...] = TURN, lite: bool = True, relay: bool = True, per_minute: int = 1000
) -> Assistance:
    def clock() -> float:
        return NOW

    return Assistance(
        ice=IceAdvice(
            credentials=IceCredentials(AUTHORITY, clock),
            turn=turn,
            turn_ttl=30,
            lite=PUBLIC if lite else None,
            ttl=300,
            keepalive=30,
            clock=clock,
        ),
        tickets=RelayTickets(AUTHORITY, clock) if relay else None,
        rate=RateLimit(burst=per_minute, period=60.0, clock=clock),
        prologue=b"commucat",
    )


@asynccontextmanager
async def running(path: Path, **changes: Any) -> AsyncIterator[tuple[Rest, str]]:
    async with running_rest(path, assistance=assistance(**changes)) as rest:
        client = await rest.connect(Person(handle="alice"))
        yield rest, client.token


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[tuple[Rest, str]]:
    async with running(tmp_path) as found:
        yield found


async def test_every_member_of_the_answer_is_there(asked: tuple[Rest, str]) -> None:
    rest, token = asked
    reply = await rest.ask("GET", PATH, token=token)
    assert (reply.status, reply.headers["cache-control"]) == (200, "no-store")
    answer = reply.json
    members = "noise pq ice transports multipath obfuscation security keepalive reconnect relay"
    assert set(answer) == set(members.split())
    assert set(answer["pq"].values()) == {""}
    assert len(answer["pq"]) == 4
    ice = answer["ice"]
    assert (len(ice["username_fragment"]), len(ice["password"])) == (16, 64)
    assert (ice["ttl_secs"], ice["keepalive_interval_secs"], ice["trickle"]) == (300, 30, True)
    assert datetime.fromisoformat(ice["expires_at"]).timestamp() == NOW + 300
    assert ice["lite_candidates"] == [
        {
            "candidate": "candidate:1eea4ff5 1 udp 2130706431 203.0.113.7 3478 typ host generation 0",
            "component": 1,
            "protocol": "udp",
            "foundation": "1eea4ff5",
            "priority": 2130706431,
            "ip": "203.0.113.7",
            "port": 3478,
            "typ": "host",
        }
    ]
    assert answer["keepalive"] == {
        "enabled": True,
        "ping_interval_secs": 30,
        "pong_timeout_secs": 10,
        "max_missed_pongs": 3,
    }
    assert answer["reconnect"]["strategy"] == "exponential_backoff"
    assert answer["security"] == security_statistics(rest.context.counters)
    assert rest.context.counters.p2p_assists == 1


async def test_turn_servers_get_credentials_of_their_kind(asked: tuple[Rest, str]) -> None:
    rest, token = asked
    ice = (await rest.ask("GET", PATH, token=token)).json["ice"]
    shared, fixed = ice["servers"]
    # A time to live below a minute is of no use to anybody.
    username = f"{NOW + 60}:{ice['username_fragment']}"
    expected = base64.b64encode(hmac.new(b"north", username.encode(), hashlib.sha1).digest()).decode()
    assert (shared["username"], shared["credential"], shared["ttl_secs"]) == (username, expected, 60)
    assert (shared["urls"], shared["realm"]) == (["turn:a.example"], "example")
    assert datetime.fromisoformat(shared["expires_at"]).timestamp() == NOW + 60
    assert fixed == {"urls": ["turn:b.example"], "username": "u", "credential": "p", "ttl_secs": 0}


async def test_what_does_not_exist_is_not_offered(tmp_path: Path) -> None:
    async with running(tmp_path, turn=(), lite=False, relay=False) as (rest, token):
        answer = (await rest.ask("GET", PATH, token=token)).json
    assert {"servers", "lite_candidates"}.isdisjoint(answer["ice"])
    assert (answer["transports"], answer["multipath"]["primary_path"]) == ([], None)
    assert answer["obfuscation"]["domain_fronting"] is False
    assert "relay" not in answer


async def test_a2_credentials_differ_from_call_to_call(asked: tuple[Rest, str]) -> None:
    rest, token = asked
    answers = [(await rest.ask("GET", PATH, token=token)).json for _ in range(3)]
    assert len({answer["ice"]["username_fragment"] for answer in answers}) == 3
    assert len({answer["ice"]["password"] for answer in answers}) == 3
    assert len({answer["relay"]["ticket"] for answer in answers}) == 3


async def test_w13_no_seed_is_sent_and_the_noise_key_is_the_servers(asked: tuple[Rest, str]) -> None:
    rest, token = asked
    noise = (await rest.ask("GET", PATH, token=token)).json["noise"]
    info = (await rest.ask("GET", "/api/server-info")).json
    assert noise == {
        "pattern": "Xk",
        "prologue_hex": b"commucat".hex(),
        "device_seed_hex": "",
        "static_public_hex": info["noise_public"],
    }


async def test_s14_without_a_session_there_is_no_advice(asked: tuple[Rest, str]) -> None:
    rest, _ = asked
    for method in ("GET", "POST"):
        assert (await rest.ask(method, PATH)).status == 401
        assert (await rest.ask(method, PATH, token="0" * 64)).status == 401


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        found.setblocking(False)
        yield found


async def test_a14_hosts_that_the_caller_names_are_not_contacted(
    asked: tuple[Rest, str], listening: socket.socket
) -> None:
    rest, token = asked
    port = listening.getsockname()[1]
    body = {
        "peer_hint": f"127.0.0.1:{port}",
        "paths": [{"address": "127.0.0.1", "port": port, "server_name": "localhost"}],
    }
    reply = await rest.ask("POST", PATH, body, token=token)
    assert reply.status == 200
    quality = reply.json["transports"][0]["network_quality"]
    assert quality["probe_method"] == "fallback"
    with pytest.raises(BlockingIOError):
        listening.accept()


async def test_hints_are_obeyed_and_null_is_the_same_as_absent(asked: tuple[Rest, str]) -> None:
    rest, token = asked
    body = {
        "peer_hint": None,
        "prefer_reality": None,
        "min_paths": None,
        "fec": {"mtu": None, "repair_overhead": None},
        "paths": [
            {"address": "b.example", "id": None, "port": None, "server_name": None, "priority": None},
            {"address": None},
            {
                "address": "a.example",
                "id": "mine",
                "priority": 5,
                "reality_pem": None,
                "reality_fingerprint": None,
            },
        ],
    }
    answer = (await rest.ask("POST", PATH, body, token=token)).json
    assert [each["path_id"] for each in answer["transports"]] == ["mine", "path-1"]
    assert {each["transport"] for each in answer["transports"]} == {"WebSocket"}
    multipath = answer["multipath"]
    assert (multipath["fec_mtu"], multipath["fec_overhead"]) == (1152, 0.35)
    assert multipath["primary_path"] == "mine"
    # 3 * 1152 bytes are 3 packets, in turn; of 2 for repair none goes over the first path.
    assert multipath["sample_segments"] == {
        "mine": {"total": 2, "repair": 0},
        "path-1": {"total": 3, "repair": 2},
    }
    nothing = (await rest.ask("POST", PATH, token=token)).json
    assert [each["path_id"] for each in nothing["transports"]] == ["primary", "backup"]
    assert nothing["multipath"]["fec_mtu"] == 1200


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "invalid JSON payload"),
        (b"[]", "invalid JSON payload"),
        ({"paths": {}}, "invalid JSON payload"),
        ({"paths": [1]}, "invalid JSON payload"),
        ({"paths": [{"address": 5}]}, "invalid JSON payload"),
        ({"paths": [{"address": None}]}, "no paths provided"),
        ({"paths": [{"address": "x"}] * 9}, "too many paths (max 8)"),
        ({"paths": [{"address": "x", "id": "a"}, {"address": "y", "id": "a"}]}, "two paths have one id"),
        ({"paths": [{"address": "x" * 254}]}, "address is too long (max 253 characters)"),
        ({"paths": [{"address": "x", "port": 0}]}, "port must be from 1 to 65535"),
        ({"paths": [{"address": "x", "priority": 256}]}, "priority must be from 0 to 255"),
        ({"paths": [{"address": "x", "reality_fingerprint": "zz"}]}, "invalid reality fingerprint"),
        ({"paths": [{"address": "x", "reality_fingerprint": "00" * 32}]}, "reality certificate missing"),
        ({"prefer_reality": "yes"}, "invalid JSON payload"),
        ({"min_paths": 0}, "min_paths must be from 1 to 2147483648"),
        ({"fec": 5}, "invalid JSON payload"),
        ({"fec": {"mtu": 0}}, "fec: the MTU of error correction must be from 256 to 9000"),
        ({"fec": {"mtu": 9001}}, "fec: the MTU of error correction must be from 256 to 9000"),
        ({"fec": {"repair_overhead": 3}}, "fec: the overhead of error correction must be from 0 to 2"),
        ({"fec": {"repair_overhead": True}}, "invalid JSON payload"),
    ],
)
async def test_wrong_hints_are_named(asked: tuple[Rest, str], body: Any, detail: str) -> None:
    rest, token = asked
    reply = await rest.ask("POST", PATH, body, token=token)
    assert (reply.status, reply.detail) == (400, detail)


async def test_advice_has_a_limit_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path, per_minute=2) as (rest, token):
        replies = [await rest.ask("GET", PATH, token=token) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert int(replies[2].headers["retry-after"]) >= 1


async def test_switched_off_there_is_no_such_path(tmp_path: Path) -> None:
    async with running_rest(tmp_path) as rest:
        client = await rest.connect(Person(handle="alice"))
        assert (await rest.ask("GET", PATH, token=client.token)).status == 404


@pytest.mark.parametrize("mtu", [256, 600, 1200, 9000])
def test_the_trial_shares_all_packets_out_among_the_paths(mtu: int) -> None:
    paths = [{"address": f"{number}.example"} for number in range(3)]
    hints = hints_of({"paths": paths, "fec": {"mtu": mtu, "repair_overhead": 0.5}})
    segments = trial(hints.fec, hints.paths)
    length = 3 * min(max(mtu, 512), 2048)
    source = -(-length // (mtu - mtu % 8))
    repair = max(1, -(-source // 2))
    assert sum(each["total"] for each in segments.values()) == source + repair
    assert sum(each["repair"] for each in segments.values()) == repair
    assert segments["path-1"]["repair"] == 0


def test_a_number_that_is_none_is_no_overhead() -> None:
    with pytest.raises(HintError):
        hints_of({"fec": {"repair_overhead": float("nan")}})
