"""Several nodes on one PostgreSQL database: real servers, a real database, kills."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from commucat_cli.client import Connection
from commucat_cli.errors import CliError, ServerBusyError
from commucat_crypto import DeviceKeyPair, rotation_statement
from commucat_media import AudioCodec, AudioPacket, MediaSource, encode_packet
from commucat_proto import DELIVERY_ACK, SEND_ONLY, FrameType, json_text
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from end_to_end.cluster_nodes import cluster_of
from end_to_end.raw_people import CHANNEL, device, device_id, reach, receiver, sender
from end_to_end.server_process import DEADLINE, ServerProcess

GROUP = 9


@pytest.fixture
def dsn(postgres_databases: PostgresDatabases) -> str:
    return postgres_databases.empty()


@pytest.fixture
def nodes(tmp_path: Path, dsn: str) -> Iterator[list[ServerProcess]]:
    with cluster_of(tmp_path, dsn, 2) as started:
        yield started


async def say(connection: Connection, text: bytes, channel: int = CHANNEL) -> None:
    answer = await connection.request(FrameType.MSG, channel, text)
    assert answer.error is None, answer
    assert answer.refused == ()


async def known(server: ServerProcess, *names: str) -> None:
    """Let devices connect once, so that others can name them."""
    where = await reach(server)
    for name in names:
        async with receiver(where, name):
            pass


async def until(dsn: str, query: str, expected: str) -> None:
    """Ask again and again, until the database answers so."""
    with trio.fail_after(DEADLINE):
        while await trio.to_thread.run_sync(run_sql, dsn, query) != expected:
            pass


async def hear(connection: Connection, count: int) -> list[tuple[int, bytes]]:
    """At least so many of the next messages as (inbox number, payload); passes over how others are."""
    got: list[tuple[int, bytes]] = []
    with trio.fail_after(DEADLINE):
        while len(got) < count:
            frames = await connection.deliveries()
            got += [(each.sequence, each.payload) for each in frames if each.type is FrameType.MSG]
    return got


async def end_of(connection: Connection) -> str:
    """Why the server ended the session."""
    with trio.fail_after(DEADLINE), pytest.raises(CliError) as ended:
        await connection.wait_ended()
    return str(ended.value)


async def test_messages_between_devices_on_two_nodes_arrive_live_in_order(
    nodes: list[ServerProcess],
) -> None:
    one, other = [await reach(node) for node in nodes]
    await known(nodes[0], "bob", "alice")
    async with receiver(other, "bob", "alice") as bob, sender(one, "alice", "bob") as alice:
        for number in range(50):
            await say(alice, b"%d" % number)

        got = await hear(bob, 50)

    assert got == [(number + 1, b"%d" % number) for number in range(50)]


async def test_two_nodes_that_commit_for_one_session_at_once_leave_no_gap(nodes: list[ServerProcess]) -> None:
    one, other = [await reach(node) for node in nodes]
    await known(nodes[0], "bob", "alice", "carol")
    async with (
        receiver(other, "bob", "alice", "carol") as bob,
        sender(one, "alice", "bob") as alice,
        sender(other, "carol", "bob") as carol,
        trio.open_nursery() as nursery,
    ):

        async def talk(connection: Connection, name: bytes) -> None:
            for number in range(100):
                await say(connection, b"%s %d" % (name, number))

        nursery.start_soon(talk, alice, b"alice")
        nursery.start_soon(talk, carol, b"carol")
        got = await hear(bob, 200)

    assert [number for number, _ in got] == list(range(1, 201))
    for name in (b"alice", b"carol"):
        texts = [text for _, text in got if text.startswith(name)]
        assert texts == [b"%s %d" % (name, number) for number in range(100)]


async def test_a_node_killed_in_between_loses_nothing(nodes: list[ServerProcess]) -> None:
    """The sender's node dies with what it acknowledged, then the receiver's with what it delivered."""
    one, other = [await reach(node) for node in nodes]
    await known(nodes[0], "bob", "alice")
    async with receiver(other, "bob", "alice") as bob:
        async with sender(one, "alice", "bob") as alice:
            for number in range(30):
                await say(alice, b"%d" % number)
            nodes[0].kill()
        before = await hear(bob, 30)
        bob.confirm(before[9][0])
        nodes[1].kill()
        await end_of(bob)
    nodes[0].start()
    # Of the confirmation nobody knows whether it came in before the kill.
    after: list[tuple[int, bytes]] = []
    async with receiver(await reach(nodes[0]), "bob") as bob:
        while not after or after[-1] != before[-1]:
            after += await hear(bob, 1)
    assert before == [(number + 1, b"%d" % number) for number in range(30)]
    assert after in (before, before[10:])


async def test_a_device_that_connects_everywhere_at_once_keeps_one_session(
    nodes: list[ServerProcess], dsn: str
) -> None:
    where = [await reach(node) for node in nodes]
    await known(nodes[0], "bob", "alice")
    reasons: list[str] = []
    live: dict[int, Connection] = {}
    only_one = trio.Event()

    async def stay(index: int) -> None:
        try:
            async with device(where[index % 2], "bob", DELIVERY_ACK) as connection:
                live[index] = connection
                await connection.wait_ended()
        except CliError as exc:
            reasons.append(str(exc))
            if len(reasons) == 19:
                only_one.set()
        live.pop(index, None)

    async with trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(stay, index)
        with trio.fail_after(DEADLINE):
            await only_one.wait()
        assert len(live) == 1
        assert all("took over" in reason for reason in reasons), reasons
        [(index, connection)] = live.items()
        async with sender(where[(index + 1) % 2], "alice", "bob") as alice:
            await say(alice, b"who is there")
        assert await hear(connection, 1) == [(1, b"who is there")]
        assert len(live) == 1
        nursery.cancel_scope.cancel()


async def test_without_hints_messages_and_claims_are_found_by_looking(tmp_path: Path, dsn: str) -> None:
    """The channel of each node is deaf: its backend is ended again and again while things happen."""
    deafen = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    with cluster_of(tmp_path, dsn, 2) as nodes:
        one, other = [await reach(node) for node in nodes]
        await known(nodes[0], "bob", "alice")

        async def keep_deaf() -> None:
            while True:
                await trio.to_thread.run_sync(run_sql, dsn, deafen)

        async with receiver(other, "bob", "alice") as bob, sender(one, "alice", "bob") as alice:  # noqa: SIM117
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_deaf)
                await say(alice, b"can you hear me")
                assert await hear(bob, 1) == [(1, b"can you hear me")]
                async with receiver(one, "bob") as newer:
                    assert "took over" in await end_of(bob)
                    assert await hear(newer, 1) == [(1, b"can you hear me")]
                nursery.cancel_scope.cancel()


async def test_a_removal_on_one_node_holds_for_what_is_sent_on_the_other(nodes: list[ServerProcess]) -> None:
    one, other = [await reach(node) for node in nodes]
    await known(nodes[0], "alice", "bob", "carol")
    async with (
        device(one, "alice", DELIVERY_ACK) as alice,
        device(other, "bob", DELIVERY_ACK) as bob,
        device(other, "carol", DELIVERY_ACK) as carol,
    ):
        members = [device_id("bob"), device_id("carol")]
        created = {"group_id": "cats", "members": members, "roles": {}}
        answer = await alice.request(FrameType.GROUP_CREATE, GROUP, json_text.dumps(created))
        assert answer.error is None, answer
        for member in (bob, carol):
            joined = await member.request(
                FrameType.JOIN, GROUP, json_text.dumps({"members": [], "group_id": "cats"})
            )
            assert joined.error is None, joined
        await say(carol, b"before", GROUP)
        removal = {"group_id": "cats", "event": "remove", "device": device_id("bob")}
        answer = await alice.request(FrameType.GROUP_EVENT, GROUP, json_text.dumps(removal))
        assert answer.error is None, answer

        await say(carol, b"after", GROUP)

        texts: list[bytes] = []
        with trio.fail_after(DEADLINE):
            while b"after" not in texts:
                texts += [frame.payload for frame in await alice.deliveries() if frame.type is FrameType.MSG]
        refused = await bob.request(FrameType.MSG, GROUP, b"still here?")
        assert refused.error is not None
        got: list[bytes] = []
        await say_and_hear(one, bob, got)
        assert b"before" in got
        assert b"after" not in got


async def say_and_hear(where: object, bob: Connection, got: list[bytes]) -> None:
    """Everything that bob has, up to a message that is sent now."""
    async with sender(where, "dora", "bob") as dora:  # type: ignore[arg-type]
        await say(dora, b"the end")
    with trio.fail_after(DEADLINE):
        while b"the end" not in got:
            got += [frame.payload for frame in await bob.deliveries()]


async def test_a_revocation_on_one_node_ends_the_session_on_the_other(
    nodes: list[ServerProcess], dsn: str
) -> None:
    other = await reach(nodes[1])
    async with receiver(other, "bob") as bob:
        run_sql(dsn, f"UPDATE user_device SET status = 'revoked' WHERE opaque_id = '{device_id('bob')}'")
        assert "revoked" in await end_of(bob)


async def test_a_new_key_told_to_one_node_ends_sessions_and_tokens_on_the_other(
    nodes: list[ServerProcess],
) -> None:
    one, other = [await reach(node) for node in nodes]
    old, new = DeviceKeyPair.from_seed(b"rotating" * 32), DeviceKeyPair.generate()
    name, expires_at = device_id("rotating"), int(time.time()) + 60
    statement = rotation_statement(name, new.public, expires_at=expires_at, nonce=b"")
    body = {
        "public_key": new.public.hex(),
        "signature": old.sign(statement).hex(),
        "expires_at": datetime.fromtimestamp(expires_at, UTC).isoformat(),
    }
    async with (
        receiver(other, "rotating") as listening,
        device(other, "rotating", SEND_ONLY) as sending,
        device(one, "rotating", SEND_ONLY) as asking,
    ):
        await asking.post("/api/device/csr", body)
        began = trio.current_time()
        for session in (asking, sending, listening):
            await end_of(session)
        # A second is promised; the rest is for a machine that has other things to do.
        assert trio.current_time() - began < DEADLINE / 2
        with pytest.raises(ServerBusyError, match="401"):
            await sending.get("/api/devices")


async def test_typing_and_presence_reach_devices_on_the_other_node(nodes: list[ServerProcess]) -> None:
    one, other = [await reach(node) for node in nodes]
    await known(nodes[0], "bob", "alice")
    async with receiver(other, "bob", "alice") as bob, receiver(one, "alice", "bob") as alice:
        seen: dict[FrameType, bytes] = {}
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:

                async def type_on() -> None:
                    while True:
                        payload = json_text.dumps({"typing": True})
                        await alice.request(FrameType.TYPING, CHANNEL, payload)

                nursery.start_soon(type_on)
                while set(seen) != {FrameType.TYPING, FrameType.PRESENCE}:
                    seen |= {frame.type: frame.payload for frame in await bob.deliveries()}
                nursery.cancel_scope.cancel()

    assert device_id("alice").encode() in seen[FrameType.TYPING]
    assert device_id("alice").encode() in seen[FrameType.PRESENCE]


async def test_new_friends_on_two_nodes_see_each_other_whichever_node_was_asked(
    tmp_path: Path, dsn: str
) -> None:
    """The third node has no session of either when it is told of the friendship."""
    with cluster_of(tmp_path, dsn, 3) as nodes:
        one, other, third = [await reach(node) for node in nodes]
        async with receiver(one, "alice") as alice, receiver(other, "bob") as bob:
            async with device(third, "bob", SEND_ONLY) as asking:
                asked = await asking.exchange("POST", "/api/friends/requests/alice")
                assert asked.status == 201
            async with device(third, "alice", SEND_ONLY) as asking:
                await asking.post("/api/friends/requests/bob/accept", {})
            for connection, peer in ((alice, "bob"), (bob, "alice")):
                with trio.fail_after(DEADLINE):
                    while device_id(peer) not in await presences(connection):
                        pass


async def presences(connection: Connection) -> set[str]:
    """Of whom the next frames tell how they are."""
    frames = await connection.deliveries()
    return {str(json.loads(frame.payload)["entity"]) for frame in frames if frame.type is FrameType.PRESENCE}


async def test_the_lease_of_a_killed_node_passes_on_and_its_sessions_are_given_free(
    nodes: list[ServerProcess], dsn: str
) -> None:
    await known(nodes[0], "bob")
    holder_pid = "SELECT n.pid FROM cluster_lease AS l JOIN cluster_node AS n ON n.node = l.holder"
    pids = {str(node.pid): node for node in nodes}
    with trio.fail_after(DEADLINE):
        holder = f"{holder_pid} WHERE l.name = 'nodes'"
        while (found := await trio.to_thread.run_sync(run_sql, dsn, holder)) not in pids:
            pass
    victim = pids.pop(found)
    async with receiver(await reach(victim), "bob"):
        victim.kill()
    [survivor] = pids

    await until(dsn, f"{holder_pid} WHERE l.name = 'nodes'", survivor)

    await until(dsn, "SELECT count(*) FROM cluster_node", "1")
    await until(dsn, "SELECT count(owner_node) FROM inbox_offset", "0")


async def test_a_call_between_devices_on_two_nodes_rings_is_answered_heard_and_ended(
    nodes: list[ServerProcess],
) -> None:
    one, other = [await reach(node) for node in nodes]
    await known(nodes[0], "bob", "alice")
    async with receiver(one, "alice", "bob") as alice, receiver(other, "bob", "alice") as bob:
        to = [device_id("bob")]
        await ask(alice, FrameType.CALL_OFFER, {"call_id": "c", "from": device_id("alice"), "to": to})
        await heard(bob, FrameType.CALL_OFFER)
        await ask(bob, FrameType.CALL_ANSWER, {"call_id": "c", "accept": True})
        await heard(alice, FrameType.CALL_ANSWER)

        # A frame that comes before the other node knows of the answer reaches nobody: as lost media do.
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak, alice)
                await heard(bob, FrameType.VOICE_FRAME)
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak, bob)
                await heard(alice, FrameType.VOICE_FRAME)
                nursery.cancel_scope.cancel()

        await ask(bob, FrameType.CALL_END, {"call_id": "c", "reason": "hangup"})
        await heard(alice, FrameType.CALL_END)


async def ask(connection: Connection, frame_type: FrameType, value: dict[str, object]) -> None:
    answer = await connection.request(frame_type, CHANNEL, json_text.dumps(value))  # type: ignore[arg-type]
    assert answer.error is None, answer


async def speak(connection: Connection) -> None:
    voice = AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=b"voice")
    while True:
        await connection.request(FrameType.VOICE_FRAME, CHANNEL, encode_packet(voice))


async def heard(connection: Connection, frame_type: FrameType) -> None:
    with trio.fail_after(DEADLINE):
        while frame_type not in [frame.type for frame in await connection.deliveries()]:
            pass
