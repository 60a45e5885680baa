"""Several nodes on one database: whose a device's session is, who hears of what, who does which job."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import attrs
import pytest
import trio

from commucat_storage import (
    MISSED,
    Admitted,
    GroupRole,
    Held,
    Node,
    Resolve,
    ResolveOutcome,
    Standing,
    Storage,
    StorageError,
)
from commucat_storage.bus import ALL_NODES
from commucat_storage.postgres import PostgresStorage, open_postgres
from commucat_storage.postgres.bus import MAX_NOTIFIED
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from storage.storage_builders import (
    NOW,
    add_devices,
    by_route,
    create,
    known,
    message,
    route,
    send,
    session,
)

Heads = Mapping[str, Mapping[str, int]]


@pytest.fixture
def dsn(postgres_databases: PostgresDatabases) -> str:
    return postgres_databases.migrated()


def node(name: str) -> Node:
    return Node(node_id=name, host="here", pid=7, identity=b"one key")


@pytest.fixture
async def nodes(dsn: str) -> AsyncIterator[tuple[PostgresStorage, PostgresStorage]]:
    """The nodes ``aa`` and ``bb``."""
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(open_postgres(dsn)) for _ in range(2)]
        await one.enter_cluster(node("aa"))
        await other.enter_cluster(node("bb"))
        yield one, other


async def connect(storage: Storage, name: str, token: str) -> Admitted:
    return await storage.admit(attrs.evolve(known(name), session=session(token, name), claims=True))


def age(dsn: str, name: str) -> None:
    """The node has given no sign of life for an hour."""
    run_sql(dsn, f"UPDATE cluster_node SET seen_at = now() - interval '1 hour' WHERE node = '{name}'")


async def test_each_claim_is_higher_and_names_whom_it_displaced(
    nodes: tuple[PostgresStorage, PostgresStorage],
) -> None:
    one, other = nodes
    await add_devices(one, "d")

    first = await connect(one, "d", "t1")
    second = await connect(other, "d", "t2")
    third = await connect(one, "d", "t3")

    assert [each.claim for each in (first, second, third)] == [1, 2, 3]
    assert [each.displaced for each in (first, second, third)] == [None, "aa", "bb"]


async def test_of_many_claims_at_once_every_one_has_a_number_of_its_own(
    nodes: tuple[PostgresStorage, PostgresStorage],
) -> None:
    await add_devices(nodes[0], "d")
    claims: list[int] = []

    async def claim(index: int) -> None:
        claims.append((await connect(nodes[index % 2], "d", f"t{index}")).claim)

    async with trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(claim, index)

    assert sorted(claims) == list(range(1, 21))


async def test_a_node_with_another_key_is_refused_while_others_live(
    nodes: tuple[PostgresStorage, PostgresStorage], dsn: str
) -> None:
    stranger = attrs.evolve(node("cc"), identity=b"another key")
    async with open_postgres(dsn) as third:
        with pytest.raises(StorageError, match="by a server with another key, on the host here"):
            await third.enter_cluster(stranger)
        age(dsn, "aa")
        age(dsn, "bb")
        await third.enter_cluster(stranger)
    assert run_sql(dsn, "SELECT count(*) FROM cluster_node") == "3"


async def test_outside_of_a_cluster_nothing_is_claimed(dsn: str) -> None:
    async with open_postgres(dsn) as storage:
        await add_devices(storage, "d")
        assert (await connect(storage, "d", "t")).claim == 0
    assert run_sql(dsn, "SELECT owner_claim, owner_node IS NULL FROM inbox_offset") == "0|t"


async def test_a_commit_tells_of_sessions_on_other_nodes_only(
    nodes: tuple[PostgresStorage, PostgresStorage],
) -> None:
    one, other = nodes
    told: list[Heads] = []
    one.on_elsewhere(told.append)
    await add_devices(one, "here", "there", "nowhere")
    await connect(one, "here", "t1")
    await connect(other, "there", "t2")

    await send(one, message("here", "there", "nowhere"), message("there"))
    await send(one, message("here"))

    assert told == [{"bb": {"there": 2}}]


async def test_a_claim_between_two_commits_is_seen_by_the_second(
    nodes: tuple[PostgresStorage, PostgresStorage],
) -> None:
    """Whatever the process remembers of the devices from the first."""
    one, other = nodes
    told: list[Heads] = []
    one.on_elsewhere(told.append)
    await add_devices(one, "d", "e")
    await connect(one, "d", "t1")
    for _ in range(3):
        await send(one, message("d", "e"))
    assert told == []

    claim = (await connect(other, "d", "t2")).claim
    await send(one, message("d", "e"))
    await send(one, message("d", "e"))
    await other.release([("d", claim)])
    await send(one, message("d", "e"))

    assert told == [{"bb": {"d": 4}}, {"bb": {"d": 5}}]


async def test_who_would_get_a_live_frame_is_named_with_its_node(
    nodes: tuple[PostgresStorage, PostgresStorage],
) -> None:
    one, other = nodes
    one.on_elsewhere(lambda _heads: None)
    await add_devices(one, "s", "here", "there")
    await connect(one, "here", "t1")
    await connect(other, "there", "t2")

    [_, outcome] = await send(one, route("s", 7, "here", "there"), Resolve("s", 7))

    assert outcome == ResolveOutcome(("here", "there"), elsewhere={"there": "bb"})


async def test_a_group_notice_is_told_like_a_message(nodes: tuple[PostgresStorage, PostgresStorage]) -> None:
    one, other = nodes
    told: list[Heads] = []
    one.on_elsewhere(told.append)
    await add_devices(one, "a", "b")
    await connect(other, "b", "t")

    await send(one, create("a", b=GroupRole.MEMBER), by_route("a"))

    assert told == [{"bb": {"b": 2}}]


async def test_a_look_finds_what_is_new_and_nothing_else(
    nodes: tuple[PostgresStorage, PostgresStorage],
) -> None:
    one, other = nodes
    states = await add_devices(one, "same", "more", "taken", "revoked")
    held = []
    for name, state in states.items():
        claim = (await connect(one, name, f"t-{name}")).claim
        held.append(Held(name, claim, 0, state.epoch))
    assert await one.look_after(held) == ()

    await send(other, message("more"), message("more"))
    await connect(other, "taken", "t")
    await other.revoke_device("revoked", NOW)
    found = {each.device_id: each for each in await one.look_after(held)}

    assert found == {
        "more": Standing("more", 1, 2, states["more"].epoch, True),
        "taken": Standing("taken", 2, 0, states["taken"].epoch, True),
        "revoked": Standing("revoked", 1, 0, states["revoked"].epoch, False),
    }


async def test_a_session_is_released_only_if_nobody_has_claimed_it_since(
    nodes: tuple[PostgresStorage, PostgresStorage], dsn: str
) -> None:
    one, other = nodes
    await add_devices(one, "d", "e")
    old = (await connect(one, "d", "t1")).claim
    mine = (await connect(one, "e", "t2")).claim
    await connect(other, "d", "t3")

    await one.release([("d", old), ("e", mine)])

    assert run_sql(dsn, "SELECT entity_id, owner_node FROM inbox_offset ORDER BY 1") == "d|bb\ne|"


async def test_owners_are_named_while_their_node_lives(
    nodes: tuple[PostgresStorage, PostgresStorage], dsn: str
) -> None:
    one, other = nodes
    await add_devices(one, "here", "there", "nowhere")
    await connect(one, "here", "t1")
    await connect(other, "there", "t2")

    assert await one.owners_of(["here", "there", "nowhere", "unknown"]) == {"there": "bb"}
    age(dsn, "bb")
    assert await one.owners_of(["there"]) == {}


async def test_a_dead_node_is_swept_away_and_one_that_only_seemed_so_claims_back(
    nodes: tuple[PostgresStorage, PostgresStorage], dsn: str
) -> None:
    one, other = nodes
    states = await add_devices(one, "d", "e")
    claim = (await connect(other, "d", "t1")).claim
    age(dsn, "bb")

    assert await one.sweep_nodes() == ("bb",)
    assert await one.sweep_nodes() == ()
    assert run_sql(dsn, "SELECT node FROM cluster_node") == "aa"
    assert run_sql(dsn, "SELECT count(owner_node) FROM inbox_offset") == "0"

    await other.beat()
    await other.look_after([Held("d", claim, 0, states["d"].epoch)])
    assert await one.owners_of(["d", "e"]) == {"d": "bb"}


async def test_whoever_leaves_in_order_leaves_nothing_behind(
    nodes: tuple[PostgresStorage, PostgresStorage], dsn: str
) -> None:
    one, other = nodes
    await add_devices(one, "d")
    await connect(other, "d", "t1")
    assert await other.take_lease("purge", 3600)

    await other.leave_cluster()

    assert run_sql(dsn, "SELECT node FROM cluster_node") == "aa"
    assert run_sql(dsn, "SELECT count(owner_node) FROM inbox_offset") == "0"
    assert await one.take_lease("purge", 3600)


async def test_a_lease_has_one_holder_until_it_ends(
    nodes: tuple[PostgresStorage, PostgresStorage], dsn: str
) -> None:
    one, other = nodes
    taken: list[str] = []

    async def take(storage: PostgresStorage, name: str) -> None:
        if await storage.take_lease("purge", 3600):
            taken.append(name)

    async with trio.open_nursery() as nursery:
        for storage, name in ((one, "aa"), (other, "bb")) * 5:
            nursery.start_soon(take, storage, name)

    assert len(set(taken)) == 1
    assert await one.take_lease("other job", 3600)
    holder, loser = (one, other) if taken[0] == "aa" else (other, one)
    assert await holder.take_lease("purge", 3600), "renewed"
    assert not await loser.take_lease("purge", 3600)
    run_sql(dsn, "UPDATE cluster_lease SET until = now() - interval '1 second' WHERE name = 'purge'")
    assert await loser.take_lease("purge", 3600)
    assert not await holder.take_lease("purge", 3600)


async def test_hints_reach_the_node_they_are_for_and_everybody_else(
    nodes: tuple[PostgresStorage, PostgresStorage],
) -> None:
    one, other = nodes
    async with (
        one.open_bus("aa") as bus,
        other.open_bus("bb") as theirs,
        bus.hints() as mine,
        theirs.hints() as hints,
    ):
        await connected(mine)
        await connected(hints)
        bus.publish("bb", b"one\0\xff")
        bus.publish("cc", b"for nobody")
        bus.publish("bb", bytes(MAX_NOTIFIED + 1))
        bus.publish(ALL_NODES, b"all")
        bus.publish("aa", b"own")

        assert [await hints.receive(), await hints.receive()] == [b"one\0\xff", b"all"]
        assert [await mine.receive(), await mine.receive()] == [b"all", b"own"]
        theirs.publish("aa", b"back")
        assert await mine.receive() == b"back"


async def connected(hints: trio.MemoryReceiveChannel[bytes]) -> None:
    """Until the bus has subscribed: it tells so with a hint that says that others may be lost."""
    for _ in range(2):
        assert await hints.receive() == MISSED


async def test_a_bus_that_lost_its_connection_says_so_and_comes_back(
    nodes: tuple[PostgresStorage, PostgresStorage], dsn: str
) -> None:
    one, other = nodes
    async with one.open_bus("aa") as bus, bus.hints() as hints, other.open_bus("bb") as theirs:
        await connected(hints)
        assert bus.healthy() is None
        run_sql(
            dsn,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'LISTEN%'",
        )

        assert await hints.receive() == MISSED

        assert bus.healthy() is None
        # What is told while the other's own connection is away may be lost: until one arrives.
        while hints.statistics().current_buffer_used == 0:
            theirs.publish("aa", b"hello")
            await trio.lowlevel.checkpoint()
        assert await hints.receive() == b"hello"


async def test_a_revocation_makes_the_devices_node_look(
    nodes: tuple[PostgresStorage, PostgresStorage], dsn: str
) -> None:
    one, other = nodes
    await add_devices(one, "d", "e")
    await connect(other, "d", "t")
    async with other.open_bus("bb") as bus, bus.hints() as hints:
        await connected(hints)

        await one.revoke_device("e", NOW)
        await one.revoke_device("d", NOW)

        assert await hints.receive() == MISSED
        assert hints.statistics().current_buffer_used == 0
