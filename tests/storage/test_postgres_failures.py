"""Connections that are lost, a server that restarts, hangs or stays away, and cancellations at any moment."""

import random
import signal
from collections.abc import Awaitable, Callable

import pytest
import trio

from commucat_storage import CommitFailedError, Operation, StorageError, StorageUnavailableError
from commucat_storage.postgres import PostgresSettings, migrate_postgres, open_postgres
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.pool import OutcomeUnknownError
from databases.postgres_cluster import PostgresCluster
from storage.storage_builders import (
    NOW,
    accepted,
    add_devices,
    confirm,
    known,
    message,
    numbers,
    route,
    send,
    stored,
)

KILL_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'commucat%'"
PATIENT = PostgresSettings(reconnect_timeout=60.0)
IMPATIENT = PostgresSettings(connect_timeout=1.0, reconnect_timeout=0.2)


@pytest.fixture
def database(postgres_cluster: PostgresCluster) -> str:
    name = postgres_cluster.new_database()
    trio.run(migrate_postgres, postgres_cluster.dsn(name))
    return name


async def test_lost_connections_are_replaced_unnoticed(
    postgres_cluster: PostgresCluster, database: str
) -> None:
    async with open_postgres(postgres_cluster.dsn(database)) as storage:
        await add_devices(storage, "a")
        for number in range(1, 6):
            postgres_cluster.sql(KILL_ALL)
            [outcome] = await send(storage, message("a"))
            assert accepted(outcome) == {"a": number}
            assert numbers(await stored(storage, "a")) == list(range(1, number + 1))
            await storage.check()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_restart_of_the_server_is_waited_for(
    postgres_cluster: PostgresCluster, database: str, how: signal.Signals
) -> None:
    async with open_postgres(postgres_cluster.dsn(database), settings=PATIENT) as storage:
        await add_devices(storage, "a", "b")
        await send(storage, message("a", payload=b"before"))
        told: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, postgres_cluster.restart, how)
            for index in range(200):
                await storage.enqueue([message("a", payload=str(index).encode())], told.append)
                await storage.load_device("a")
        await send(storage, message("b"))

        rows = [row.payload for row in await stored(storage, "a")]
        assert rows[0] == b"before"
        acknowledged = [str(index).encode() for index, result in enumerate(told) if isinstance(result, tuple)]
        failed = [result for result in told if not isinstance(result, tuple)]
        assert len(told) == 200
        # Lost in a commit, a group is reported as failed although it may be stored: sent again, never lost.
        assert all(isinstance(result, CommitFailedError) for result in failed)
        assert set(acknowledged) <= set(rows)
        assert [row for row in rows if row in set(acknowledged)] == acknowledged


async def test_while_the_server_is_away_every_batch_is_told_so_and_the_next_is_tried(
    postgres_cluster: PostgresCluster, database: str
) -> None:
    async with open_postgres(postgres_cluster.dsn(database), settings=IMPATIENT) as storage:
        await add_devices(storage, "a")
        await trio.to_thread.run_sync(postgres_cluster.stop)
        try:
            for _ in range(3):
                with pytest.raises(CommitFailedError, match="cannot be reached"):
                    await storage.commit([message("a")])
            with pytest.raises(StorageUnavailableError, match="cannot be reached"):
                await storage.load_device("a")
            with pytest.raises(CommitFailedError, match="cannot be reached"):
                await storage.admit(known("a"))
            with pytest.raises(StorageError, match="cannot be reached"):
                await storage.check()
            # Not for good: the server need not be started anew.
            with trio.move_on_after(0.01) as scope:
                await storage.wait_failed()
            assert scope.cancelled_caught
        finally:
            await trio.to_thread.run_sync(postgres_cluster.start)

        [outcome] = await send(storage, message("a"))
        assert accepted(outcome) == {"a": 1}
        await storage.check()


