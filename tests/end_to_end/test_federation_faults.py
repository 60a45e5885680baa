"""Federation between real servers while they are killed, cut off, lied to, or have the wrong time."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import trio

from commucat_cli.chaos.plan import stream_of
from commucat_cli.chaos.wire import Wire
from commucat_proto import Frame, FrameType
from commucat_proto.federation import SignedEvent
from end_to_end.client_people import login
from end_to_end.faked_clock import Clock
from end_to_end.federated_servers import domain_of, federated, known_as_peer, operator
from end_to_end.hostile_peer import BEHAVIOURS, DOMAIN, HostilePeer
from end_to_end.raw_people import CHANNEL, Reach, device_id, reach, receiver, sender, take
from end_to_end.server_process import DEADLINE, ServerProcess

BATCH = 100
BODY_LIMIT = 4 * 1024 * 1024


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """Of the last server."""
    clock = Clock(tmp_path_factory.mktemp("clock") / "clock")
    clock.set()
    return clock


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> HostilePeer:
    return HostilePeer(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, clock: Clock, hostile: HostilePeer
) -> Iterator[list[ServerProcess]]:
    home = tmp_path_factory.mktemp("servers")
    domains = ("a.test", "b.test", "c.test")
    with federated(home, *domains, trusted=hostile.trusted, prefix=clock.prefix) as servers:
        yield servers


# -- people ---------------------------------------------------------------------------------------


def at(name: str, server: ServerProcess) -> str:
    return f"{name}@{domain_of(server)}"


async def meet(where: Reach, name: str, *friends: str) -> None:
    """Become known to one's server, and let these write."""
    async with receiver(where, name, *friends):
        pass


async def say(where: Reach, name: str, to: str, *texts: str) -> None:
    """Each acknowledged."""
    async with sender(where, name, to) as connection:
        for text in texts:
            answer = await connection.request(FrameType.MSG, CHANNEL, text.encode())
            assert (answer.error, answer.refused) == (None, ())


async def hear(where: Reach, name: str, friend: str, count: int) -> list[str]:
    """The next so many texts, which are confirmed."""
    with trio.fail_after(DEADLINE):
        async with receiver(where, name, friend) as connection:
            got = await take(connection, count)
            connection.confirm(got[-1][0])
            return [payload.decode() for _, payload in got]


# -- how it stands --------------------------------------------------------------------------------


def standing(server: ServerProcess, domain: str) -> dict[str, Any]:
    """What a server says of a peer."""
    url = f"{server.url}/api/federation/peers"
    peers = requests.get(url, verify=str(server.ca_file), timeout=DEADLINE).json()["peers"]
    [found] = [peer for peer in peers if peer["domain"] == domain]
    return dict(found)


