"""Advice on paths, the STUN responder and the relay, of a real server."""

import json
import random
import secrets
import socket
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from commucat_cli.client.p2p_relay import P2pRelay, join_relay
from commucat_cli.client.stun_query import ask_own_address
from commucat_cli.errors import CliError, ConnectionLostError
from commucat_cli.transport import Timeouts, open_h2
from commucat_proto.fec import FecProfile, datagrams_of
from databases.postgres_databases import PostgresDatabases
from end_to_end.client_people import login
from end_to_end.in_process import invoke
from end_to_end.raw_people import Reach, reach
from end_to_end.rest_site import Site, running_site
from end_to_end.server_process import DEADLINE, run, server_process
from end_to_end.test_workers import healths

ICE = """
[ice]
lite_enabled = true
lite_bind = "127.0.0.1:0"
[p2p]
relay_per_user = 4
"""
TURN = """
[ice.turn.main]
urls = "turn:turn.example.org:3478?transport=udp"
secret = "shared"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), ICE + TURN) as site:
        yield site
        assert "Traceback" not in site.server.log.read_text()


def word() -> str:
    return secrets.token_hex(16)


def advice(site: Site, token: str) -> dict[str, Any]:
    answer = site.ask("GET", "/api/p2p/assist", token)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def at(where: Reach, session_id: str, **proof: Any) -> AbstractAsyncContextManager[P2pRelay]:
    return join_relay(where.address, where.trust, session_id, **proof)


async def test_two_peers_meet_with_a_token_and_a_ticket_and_payloads_survive_a_lossy_sender(
    site: Site,
) -> None:
    _, token = await trio.to_thread.run_sync(site.someone)
    _, other = await trio.to_thread.run_sync(site.someone)
    ticket = (await trio.to_thread.run_sync(advice, site, other))["relay"]["ticket"]
    chance = random.Random(20)
    payloads = [chance.randbytes(size) for size in (1, 700, 1200, 5000, 20_000, 60_000) * 5]
    profile = FecProfile(512, 0.5)
    session_id = word()
    dropped = 0
    with trio.fail_after(DEADLINE):
        async with (
            at(site.where, session_id, token=token) as alice,
            at(site.where, session_id, ticket=ticket) as bob,
        ):
            async with trio.open_nursery() as nursery:
                got: list[bytes] = []

                async def receive() -> None:
                    while len(got) < len(payloads):
                        payload = await bob.receive()
                        assert payload is not None
                        got.append(payload)

                nursery.start_soon(receive)
                for number, payload in enumerate(payloads):
                    sent = datagrams_of(number, payload, profile)
                    # A fifth is lost, and never more than what the code can bear: the test is of the path.
                    spare = max(0, (len(sent) - 2) // 5)
                    lost = set(chance.sample(range(len(sent)), spare))
                    dropped += len(lost)
                    for place, datagram in enumerate(sent):
                        if place not in lost:
                            await alice.send_datagram(datagram)
            assert got == payloads
            assert dropped > 100
            await bob.send(b"thanks")
            assert await alice.receive() == b"thanks"


async def test_s14_nobody_uses_the_relay_without_a_proof(site: Site) -> None:
    for proof in ({}, {"token": "0" * 64}, {"ticket": "0" * 72}, {"ticket": "x"}):
        with pytest.raises(CliError, match="401"):
            async with at(site.where, word(), **proof):
                pytest.fail("was let in")


def test_s14_nobody_gets_advice_without_a_session(site: Site) -> None:
    assert site.ask("GET", "/api/p2p/assist").status_code == 401
    assert site.ask("POST", "/api/p2p/assist", json={}).status_code == 401


async def test_a_third_peer_and_a_word_that_is_none_are_told_so(site: Site) -> None:
    _, token = await trio.to_thread.run_sync(site.someone)
    session_id = word()
    with trio.fail_after(DEADLINE):
        async with (
            at(site.where, session_id, token=token) as first,
            at(site.where, session_id, token=token) as second,
        ):
            with pytest.raises(ConnectionLostError, match=r"two peers have met .* \(1008\)"):
                async with at(site.where, session_id, token=token):
                    pytest.fail("was let in")
            await first.send(b"still here")
            assert await second.receive() == b"still here"
        with pytest.raises(ConnectionLostError, match=r"no session id .* \(1008\)"):
            async with at(site.where, "too short", token=token):
                pytest.fail("was let in")


async def test_the_end_of_one_is_the_end_of_the_other_and_frees_the_word(site: Site) -> None:
    _, token = await trio.to_thread.run_sync(site.someone)
    session_id = word()
    with trio.fail_after(DEADLINE):
        for _ in range(3):
            async with at(site.where, session_id, token=token) as stays:
                async with at(site.where, session_id, token=token) as leaves:
                    await leaves.send(b"last words")
                    assert await stays.receive() == b"last words"
                assert await stays.receive() is None
                assert stays.closed is not None
                assert stays.closed[0] == 1000
                with pytest.raises(ConnectionLostError, match="the meeting is over"):
                    await stays.send(b"to nobody")


async def test_connections_of_one_user_are_limited(site: Site) -> None:
    _, token = await trio.to_thread.run_sync(site.someone)
    with trio.fail_after(DEADLINE):
        async with (
            at(site.where, word(), token=token),
            at(site.where, word(), token=token),
            at(site.where, word(), token=token),
            at(site.where, word(), token=token),
        ):
            with pytest.raises(ConnectionLostError, match=r"too many connections of yours.*\(1013\)"):
                async with at(site.where, word(), token=token):
                    pytest.fail("was let in")


async def test_a_reader_that_stops_holds_its_sender_up_and_nobody_else(site: Site) -> None:
    _, token = await trio.to_thread.run_sync(site.someone)
    _, other = await trio.to_thread.run_sync(site.someone)
    slow, fast = word(), word()
    sent = 0
    before = site.server.rss_kib()
    with trio.fail_after(DEADLINE):
        async with (
            at(site.where, slow, token=token) as sender,
            at(site.where, slow, token=token) as reader,
            at(site.where, fast, token=other) as left,
            at(site.where, fast, token=other) as right,
        ):
            blob = bytes(60_000)
            with trio.move_on_after(2) as stalled:
                while sent < 64 * 1024 * 1024:
                    await sender.send_datagram(blob)
                    sent += len(blob)
            assert stalled.cancelled_caught
            assert site.server.rss_kib() - before < 32 * 1024
            await left.send(b"quick")
            assert await right.receive() == b"quick"
            # What was taken is all there.
            received = 0
            while received < sent - len(blob):
                datagram = await reader.receive_datagram()
                assert datagram is not None
                received += len(datagram)


def test_requests_that_are_no_upgrade_are_problems(site: Site) -> None:
    _, token = site.someone()
    assert site.ask("GET", "/p2p", token).status_code == 400
    refused = site.ask("POST", "/p2p", token)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert refused.headers["content-type"] == "application/problem+json"


async def test_over_http2_the_relay_says_that_it_wants_http1(site: Site) -> None:
    async with open_h2(site.where.address, site.where.trust, Timeouts()) as client:
        answer = await client.get("/p2p", [])
    assert answer.status == 400
    assert b"HTTP/1.1" in answer.body


def test_the_commands_show_the_advice_and_the_own_address(site: Site) -> None:
    alice = login(site.server, "alice")
    shown = invoke(["p2p-assist", "--profile", str(alice.profile)])
    assert shown.returncode == 0, shown.stderr
    lines = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert lines["turn_1"] == "turn:turn.example.org:3478?transport=udp"
    assert lines["transports"] == "primary:WebSocket backup:WebSocket"
    host, port = lines["stun_1"].split()

    checked = invoke(["ice-check", "--profile", str(alice.profile)])
    assert checked.returncode == 0, checked.stderr
    values = dict(line.split("=", 1) for line in checked.stdout.splitlines())
    assert values["server"] == f"{host}:{port}"
    assert values["address"] == values["local"]
    assert (values["nat"], values["credential"]) == ("no", "accepted")

    plain = invoke(["ice-check", f"{host}:{port}", "--json"])
    assert plain.returncode == 0, plain.stderr
    assert '"nat": false' in plain.stdout


def test_ice_check_says_in_one_line_what_is_wrong(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        done = invoke(["ice-check", f"127.0.0.1:{port}", "--timeout", "0.3"])
    assert (done.returncode, done.stdout) == (1, "")
    assert f"UDP 127.0.0.1:{port} does not answer within 0.3 s" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = invoke(["ice-check", f"127.0.0.1:{port}"])
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "nothing listens" in done.stderr
    for wrong in ([], ["host:0"], ["host:x"]):
        assert invoke(["ice-check", *wrong]).returncode == 2


def test_a_busy_udp_port_is_one_clear_line_at_the_start(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        done = run(
            ["commucat-server", "--bind", "127.0.0.1:0"],
            tmp_path,
            COMMUCAT_ICE_LITE_ENABLED="true",
            COMMUCAT_ICE_LITE_BIND=f"127.0.0.1:{port}",
        )
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: the STUN responder cannot use 127.0.0.1:{port}: another program")


async def test_peers_meet_at_whichever_workers_they_arrive(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    config = (
        f'[server]\nauto_approve_devices = true\n[storage]\npostgres_dsn = "{postgres_databases.empty()}"\n'
        '[security.rate_limit]\nhttp_burst = 1000000\n[ice]\nlite_enabled = true\nlite_bind = "127.0.0.1:0"\n'
        "[p2p]\nrelay_auth = 'open'\nrelay_per_user = 1000\n"
    )
    with (
        server_process(tmp_path, config, options=("--workers", "2")) as server,
        trio.fail_after(2 * DEADLINE),
    ):
        where = await reach(server)
        await healths(where)
        # Which worker takes a connection is chance: with twenty pairs all four ways come up.
        for number in range(20):
            session_id = word()
            async with at(where, session_id) as one, at(where, session_id) as two:
                payload = bytes([number]) * 3000
                await one.send(payload)
                assert await two.receive() == payload
                await two.send(payload)
                assert await one.receive() == payload
                with pytest.raises(ConnectionLostError, match="two peers have met"):
                    async with at(where, session_id):
                        pytest.fail("was let in")
        log = server.log.read_text()
        assert "Traceback" not in log
        events = [json.loads(line) for line in log.splitlines() if '"stun responder"' in line]
        assert [event["event"] for event in events] == ["stun responder"] * 2
        # They share one socket: whoever takes the datagram answers it.
        [port] = {event["port"] for event in events}
        for _ in range(10):
            found = await ask_own_address("127.0.0.1", port, patience=DEADLINE)
            assert found.mapped == found.local


def test_what_is_switched_off_is_not_there(tmp_path: Path) -> None:
    with running_site(tmp_path, "[p2p]\nassist_enabled = false\nrelay_enabled = false\n") as off:
        _, token = off.someone()
        assert off.ask("GET", "/api/p2p/assist", token).status_code == 404

        async def join() -> None:
            async with at(off.where, word(), token=token):
                pytest.fail("was let in")

        with pytest.raises(CliError, match="404"):
            trio.run(join)