async def test_a_server_that_hangs_fails_what_waits_for_it(
    postgres_cluster: PostgresCluster, database: str
) -> None:
    settings = PostgresSettings(unit_timeout=1.0, connect_timeout=1.0, reconnect_timeout=0.1)
    async with open_postgres(postgres_cluster.dsn(database), settings=settings) as storage:
        await add_devices(storage, "a")
        await storage.check()
        [journal] = postgres_cluster.sql(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'commucat-journal' "
            f"AND datname = '{database}'"
        ).split()
        postgres_cluster.signal_backend(int(journal), signal.SIGSTOP)
        try:
            with pytest.raises(CommitFailedError, match="in time"):
                await storage.commit([message("a")])
        finally:
            postgres_cluster.signal_backend(int(journal), signal.SIGCONT)
        [outcome] = await send(storage, message("a"))
        assert accepted(outcome) == {"a": 1}


# Messages alone are one statement; a change of routes is a transaction that ends with COMMIT.
@pytest.mark.parametrize("other", [(), (route("b", 3, "a"),)], ids=["one statement", "transaction"])
async def test_a_commit_whose_answer_is_lost_fails_and_is_not_repeated(
    postgres_cluster: PostgresCluster,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    other: tuple[Operation, ...],
) -> None:
    async with open_postgres(postgres_cluster.dsn(database)) as storage:
        await add_devices(storage, "a", "b")
        await send(storage, message("a", payload=b"first"))
        with monkeypatch.context() as patched:
            lose_the_answer(patched, "fetch", "WITH held")
            lose_the_answer(patched, "execute", "COMMIT")
            with pytest.raises(CommitFailedError) as caught:
                await storage.commit([message("a", payload=b"second"), *other])
        assert isinstance(caught.value.__cause__, OutcomeUnknownError)
        [outcome] = await send(storage, message("a", payload=b"third"))

        # It did happen; the sender sends again, and number order is commit order all the same.
        assert accepted(outcome) == {"a": 3}
        assert [row.payload for row in await stored(storage, "a")] == [b"first", b"second", b"third"]


def lose_the_answer(patched: pytest.MonkeyPatch, method: str, beginning: str) -> None:
    """The server does what the statement says; the connection ends before it has said so."""
    original = getattr(Connection, method)
    lost = False

    async def wrapped(self: Connection, query: str, *args: object) -> object:
        nonlocal lost
        result = await original(self, query, *args)
        if query.startswith(beginning) and not lost:
            lost = True
            raise ConnectionResetError("the connection ended")
        return result

    patched.setattr(Connection, method, wrapped)


