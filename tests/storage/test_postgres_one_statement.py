"""Transactions of one statement: how many round trips they take, and what they notice of other processes."""

import asyncio
from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import trio

from commucat_storage import (
    Confirm,
    GroupAction,
    Operation,
    RefusalReason,
    Resolve,
    ResolveOutcome,
    SubmissionOutcome,
)
from commucat_storage.postgres import PostgresStorage, open_postgres
from commucat_storage.postgres.connection import Connection
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases
from storage.storage_builders import (
    NOW,
    accepted,
    add_devices,
    add_siblings,
    asking,
    by_route,
    change,
    create,
    group_route,
    message,
    numbers,
    refused,
    route,
    send,
    stored,
)


@pytest.fixture
def dsn(postgres_databases: PostgresDatabases) -> str:
    return postgres_databases.migrated()


@pytest.fixture
async def one(dsn: str) -> AsyncIterator[PostgresStorage]:
    async with open_postgres(dsn) as storage:
        yield storage


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first word of every statement from now on."""
    words: list[str] = []
    fetch, execute = Connection.fetch, Connection.execute

    async def counted_fetch(self: Connection, query: str, *args: object) -> object:
        words.append(query.split()[0])
        return await fetch(self, query, *args)

    async def counted_execute(self: Connection, query: str, *args: object) -> object:
        words.append(query.split()[0])
        return await execute(self, query, *args)

    monkeypatch.setattr(Connection, "fetch", counted_fetch)
    monkeypatch.setattr(Connection, "execute", counted_execute)
    return words


def copied(*recipients: str, sender: str) -> Operation:
    return attrs.evolve(message(*recipients, sender=sender), copies=True)


async def test_messages_and_confirmations_are_one_statement(one: PostgresStorage, sent: list[str]) -> None:
    states = await add_devices(one, "a", "b", "c")
    await add_siblings(one, "a", "a2")
    await send(one, create("a", "b", "c"), group_route("b", 7), route("a", 8, "b"))
    epochs = {name: state.epoch for name, state in states.items()}
    rounds: list[list[Operation]] = [
        [message("a")],
        [message("a", "b", sender="c"), by_route("a", channel=8)],
        [by_route("a"), Resolve("a", 7)],
        [copied("b", sender="a")],
        # Some rows, all rows, and payloads that others share.
        [Confirm("b", epochs["b"], 2), Confirm("a", epochs["a"], 1)],
        [message("b"), message("a", sender="nobody"), Confirm("c", epochs["c"], 1)],
    ]
    for operations in rounds:
        await send(one, *operations)  # Everybody and everything is known after that.
    for operations in rounds:
        sent.clear()
        await send(one, *operations)
        assert sent == (["SELECT", "WITH"] if "nobody" in str(operations) else ["WITH"]), operations


async def test_messages_to_peers_are_one_statement(one: PostgresStorage, sent: list[str], dsn: str) -> None:
    await add_devices(one, "a", "b")
    await one.set_outbox("c.example", open=True)
    await send(one, route("a", 8, "b", "x@c.example"))
    page = await one.outbox_page("c.example", 0, limit_rows=1, limit_bytes=1, now=NOW)
    assert page is not None
    rounds: list[list[Operation]] = [
        [asking(b"ref", "x@c.example", "b", sender="a"), by_route("a", channel=8)],
        [message("y@c.example", sender="a"), Confirm("@c.example", page.epoch, 2)],
        [message("b", sender="x@c.example"), Resolve("a", 8)],
    ]
    for operations in rounds:
        await send(one, *operations)
    for operations in rounds:
        sent.clear()
        await send(one, *operations)
        assert sent == ["WITH"], operations
    counts = "SELECT rows, bytes, shared, reports FROM inbox_offset WHERE entity_id = '@c.example'"
    assert run_sql(dsn, counts) == "4|16|2|1"


async def test_a_closed_outbox_is_noticed_at_once(one: PostgresStorage, dsn: str) -> None:
    await add_devices(one, "a")
    await one.set_outbox("c.example", open=True)
    async with open_postgres(dsn) as other:
        await send(one, message("x@c.example", sender="a"))
        await send(other, message("x@c.example", sender="a"))
        await other.set_outbox("c.example", open=False)

        [outcome] = await send(one, message("x@c.example", sender="a"))
        assert refused(outcome) == {"x@c.example": RefusalReason.UNKNOWN_DOMAIN}
        await one.set_outbox("c.example", open=True)
        [outcome] = await send(other, message("x@c.example", sender="a"))
        assert accepted(outcome) == {"x@c.example": 3}


async def test_what_is_confirmed_of_many_is_counted_and_released(one: PostgresStorage, dsn: str) -> None:
    states = await add_devices(one, "a", "b")
    for _ in range(3):
        await send(one, message("a", "b", payload=b"shared"), message("a", payload=b"own"))
    await send(one, Confirm("a", states["a"].epoch, 3))

    counts = "SELECT rows, bytes, shared FROM inbox_offset ORDER BY entity_id"
    assert run_sql(dsn, counts) == "3|12|1\n3|18|3"
    assert run_sql(dsn, "SELECT refs FROM relay_payload ORDER BY payload_id") == "1\n1\n2"
    await send(one, Confirm("a", states["a"].epoch, 6), Confirm("b", states["b"].epoch, 3))
    assert run_sql(dsn, counts) == "0|0|0\n0|0|0"
    assert run_sql(dsn, "SELECT count(*) FROM relay_payload") == "0"
    assert numbers(await stored(one, "a")) == []


async def test_reports_are_named_when_the_rows_go(one: PostgresStorage, sent: list[str]) -> None:
    states = await add_devices(one, "a", "s")
    await send(one, asking(b"ref", "a"))
    sent.clear()

    [outcome] = await send(one, Confirm("a", states["a"].epoch, 1))

    assert [each.reference for each in outcome.reports] == [b"ref"]  # type: ignore[union-attr]
    assert sent == ["SELECT", "WITH"]


async def test_an_inbox_that_another_process_writes_to_is_read_before(dsn: str, sent: list[str]) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b")
        await send(one, message("a"), message("b"))
        await send(other, message("a"))
        sent.clear()

        assert accepted((await send(one, message("a")))[0]) == {"a": 3}
        # What was remembered did not hold: nothing was stored, and locks did it.
        assert sent == ["WITH", "BEGIN", "SELECT", "WITH", "COMMIT"]
        sent.clear()
        assert accepted((await send(one, message("a")))[0]) == {"a": 4}
        assert sent == ["SELECT", "WITH"]
        sent.clear()
        assert accepted((await send(one, message("b")))[0]) == {"b": 2}
        assert sent == ["WITH"]


@attrs.frozen
class Meeting:
    """Another process has begun to change something, and holds the locks, when ours sends its statement."""

    change: str
    operation: Operation
    outcome: Callable[[SubmissionOutcome], bool]


REMOVE_B = (
    "DELETE FROM group_member WHERE group_id = 'g' AND device_id = 'b';"
    "UPDATE inbox_offset SET relations = relations + 1 WHERE entity_id = 'b';"
    "UPDATE chat_group SET version = version + 1 WHERE group_id = 'g'"
)
ADD_D = (
    "INSERT INTO group_member VALUES ('g', 'd', 'member', now(), true);"
    "UPDATE inbox_offset SET relations = relations + 1 WHERE entity_id = 'd';"
    "UPDATE chat_group SET version = version + 1 WHERE group_id = 'g'"
)
REVOKE_B = (
    "UPDATE user_device SET status = 'revoked' WHERE opaque_id = 'b';"
    "UPDATE inbox_offset SET relations = relations + 1 WHERE entity_id = 'b'"
)
STORE_FOR_B = (
    "INSERT INTO relay_queue (position, frame_type, channel, expires_at, size, payload) "
    "SELECT (inbox << 32) + next_number, 1, 7, 'infinity', 1, 'x' FROM inbox_offset WHERE entity_id = 'b';"
    "UPDATE inbox_offset SET next_number = next_number + 1, rows = rows + 1, bytes = bytes + 1 "
    "WHERE entity_id = 'b'"
)


@pytest.mark.parametrize(
    "meeting",
    [
        Meeting(REMOVE_B, by_route("a"), lambda told: set(accepted(told)) == {"c"}),
        Meeting(ADD_D, by_route("a"), lambda told: set(accepted(told)) == {"b", "c", "d"}),
        Meeting(REVOKE_B, message("b"), lambda told: refused(told) == {"b": RefusalReason.REVOKED}),
        Meeting(STORE_FOR_B, message("b"), lambda told: accepted(told) == {"b": 5}),
    ],
    ids=["member removed", "member added", "device revoked", "message stored"],
)
async def test_a_change_that_is_committed_while_the_statement_waits_is_seen(
    dsn: str, meeting: Meeting
) -> None:
    told: list[object] = []
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b", "c", "d")
        await send(one, create("a", "b", "c"), by_route("a"))
        await send(one, by_route("a"), Resolve("a", 7))
        begun = trio.Event()
        go_on: list[asyncio.Event] = []

        async def unit(connection: Connection) -> None:
            # As every process does: the inboxes of all concerned first.
            await connection.execute(
                "SELECT FROM inbox_offset WHERE entity_id = ANY ('{a,b,c,d}') ORDER BY entity_id FOR UPDATE"
            )
            await connection.execute(meeting.change)
            go_on.append(asyncio.Event())
            begun.set()
            await go_on[0].wait()

        async def send_ours() -> None:
            told.extend(await one.commit([meeting.operation]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other._pool.write, unit)
            await begun.wait()
            nursery.start_soon(send_ours)
            await until_a_statement_waits(dsn)
            assert told == []
            go_on[0].set()

        [outcome] = told
        assert isinstance(outcome, SubmissionOutcome)
        assert meeting.outcome(outcome), outcome
        # And what is stored is what was told.
        for name, number in accepted(outcome).items():
            assert numbers(await stored(one, name))[-1] == number


async def until_a_statement_waits(dsn: str) -> None:
    """The journal's own statement waits for a lock; looked up in the database, each look takes its time."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'commucat-journal' "
        "AND wait_event_type = 'Lock' AND query LIKE 'WITH held%'"
    )
    while await trio.to_thread.run_sync(run_sql, dsn, query) == "0":
        pass