async def until(
    server: ServerProcess, domain: str, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Ask again and again how it stands with a peer."""
    with trio.fail_after(DEADLINE):
        while True:
            found = await trio.to_thread.run_sync(standing, server, domain)
            if wanted(found):
                return found


# -- kills ----------------------------------------------------------------------------------------


def test_nothing_is_lost_or_doubled_when_either_server_is_killed(servers: list[ServerProcess]) -> None:
    a, b, _ = servers
    alice, bob = login(a, "alice"), login(b, "bob")
    address = at(bob.device_id, b)
    strikes = [[b], [a], [a, b], []]
    texts = [[f"{part}-{number}" for number in range(BATCH)] for part in range(len(strikes))]
    # They know each other: strangers may fill only a small part of an inbox.
    assert bob.run("send", "--to", at(alice.device_id, a), "hello").returncode == 0
    count = str(len(strikes) * BATCH)
    with (
        bob.running("listen", "--json", "--count", count, "--timeout", "120") as listener,
        alice.running("send", "--to", address, "--stdin", "--timeout", "120") as writer,
    ):
        shown = []
        for struck, part in zip(strikes, texts, strict=True):
            writer.write("".join(f"{text}\n" for text in part))
            shown += [json.loads(listener.line())["text"] for _ in range(BATCH // 10)]
            for server in struck:
                server.kill()
            for server in struck:
                server.start()
            shown += [json.loads(listener.line())["text"] for _ in range(BATCH - BATCH // 10)]
        assert writer.end()[0] == 0
        assert listener.end()[0] == 0
    assert shown == [text for part in texts for text in part], "in order, none lost, none twice"


# -- the wire -------------------------------------------------------------------------------------


async def test_what_a_dead_wire_swallows_arrives_when_it_works_again(servers: list[ServerProcess]) -> None:
    a, b, _ = servers
    here, there = await reach(a), await reach(b)
    connections: list[int] = []

    def target() -> int:
        connections.append(b.port)
        return b.port

    wire = Wire(target, stream_of(1, "test"))
    texts = [f"{number}" for number in range(20)]
    await meet(there, "berta", at("anna", a))
    async with trio.open_nursery() as nursery:
        await nursery.start(wire.serve)
        await trio.to_thread.run_sync(operator, a, "peers", "set", "b.test", "--endpoint", wire.url)
        # A server looks twice a second whether an operator has changed something.
        with trio.fail_after(DEADLINE):
            while not connections:
                await say(here, "anna", at("berta", b), "before")
                assert await hear(there, "berta", at("anna", a), 1) == ["before"]

        # What was heard may not be answered yet, and would wait with the others.
        await until(a, "b.test", lambda peer: peer["waiting"] == 0)
        wire.shut()
        await say(here, "anna", at("berta", b), *texts)
        told = await until(a, "b.test", lambda peer: peer["failures"] > 0)
        assert (told["state"], told["waiting"]) == ("unreachable", 20)
        wire.open()

        assert await hear(there, "berta", at("anna", a), 20) == texts
        await until(a, "b.test", lambda peer: peer["waiting"] == 0)
        await trio.to_thread.run_sync(operator, a, "peers", "set", "b.test", "--endpoint", b.url)
        nursery.cancel_scope.cancel()


# -- a hostile peer -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enemy(servers: list[ServerProcess], hostile: HostilePeer) -> HostilePeer:
    """A peer of the first server; where it listens is not known yet."""
    known_as_peer(servers[0], DOMAIN, "--endpoint", "https://127.0.0.1:9", "--key", hostile.keys.public.hex())
    return hostile


def key_of(server: ServerProcess) -> str:
    url = f"{server.url}/api/server-info"
    info = requests.get(url, verify=str(server.ca_file), timeout=DEADLINE).json()
    return str(info["device_ca_public"])


def post(server: ServerProcess, body: bytes, path: str = "/federation/events") -> requests.Response:
    return requests.post(server.url + path, data=body, verify=str(server.ca_file), timeout=DEADLINE)


def message(target: str, text: str = "sealed", **changes: Any) -> dict[str, Any]:
    """What a peer says that it carries."""
    frame = Frame(FrameType.MSG, CHANNEL, 1, text.encode())
    return {
        "channel": CHANNEL,
        "sequence": 1,
        "payload": frame.encode().hex(),
        "sender": "device-of-eve",
        "target": target,
    } | changes


async def test_a_peer_that_answers_anything_harms_nobody(
    servers: list[ServerProcess], enemy: HostilePeer
) -> None:
    a, b, _ = servers
    here, there = await reach(a), await reach(b)
    await meet(there, "boris", at("adam", a))
    async with enemy.listening():
        await trio.to_thread.run_sync(operator, a, "peers", "set", DOMAIN, "--endpoint", enemy.url)
        failures = 0

        def has_failed_again(peer: dict[str, Any]) -> bool:
            return bool(peer["failures"] > failures)

        enemy.behaviour = "500"
        await say(here, "adam", f"x@{DOMAIN}", "for the hostile one")
        for behaviour in BEHAVIOURS:
            if behaviour == "accept":
                continue
            enemy.behaviour = behaviour
            if failures:
                # What it says itself, though refused as a message, ends the pause before the next attempt.
                knock = enemy.event({}, "a.test", time.time())
                assert (await trio.to_thread.run_sync(post, a, knock)).status_code == 400
            told = await until(a, DOMAIN, has_failed_again)
            failures = told["failures"]
            assert told["waiting"] == 1, behaviour
            assert told["last_error"].isprintable(), behaviour
            assert len(told["last_error"]) < 400, behaviour
        await say(here, "adam", at("boris", b), "meanwhile")
        assert await hear(there, "boris", at("adam", a), 1) == ["meanwhile"]

        enemy.bodies.clear()
        enemy.behaviour = "accept"
        await until(a, DOMAIN, lambda peer: peer["waiting"] == 0)
    event = SignedEvent.decode(enemy.bodies[-1])
    event.verify(bytes.fromhex(await trio.to_thread.run_sync(key_of, a)))
    assert (event.event.origin, event.event.scope) == ("a.test", DOMAIN)
    assert b"for the hostile one".hex().encode() in enemy.bodies[-1]
    assert "Traceback" not in a.log.read_text()


def tampered(body: bytes) -> bytes:
    """The text of the message is another one."""
    changed = body.replace(b"sealed".hex().encode(), b"opened".hex().encode())
    assert changed != body
    return changed


async def test_a_peer_that_sends_anything_stores_nothing(
    servers: list[ServerProcess], enemy: HostilePeer
) -> None:
    a = servers[0]
    here = await reach(a)
    await meet(here, "victor", f"eve@{DOMAIN}")
    target = f"{device_id('victor')}@a.test"
    now = time.time()

    def event(payload: Any, scope: str = "a.test", **changes: Any) -> bytes:
        return enemy.event(payload, scope, **({"at": now, "event_id": "evil"} | changes))

    join = Frame.of_control(FrameType.JOIN, 0, 1, {"members": []}).encode().hex()
    refused: dict[str, tuple[bytes, int, str]] = {
        "nothing": (b"", 400, "InvalidRequest"),
        "no JSON": (b"\xff{", 400, "InvalidRequest"),
        "too deep": (b"[" * 100_000, 400, "InvalidRequest"),
        "no event": (b"{}", 400, "InvalidRequest"),
        "tampered": (tampered(event(message(target))), 403, "InvalidSignature"),
        "unknown origin": (event(message(target), origin="nobody.test"), 403, "UnknownPeer"),
        "as somebody else": (event(message(target), origin="b.test"), 403, "InvalidSignature"),
        "as the server itself": (event(message(target), origin="a.test"), 403, "UnknownPeer"),
        "for somebody else": (event(message(target), "b.test"), 403, "InvalidScope"),
        "old": (event(message(target), at=now - 40 * 86_400), 403, "StaleEvent"),
        "of the future": (event(message(target), at=now + 2 * 86_400), 403, "StaleEvent"),
        "no message": (event({"type": "party"}), 400, "InvalidPayload"),
        "no frame": (event(message(target, payload="00")), 400, "InvalidFrame"),
        "two frames": (event(message(target, payload=message("")["payload"] * 2)), 400, "InvalidFrame"),
        "another channel": (event(message(target, channel=8)), 400, "InvalidPayload"),
        "a Join": (event(message(target, channel=0, payload=join)), 400, "InvalidFrame"),
        "a stranger's sender": (event(message(target, sender="x@b.test")), 400, "InvalidPayload"),
        "of the server": (event(message(target, sender=None)), 400, "InvalidPayload"),
        "for nobody": (event(message("device-of-nobody@a.test")), 404, "UnknownDevice"),
        "a name with NUL": (event(message("\0@a.test")), 404, "UnknownDevice"),
        "an id with NUL": (event(message(target), event_id="a\0b"), 400, "InvalidPayload"),
        "an empty batch": (event({"type": "messages", "messages": []}), 400, "InvalidPayload"),
        "a long batch": (event({"type": "messages", "messages": [1] * 513}), 400, "InvalidPayload"),
        "above the limit": (event({"padding": "x" * BODY_LIMIT}), 400, ""),
    }
    for name, (body, status, title) in refused.items():
        answer = await trio.to_thread.run_sync(post, a, body)
        assert answer.status_code == status, (name, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", name
        assert title in answer.json()["title"], name

    garbage = [1, None, [], {}, {"event_id": 5}, message(target), message("x@b.test", event_id="e")]
    batch = await trio.to_thread.run_sync(post, a, event({"type": "messages", "messages": garbage}))
    assert batch.status_code == 200
    assert [each["status"] for each in batch.json()["results"]] == ["refused"] * len(garbage)

    replayed = event(message(target, "once"), event_id="once")
    answers = [await trio.to_thread.run_sync(post, a, replayed) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 200, 200]
    assert [answer.json()["status"] for answer in answers] == ["accepted", "duplicate", "duplicate"]
    last = event({"type": "messages", "messages": [message(target, "last", event_id="last")] * 3})
    results = (await trio.to_thread.run_sync(post, a, last)).json()["results"]
    assert [each["status"] for each in results] == ["accepted", "duplicate", "duplicate"]

    assert await hear(here, "victor", f"eve@{DOMAIN}", 2) == ["once", "last"]
    assert a.running
    assert "Traceback" not in a.log.read_text()


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_clock_that_is_hours_off_is_no_obstacle(
    servers: list[ServerProcess], clock: Clock, hours: int
) -> None:
    a, _, c = servers
    here, there = await reach(a), await reach(c)
    one, other = f"alma{hours}", f"carl{hours}"
    await meet(here, one, at(other, c))
    await meet(there, other, at(one, a))
    clock.set(hours=hours)
    await say(here, one, at(other, c), "to another time")
    assert await hear(there, other, at(one, a), 1) == ["to another time"]
    await say(there, other, at(one, a), "from another time")
    assert await hear(here, one, at(other, c), 1) == ["from another time"]
    clock.set()


async def test_a_clock_that_is_weeks_off_holds_up_and_loses_nothing(
    servers: list[ServerProcess], clock: Clock
) -> None:
    a, _, c = servers
    here, there = await reach(a), await reach(c)
    await meet(here, "agnes", at("conrad", c))
    await meet(there, "conrad", at("agnes", a))
    clock.set(days=40)
    await say(here, "agnes", at("conrad", c), "to the future")
    await say(there, "conrad", at("agnes", a), "from the future")
    for server, domain in ((a, "c.test"), (c, "a.test")):
        told = await until(server, domain, lambda peer: peer["failures"] > 0)
        assert told["state"] == "offline"
        assert told["last_error"].startswith("status 403, StaleEvent: ")
        assert (told["waiting"], told["dead_letters"]) == (1, 0)

    await trio.to_thread.run_sync(c.stop)
    clock.set()
    await trio.to_thread.run_sync(c.start)

    assert await hear(there, "conrad", at("agnes", a), 1) == ["to the future"]
    assert await hear(here, "agnes", at("conrad", c), 1) == ["from the future"]


# -- one of three ---------------------------------------------------------------------------------


async def test_two_go_on_while_the_third_is_away(servers: list[ServerProcess]) -> None:
    a, b, c = servers
    here, there, away = await reach(a), await reach(b), await reach(c)
    await meet(there, "bert", at("ada", a))
    await meet(away, "cleo", at("ada", a))
    await trio.to_thread.run_sync(c.kill)
    await say(here, "ada", at("cleo", c), "for later")
    await until(a, "c.test", lambda peer: peer["state"] == "unreachable")
    await say(here, "ada", at("bert", b), "one", "two")
    assert await hear(there, "bert", at("ada", a), 2) == ["one", "two"]
    assert (await until(a, "c.test", lambda peer: peer["failures"] > 1))["waiting"] == 1

    await trio.to_thread.run_sync(c.start)

    assert await hear(away, "cleo", at("ada", a), 1) == ["for later"]
    await until(a, "c.test", lambda peer: peer["waiting"] == 0)
