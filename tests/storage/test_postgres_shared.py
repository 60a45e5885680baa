"""Several processes on one database: nobody acts on what another one has changed."""

import random
from collections.abc import Callable

import attrs
import pytest
import trio

from commucat_storage import (
    Confirm,
    DropRoute,
    Friend,
    GroupAction,
    GroupRole,
    Once,
    Operation,
    RefusalReason,
    Resolve,
    ResolveOutcome,
    Storage,
    SubmissionOutcome,
)
from commucat_storage.postgres import PostgresSettings, open_postgres
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from storage.storage_builders import (
    NOW,
    accepted,
    add_devices,
    add_siblings,
    by_route,
    change,
    create,
    friend_request,
    group_route,
    invite,
    join_room,
    known,
    message,
    notified,
    numbers,
    refusal,
    refused,
    route,
    send,
    session,
    stored,
)


@pytest.fixture
def dsn(postgres_databases: PostgresDatabases) -> str:
    return postgres_databases.migrated()


async def test_a_route_changed_by_another_process_holds_at_once(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b", "c")
        await send(one, route("a", 7, "b"), by_route("a"))
        await send(other, route("a", 7, "c"))

        [outcome] = await send(one, by_route("a"))

        assert accepted(outcome) == {"c": 1}
        await send(other, route("c", 7, "b"))
        assert refused((await send(one, by_route("a")))[0]) == {"c": RefusalReason.CHANNEL_CONFLICT}


async def test_a_member_removed_by_another_process_gets_nothing_more(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b", "c", "d")
        await send(one, create("a", "b", c=GroupRole.ADMIN), by_route("a"))
        assert set(notified((await send(other, change("c", GroupAction.REMOVE, "b")))[0])) == {"a", "b"}

        [outcome, asked] = await send(one, by_route("a"), Resolve("a", 7))

        assert set(accepted(outcome)) == {"c"}
        assert asked == ResolveOutcome(("c",))
        # And one that was added is reached, although this process has never heard of it.
        assert set(notified((await send(other, invite("c", "d")))[0])) == {"a", "d"}
        assert set(accepted((await send(one, by_route("a")))[0])) == {"c", "d"}


async def test_a_group_ended_by_another_process_takes_the_routes_to_it_along(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b")
        await send(one, create("a", "b"), group_route("b", 7), by_route("b"))
        await send(one, change("b", GroupAction.LEAVE))
        await send(other, change("a", GroupAction.LEAVE))

        [outcome] = await send(one, by_route("b"))

        assert outcome == SubmissionOutcome((), (refusal("", RefusalReason.NO_ROUTE),))


async def test_a_device_revoked_by_another_process_refuses_at_once(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b")
        await send(one, message("a", sender="b"), message("b", sender="a"))
        await other.revoke_device("a", NOW)

        outcomes = await send(one, message("a", sender="b"), message("b", sender="a"))

        assert refused(outcomes[0]) == {"a": RefusalReason.REVOKED}
        assert refused(outcomes[1]) == {"": RefusalReason.REVOKED}


async def test_of_two_processes_one_stores_what_is_stored_once(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b")
        told: dict[str, list[str]] = {}

        async def caller(storage: Storage, name: str, key: str) -> None:
            # For different devices, so that no lock makes one wait for the other.
            only = attrs.evolve(message(name, sender="x@c.example"), once=Once("s", key, NOW))
            [outcome] = await send(storage, only)
            assert isinstance(outcome, SubmissionOutcome)
            told.setdefault(key, []).append("duplicate" if outcome.duplicate else name)

        for key in map(str, range(20)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller, one, "a", key)
                nursery.start_soon(caller, other, "b", key)

        assert all(sorted(each) in (["a", "duplicate"], ["b", "duplicate"]) for each in told.values())
        rows = [*await stored(one, "a"), *await stored(one, "b")]
        assert len(rows) == 20


async def test_friends_changed_by_another_process_count_at_once(dsn: str) -> None:
    limits = PostgresSettings(stranger_rows=1)
    async with open_postgres(dsn, settings=limits) as one, open_postgres(dsn, settings=limits) as other:
        await add_devices(one, "a", "b")
        batch = [message("a", sender="b")] * 2
        assert [bool(accepted(each)) for each in await send(one, *batch)] == [True, False]

        await other.request_friend(friend_request("user-b", "user-a"))
        await other.answer_friend_request("user-b", "user-a", accept=True, now=NOW)

        assert [bool(accepted(each)) for each in await send(one, *batch)] == [True, True]
        await other.remove_friend("user-a", "user-b")
        assert [bool(accepted(each)) for each in await send(one, *batch)] == [False, False]


async def test_friends_devices_and_messages_that_change_together_never_lock_each_other_for_good(
    dsn: str,
) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b", "c")

        async def change_friends(storage: Storage, name: str) -> None:
            for turn in range(15):
                await storage.replace_friends(
                    f"user-{name}", [Friend(user_id=f"user-{each}") for each in "abc"[: turn % 4]]
                )

        async def connect(storage: Storage, name: str) -> None:
            for turn in range(15):
                admission = attrs.evolve(known(name), session=session(f"{name}{turn}", name))
                await storage.admit(admission)

        async def add(storage: Storage) -> None:
            for turn in range(15):
                await add_siblings(storage, "a", f"a{turn}")

        async def write(storage: Storage) -> None:
            for _ in range(15):
                await send(storage, message("a", "b", "c", sender="b"), message("c", "a", sender="a"))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for name in "abc":
                    nursery.start_soon(change_friends, other, name)
                    nursery.start_soon(connect, one, name)
                nursery.start_soon(add, one)
                nursery.start_soon(write, one)
                nursery.start_soon(write, other)

        # And what the journals remember in the end is what is stored.
        await one.replace_friends("user-a", [Friend(user_id="user-c")])
        assert [each.user_id for each in await other.friends_of("user-a")] == ["user-c"]


async def test_the_same_group_created_twice_at_once_exists_once(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        names = await add_devices(one, *[f"d{index}" for index in range(20)])
        results: list[RefusalReason | None] = []

        async def make(storage: Storage, name: str) -> None:
            [outcome] = await send(storage, create(name))
            results.append(getattr(outcome, "refused", None))

        async with trio.open_nursery() as nursery:
            for index, name in enumerate(names):
                nursery.start_soon(make, (one, other)[index % 2], name)

        assert results.count(None) == 1
        assert results.count(RefusalReason.GROUP_EXISTS) == 19


async def test_numbers_of_two_processes_are_one_row_without_gaps(dsn: str) -> None:
    """Both send to the same devices in different orders, with payloads that they share, and confirm."""
    randomness = random.Random(7)
    names = ["a", "b", "c", "d", "e"]
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        states = await add_devices(one, *names)
        told: dict[str, list[int]] = {name: [] for name in names}

        async def work(storage: Storage) -> None:
            for turn in range(60):
                recipients = randomness.sample(names, 3)
                outcomes = await send(storage, message(*recipients), message(randomness.choice(names)))
                for outcome in outcomes:
                    for name, number in accepted(outcome).items():
                        told[name].append(number)
                if turn % 10 == 9:
                    name = randomness.choice(names)
                    page = await storage.read_after(name, 0, limit_rows=1000, limit_bytes=2**20, now=NOW)
                    seen = numbers(page.rows)
                    assert seen == list(range(seen[0], page.head + 1)), "nothing appears below the head"
                    await send(storage, Confirm(name, states[name].epoch, seen[len(seen) // 2]))

        async with trio.open_nursery() as nursery:
            for storage in (one, other) * 3:
                nursery.start_soon(work, storage)

        for name in names:
            assert sorted(told[name]) == list(range(1, len(told[name]) + 1))
            state = await one.inbox_state(name)
            assert state is not None
            assert state.next_number == len(told[name]) + 1
            expected = list(range(state.confirmed + 1, state.next_number))
            assert numbers(await stored(other, name)) == expected
        # Everything confirmed: no payload is left that nobody refers to.
        for name in names:
            await send(one, Confirm(name, states[name].epoch, len(told[name])))
        left = await one._pool.read(
            lambda connection: connection.fetchrow(
                "SELECT (SELECT count(*) FROM relay_queue), (SELECT count(*) FROM relay_payload), "
                "(SELECT sum(rows + bytes + shared) FROM inbox_offset)"
            )
        )
        assert left == (0, 0, 0)


async def test_a_room_that_two_processes_fill_and_leave_ends_with_the_last(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        names = list(await add_devices(one, *[f"d{index}" for index in range(12)]))

        async def each(operation: Callable[[str], Operation]) -> None:
            async with trio.open_nursery() as nursery:
                for index, name in enumerate(names):
                    nursery.start_soon(send, (one, other)[index % 2], operation(name))

        await each(lambda name: join_room(name, 7))
        for storage, name in ((one, "d0"), (other, "d1")):
            assert set(accepted((await send(storage, by_route(name)))[0])) == {*names} - {name}
        await each(lambda name: DropRoute(name, 7))

        assert run_sql(dsn, "SELECT count(*) FROM chat_group") == "0"
        assert run_sql(dsn, "SELECT count(*) FROM group_member") == "0"


async def test_a_device_that_another_process_admitted_or_revoked_is_seen_by_the_next_copy(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "s")
        copied = attrs.evolve(message("a", sender="s"), copies=True)

        async def copies() -> dict[str, int]:
            [outcome] = await send(one, copied)
            assert isinstance(outcome, SubmissionOutcome)
            assert outcome.refused == ()
            return dict(outcome.copied)

        assert await copies() == {}
        await add_siblings(other, "s", "s2", "s3")
        assert await copies() == {"s2": 1, "s3": 1}
        await other.revoke_device("s2", NOW)
        assert await copies() == {"s3": 2}