async def test_a_statement_that_was_lost_on_its_way_is_sent_again(
    postgres_cluster: PostgresCluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Connection.fetch
    sent: list[str] = []

    async def lost_once(self: Connection, query: str, *args: object) -> object:
        sent.append(query)
        if len(sent) == 1:
            raise ConnectionResetError("the connection ended")
        return await original(self, query, *args)

    async with open_postgres(postgres_cluster.dsn(database)) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a", payload=b"first"))
        monkeypatch.setattr(Connection, "fetch", lost_once)
        [outcome] = await send(storage, message("a", payload=b"second"))
        monkeypatch.undo()

        assert sent[0] == sent[1]
        assert accepted(outcome) == {"a": 2}
        assert [row.payload for row in await stored(storage, "a")] == [b"first", b"second"]


async def test_a_batch_that_postgresql_refuses_harms_no_other(
    postgres_cluster: PostgresCluster, database: str
) -> None:
    postgres_cluster.sql(
        "ALTER TABLE relay_queue ADD CHECK (payload <> '\\x626164')",  # "bad"
        database,
    )
    told: list[object] = []
    async with open_postgres(postgres_cluster.dsn(database)) as storage:
        await add_devices(storage, "a")
        for payload in (b"one", b"bad", b"two"):
            await storage.enqueue([message("a", payload=payload)], told.append)
        await send(storage, message("a", payload=b"three"))

        assert [type(each) for each in told] == [tuple, CommitFailedError, tuple]
        assert [row.payload for row in await stored(storage, "a")] == [b"one", b"two", b"three"]


async def test_whatever_is_cancelled_every_connection_stays_whole(
    postgres_cluster: PostgresCluster, database: str
) -> None:
    randomness = random.Random(20261122)
    settings = PostgresSettings(connections=3)
    async with open_postgres(postgres_cluster.dsn(database), settings=settings) as storage:
        await add_devices(storage, "a", "b")
        jobs: list[Callable[[], Awaitable[object]]] = [
            lambda: storage.load_device("a"),
            lambda: storage.admit(known("a")),
            lambda: storage.commit([message("a", "b"), route("a", 3, "b")]),
            lambda: storage.read_after("a", 0, limit_rows=5, limit_bytes=1000, now=NOW),
            lambda: storage.purge_expired(NOW),
            lambda: confirm(storage, "b", 0),
        ]
        cancelled = 0

        async def worker() -> None:
            nonlocal cancelled
            for _ in range(250):
                scope = trio.CancelScope()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, scope, randomness.randrange(40))
                    with scope:
                        await randomness.choice(jobs)()
                    nursery.cancel_scope.cancel()
                cancelled += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(worker)

        assert cancelled > 100
        idle = storage._pool.idle
        assert 1 <= len(idle) <= 3
        assert not any(connection.is_closed() or connection.is_in_transaction() for connection in idle)
        await storage.check()
        busy = postgres_cluster.sql(
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' "
            "AND application_name LIKE 'commucat%' AND state <> 'idle'"
        )
        assert busy == "0"
        rows = numbers(await stored(storage, "a"))
        assert rows == list(range(1, len(rows) + 1))


async def cancel_after(scope: trio.CancelScope, passes: int) -> None:
    """Cancel after so many passes of the loop: no clock, but another moment each time."""
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_closing_commits_what_was_taken_although_everybody_is_cancelled(
    postgres_cluster: PostgresCluster, database: str
) -> None:
    told: list[object] = []
    dsn = postgres_cluster.dsn(database)
    with trio.CancelScope() as scope:
        async with open_postgres(dsn) as storage:
            await add_devices(storage, "a")
            await storage.enqueue([message("a")] * 3, told.append)
            scope.cancel()
            await trio.lowlevel.checkpoint()

    assert [type(each) for each in told] == [tuple]
    async with open_postgres(dsn) as storage:
        assert numbers(await stored(storage, "a")) == [1, 2, 3]


async def test_a_closed_store_reads_nothing(postgres_cluster: PostgresCluster, database: str) -> None:
    async with open_postgres(postgres_cluster.dsn(database)) as storage:
        pass

    with pytest.raises(StorageUnavailableError, match="closed"):
        await storage.load_device("a")


async def test_a_callback_that_raises_is_told_at_the_end(
    postgres_cluster: PostgresCluster, database: str
) -> None:
    def raises(result: object) -> None:
        raise RuntimeError("of the caller")

    async def use() -> None:
        async with open_postgres(postgres_cluster.dsn(database)) as storage:
            await add_devices(storage, "a")
            await storage.enqueue([message("a")], raises)
            await send(storage, message("a"))
            assert numbers(await stored(storage, "a")) == [1, 2]

    with pytest.raises(StorageError, match="a callback of the journal raised"):
        await use()


async def test_a_journal_that_dies_fails_everybody_and_says_so(
    postgres_cluster: PostgresCluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*args: object) -> None:
        raise MemoryError

    told: list[object] = []

    async def use() -> None:
        async with open_postgres(postgres_cluster.dsn(database)) as storage:
            await add_devices(storage, "a")
            monkeypatch.setattr("commucat_storage.postgres.journal.Journal._next_group", dies)
            await storage.enqueue([message("a")], told.append)
            with pytest.raises(StorageError, match="task died"):
                await storage.wait_failed()
            with pytest.raises(CommitFailedError, match="died"):
                await storage.commit([message("a")])

    with pytest.raises(StorageError, match="task died"):
        await use()
    assert [type(each) for each in told] == [CommitFailedError]