async def test_what_was_resolved_holds_when_it_is_told(dsn: str) -> None:
    async with open_postgres(dsn) as one, open_postgres(dsn) as other:
        await add_devices(one, "a", "b")
        await send(one, create("a", "b"), Resolve("a", 7))
        await send(other, change("a", GroupAction.REMOVE, "b"))

        [outcome] = await send(one, Resolve("a", 7))

        assert isinstance(outcome, ResolveOutcome)
        assert outcome.recipients == ()


async def test_a_purge_of_this_process_is_noticed_too(one: PostgresStorage) -> None:
    await add_devices(one, "a")
    await send(one, message("a", expires_at=NOW + 1), message("a"))
    assert (await one.purge_expired(NOW + 1)).messages == 1

    assert accepted((await send(one, message("a")))[0]) == {"a": 3}
    assert numbers(await stored(one, "a")) == [2, 3]


async def test_many_inboxes_are_purged_in_few_transactions(one: PostgresStorage, sent: list[str]) -> None:
    names = tuple(await add_devices(one, *[f"d{index}" for index in range(450)]))
    for expires_at in (NOW, NOW + 9):
        await send(one, message(*names, expires_at=expires_at), asking(b"r", "d7", expires_at=expires_at))
    sent.clear()

    purged = await one.purge_expired(NOW)

    assert purged.messages == 451
    assert [(each.device_id, each.number) for each in purged.expired] == [("d7", 2)]
    # Two of 200 inboxes, one of the rest.
    assert sent.count("COMMIT") == 3
    assert len(sent) < 40
    assert numbers(await stored(one, "d7")) == [3, 4]
    sent.clear()
    assert (await one.purge_expired(NOW)).messages == 0
    assert "COMMIT" not in sent


async def test_a_large_inbox_is_purged_in_several_steps(one: PostgresStorage, sent: list[str]) -> None:
    await add_devices(one, "a", "b")
    await send(one, *[message("a", expires_at=NOW)] * 2_500, message("a"), message("b", expires_at=NOW))
    sent.clear()

    assert (await one.purge_expired(NOW)).messages == 2_501

    assert sent.count("COMMIT") in (3, 4)
    assert numbers(await stored(one, "a")) == [2_501]
    state = await one.inbox_state("a")
    assert state is not None
    [outcome] = await send(one, Confirm("a", state.epoch, 2_501))
    assert outcome.applied  # type: ignore[union-attr]
