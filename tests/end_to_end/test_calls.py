"""Calls with real servers that are killed in the middle of one, and devices that come back or do not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from commucat_cli.client import Connection
from commucat_proto import CALL_MEDIA, DELIVERY_ACK, FrameType, json_text
from databases.postgres_databases import PostgresDatabases
from end_to_end.cluster_nodes import cluster_of
from end_to_end.raw_people import CHANNEL, device, device_id, reach, receiver
from end_to_end.server_process import DEADLINE, ServerProcess, run, server_process

CALL = "c"
SECONDS = 6
CONFIG = f"""
[server]
auto_approve_devices = true
[limits]
ring_timeout = {SECONDS}
[calls]
grace = {SECONDS}
"""
CLUSTER = f"""
join_by_handle = true
max_auto_devices_per_user = 9
[calls]
grace = {SECONDS}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path, CONFIG) as started:
        yield started


async def ask(connection: Connection, frame_type: FrameType, value: dict[str, object]) -> None:
    answer = await connection.request(frame_type, CHANNEL, json_text.dumps(value))  # type: ignore[arg-type]
    assert answer.error is None, answer


async def said(connection: Connection, frame_type: FrameType) -> dict[str, Any]:
    """The next frame of this type; what is read is confirmed, so that no later session gets it."""
    with trio.fail_after(DEADLINE):
        while True:
            for frame in await connection.deliveries():
                if frame.type is frame_type:
                    connection.confirm(frame.sequence)
                    assert isinstance(frame.control, dict)
                    return dict(frame.control)


async def known(server: ServerProcess, *names: str) -> None:
    where = await reach(server)
    for name in names:
        async with receiver(where, name) as connection:
            assert CALL_MEDIA in connection.info.ack["capabilities"]


async def call(alice: Connection, call_id: str = CALL) -> None:
    offer = {"call_id": call_id, "from": device_id("alice"), "to": []}
    await ask(alice, FrameType.CALL_OFFER, offer)


async def listed(server: ServerProcess, *options: str) -> list[dict[str, Any]]:
    command = ["commucat-cli", "calls", "--json", *options, "--config", str(server.home / "commucat.toml")]
    command += ["--data-dir", str(server.data_dir)]
    result = await trio.to_thread.run_sync(run, command, server.home)
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["calls"]
    return found


async def until_listed(server: ServerProcess, **expected: object) -> dict[str, Any]:
    """The call as the operator sees it, once it is so."""
    with trio.fail_after(DEADLINE):
        while True:
            rows = await listed(server, "--all")
            if len(rows) == 1 and expected.items() <= rows[0].items():
                return rows[0]


async def said_live(connection: Connection, frame_type: FrameType) -> dict[str, Any]:
    """The next live frame of this type."""
    with trio.fail_after(DEADLINE):
        while True:
            for frame in await connection.deliveries():
                if frame.type is frame_type:
                    assert isinstance(frame.control, dict)
                    return dict(frame.control)


async def killed_in_a_call(server: ServerProcess) -> None:
    """Alice and Bob are in a call when the server dies."""
    where = await reach(server)
    async with receiver(where, "alice", "bob") as alice, receiver(where, "bob", "alice") as bob:
        await call(alice)
        await said(bob, FrameType.CALL_OFFER)
        await ask(bob, FrameType.CALL_ANSWER, {"call_id": CALL, "accept": True})
        await said(alice, FrameType.CALL_ANSWER)
        await until_listed(server, state="running", in_call=2)
        server.kill()


async def test_call_that_nobody_takes_ends_and_the_table_says_so(server: ServerProcess) -> None:
    await known(server, "alice", "bob")
    async with receiver(await reach(server), "alice", "bob") as alice:
        await call(alice)
        await until_listed(server, state="ringing", called=1, came=0)
        assert (await said(alice, FrameType.CALL_END))["metadata"]["cause"] == "ring_timeout"
        row = await until_listed(server, state="over", reason="timeout")
    assert row["participants"] == [device_id("alice"), device_id("bob")]
    assert await listed(server) == []


async def test_call_survives_the_servers_death_if_its_devices_come_back(server: ServerProcess) -> None:
    await known(server, "alice", "bob")
    await killed_in_a_call(server)
    server.start()

    async with receiver(await reach(server), "alice") as alice, receiver(await reach(server), "bob") as bob:
        stats: dict[str, object] = {"call_id": CALL, "direction": "send", "audio": {"bitrate": 1}}
        await ask(alice, FrameType.CALL_STATS, stats)
        assert (await said_live(bob, FrameType.CALL_STATS))["call_id"] == CALL
        # Longer than the grace period: another call rings and ends meanwhile.
        await call(alice, "other")
        assert (await said(alice, FrameType.CALL_END))["call_id"] == "other"
        await ask(bob, FrameType.CALL_STATS, stats)
        await ask(bob, FrameType.CALL_END, {"call_id": CALL, "reason": "hangup"})
        assert (await said(alice, FrameType.CALL_END))["call_id"] == CALL
    rows = {row["call"]: row for row in await listed(server, "--all")}
    assert rows[CALL]["reason"] == "hangup"


async def test_absence_after_the_servers_death_ends_the_call(server: ServerProcess) -> None:
    await known(server, "alice", "bob")
    await killed_in_a_call(server)
    server.start()

    async with receiver(await reach(server), "alice") as alice:
        end = await said(alice, FrameType.CALL_END)
    assert end == {
        "call_id": CALL,
        "reason": "failure",
        "metadata": {"system": True, "cause": "disconnect", "device": device_id("bob")},
    }
    row = await until_listed(server, state="over", reason="disconnect", ended_by=device_id("bob"))
    assert row["ended_at"] is not None
    assert server.stop() == 0


async def test_another_node_ends_the_call_of_one_that_died(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    with cluster_of(tmp_path, postgres_databases.empty(), 2, config=CLUSTER) as nodes:
        one, other = [await reach(node) for node in nodes]
        await known(nodes[0], "alice", "bob")
        async with receiver(other, "bob", "alice") as bob:
            async with receiver(one, "alice", "bob") as alice:
                await call(alice)
                await said(bob, FrameType.CALL_OFFER)
                await ask(bob, FrameType.CALL_ANSWER, {"call_id": CALL, "accept": True})
                await said(alice, FrameType.CALL_ANSWER)
                await until_listed(nodes[1], state="running", in_call=2)
                nodes[0].kill()
            end = await said(bob, FrameType.CALL_END)
            assert end["metadata"] == {"system": True, "cause": "disconnect", "device": device_id("alice")}
        await until_listed(nodes[1], state="over", reason="disconnect", ended_by=device_id("alice"))


async def test_other_devices_are_told_of_an_answer_at_another_node(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    with cluster_of(tmp_path, postgres_databases.empty(), 2, config=CLUSTER) as nodes:
        one, other = [await reach(node) for node in nodes]
        await known(nodes[0], "alice", "bob")
        async with (
            receiver(one, "alice", "bob", "phone") as alice,
            receiver(other, "bob", "alice") as bob,
            device(one, "phone", DELIVERY_ACK, handle="bob") as phone,
        ):
            await call(alice)
            await said(bob, FrameType.CALL_OFFER)
            await said(phone, FrameType.CALL_OFFER)
            await ask(bob, FrameType.CALL_ANSWER, {"call_id": CALL, "accept": True})
            end = await said(phone, FrameType.CALL_END)
            assert end["metadata"] == {
                "system": True,
                "cause": "answered_elsewhere",
                "device": device_id("bob"),
            }
            await until_listed(nodes[1], state="running", gone=[device_id("phone")])
