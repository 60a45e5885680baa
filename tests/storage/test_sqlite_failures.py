"""The SQLite journal when things go wrong: a stalled, full or failing disk, bad batches, other writers."""

import json
import re
import sqlite3
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from commucat_storage import (
    MAX_INBOX_NUMBER,
    AlreadyExistsError,
    CommitFailedError,
    ConfirmOutcome,
    Outcome,
    RefusalReason,
    SqliteSettings,
    StorageError,
    StorageUnavailableError,
    Submission,
    open_sqlite,
)
from commucat_storage.admission import RENEWAL_NUMBER
from commucat_storage.sqlite.admit import admit
from commucat_storage.sqlite.connection import connect_writer
from commucat_storage.sqlite.turns import Turns
from commucat_storage.sqlite.writer import Entry, Transaction, Writer
from storage.storage_builders import (
    LATER,
    NOW,
    accepted,
    add_devices,
    by_route,
    confirm,
    known,
    locked,
    message,
    new_user,
    numbers,
    refused,
    route,
    send,
    stored,
    user,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# -- a disk that stalls ----------------------------------------------------------------------------


async def test_while_the_disk_stalls_the_journal_fills_and_callers_wait(
    path: Path, nursery: trio.Nursery
) -> None:
    told: list[int] = []

    def done(result: tuple[Outcome, ...] | CommitFailedError) -> None:
        assert isinstance(result, tuple)
        told.extend(number for outcome in result for number in accepted(outcome).values())

    async with open_sqlite(path, settings=SqliteSettings(journal_rows=4)) as storage:
        await add_devices(storage, "a")
        given_up = trio.CancelScope()
        waiting: list[str] = []

        async def gives_up() -> None:
            with given_up:
                await storage.enqueue([message("a", payload=b"never")], done)

        async def waits(name: str) -> None:
            waiting.append(name)
            await storage.enqueue([message("a", payload=name.encode())], done)
            waiting.remove(name)

        with locked(path):
            for index in range(4):
                await storage.enqueue([message("a", payload=str(index).encode())], done)
            nursery.start_soon(gives_up)
            await wait_all_tasks_blocked()
            for name in ("first", "second"):
                nursery.start_soon(waits, name)
                await wait_all_tasks_blocked()
            assert storage.waiting_rows == 4
            assert waiting == ["first", "second"]
            given_up.cancel()
            await wait_all_tasks_blocked()
            assert told == []
        await send(storage, message("a", payload=b"last"))

        assert told == [1, 2, 3, 4, 5, 6]
        payloads = [each.payload for each in await stored(storage, "a")]
        assert payloads == [b"0", b"1", b"2", b"3", b"first", b"second", b"last"]
        assert storage.waiting_rows == 0


async def test_a_lock_that_lasts_too_long_fails_the_group_and_the_next_one_goes(path: Path) -> None:
    async with open_sqlite(path, settings=SqliteSettings(busy_timeout=0.05)) as storage:
        await add_devices(storage, "a")
        with locked(path):
            with pytest.raises(CommitFailedError, match="locked"):
                await storage.commit([message("a")])
            with pytest.raises(CommitFailedError):
                await storage.create_user(user("tom"))
            with pytest.raises(StorageError):
                await storage.check()

        [outcome] = await send(storage, message("a"))
        assert accepted(outcome) == {"a": 1}
        assert await storage.load_user("user-tom") is None


async def test_reading_does_not_wait_for_the_writer(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        with locked(path):
            assert numbers(await stored(storage, "a")) == [1]


async def test_closing_does_not_wait_for_ever_for_a_disk_that_hangs(path: Path) -> None:
    told: list[object] = []
    journal = SqliteSettings(close_timeout=0.05)

    async def run_into_the_lock(lock: ExitStack) -> None:
        async with open_sqlite(path, settings=journal) as storage:
            await add_devices(storage, "a")
            lock.enter_context(locked(path))
            await storage.enqueue([message("a")], told.append)

    threads = set(threading.enumerate())
    with ExitStack() as lock:
        with pytest.raises(StorageError, match="did not answer"):
            await run_into_the_lock(lock)
        assert len(told) == 1
        assert isinstance(told[0], CommitFailedError)
        [hanging] = [
            each for each in threading.enumerate() if each.name == "commucat-journal" and each not in threads
        ]
    # The disk answers after all: the thread ends by itself, and nobody is told twice.
    await trio.to_thread.run_sync(hanging.join)
    await trio.lowlevel.checkpoint()
    assert len(told) == 1


# -- a disk that is full ---------------------------------------------------------------------------

FULL_DISK = """
import json, pathlib, resource, sys, trio
sys.path.insert(0, sys.argv[2])
from commucat_storage import CommitFailedError, open_sqlite
from storage.storage_builders import accepted, add_devices, message

async def main():
    path = pathlib.Path(sys.argv[1])
    numbers, failures, order = [], [], []
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        log = path.with_name(path.name + "-wal")
        limit = log.stat().st_size + 200_000
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

        def done(result):
            if isinstance(result, CommitFailedError):
                failures.append(str(result))
                order.append("failed")
            else:
                numbers.extend(accepted(outcome)["a"] for outcome in result)
                order.append("stored")

        async def sender(name):
            for index in range(10):
                payload = f"{name} {index}".encode() + bytes(900)
                await storage.enqueue([message("a", payload=payload)] * 8, done)
                try:
                    await storage.check()
                except CommitFailedError:
                    pass

        async with trio.open_nursery() as nursery:
            for name in range(4):
                nursery.start_soon(sender, name)
        while_full = len(failures)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await storage.commit([message("a", payload=b"room again")])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender, "again")
    report = {"numbers": numbers, "failures": failures, "while_full": while_full, "told": len(order)}
    print(json.dumps(report))

trio.run(main)
"""


async def test_on_a_full_disk_nothing_is_told_as_stored_and_the_journal_recovers(path: Path) -> None:
    tests = Path(__file__).parents[1]
    result = await trio.run_process(
        [sys.executable, "-c", FULL_DISK, str(path), str(tests)], capture_stdout=True, capture_stderr=True
    )
    report = json.loads(result.stdout)

    assert report["while_full"] > 0
    assert len(report["failures"]) == report["while_full"]
    assert "full or failing" in report["failures"][0]
    assert report["told"] == 50
    # Once for as long as it goes on, not for every group; a small group may fit where a large one did not.
    said = re.findall("a commit failed|takes commits again", result.stderr.decode())
    assert said == ["a commit failed", "takes commits again"] * (len(said) // 2)
    assert 0 < len(said) // 2 < report["while_full"]
    async with open_sqlite(path) as storage:
        rows = await stored(storage, "a")
        assert set(report["numbers"]) == {row.number for row in rows if row.payload != b"room again"}
        assert numbers(rows) == list(range(1, len(rows) + 1))


async def test_on_an_almost_full_disk_messages_are_refused_and_the_rest_goes_on(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"), message("a"))
    async with open_sqlite(path, settings=SqliteSettings(min_free_bytes=2**62)) as storage:
        [outcome] = await send(storage, message("a"))
        assert refused(outcome) == {"a": RefusalReason.DISK_LOW}
        assert await confirm(storage, "a", 1) == ConfirmOutcome(True, 1)
        await storage.admit(new_user("b"))
        with pytest.raises(StorageUnavailableError, match="almost full"):
            await storage.check()


# -- batches that cannot be stored -----------------------------------------------------------------


async def test_a_batch_that_cannot_be_stored_fails_alone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results: dict[str, object] = {}
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        bad = Submission("", 7, 1, "text is no payload", LATER, ("a",))  # type: ignore[arg-type]
        with locked(path):
            # The first is taken at once and waits for the lock; the rest gather behind it.
            for name, batch in (("x", [message("a")]), ("y", [message("a"), bad]), ("z", [message("a")])):
                await storage.enqueue(batch, lambda result, name=name: results.update({name: result}))
        await send(storage, message("a"))

        assert list(results) == ["x", "y", "z"]
        assert isinstance(results["y"], CommitFailedError)
        assert isinstance(results["y"].__cause__, sqlite3.IntegrityError)
        assert isinstance(results["x"], tuple)
        assert isinstance(results["z"], tuple)
        assert numbers(await stored(storage, "a")) == [1, 2, 3]
    assert "a commit failed" in caplog.text


async def test_work_that_is_refused_harms_nothing_in_its_transaction(path: Path) -> None:
    results: list[tuple[Outcome, ...] | CommitFailedError] = []
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b")

        async def refused_work() -> None:
            with pytest.raises(AlreadyExistsError):
                await storage.create_user(user("a"))

        async with trio.open_nursery() as nursery:
            with locked(path):
                # The first waits for the lock; the others gather and become one transaction.
                await storage.enqueue([message("a")], results.append)
                await storage.enqueue([route("a", 7, "x"), message("a")], results.append)
                nursery.start_soon(refused_work)
                await wait_all_tasks_blocked()
                await storage.enqueue([message("a", sender="b"), message("a", sender="x")], results.append)
        await storage.check()

        last = results[2]
        assert isinstance(last, tuple)
        assert refused(last[0]) == {"a": RefusalReason.CHANNEL_CONFLICT}
        assert accepted(last[1]) == {"a": 3}
        assert numbers(await stored(storage, "a")) == [1, 2, 3]


async def test_a_callback_that_raises_harms_nobody_else_and_is_reported_at_the_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []

    def broken(result: object) -> None:
        raise RuntimeError("a bug in the caller")

    async def use() -> None:
        async with open_sqlite(path) as storage:
            await add_devices(storage, "a")
            await storage.enqueue([message("a")], broken)
            await storage.enqueue([message("a")], told.append)
            await send(storage, message("a"))
            assert len(told) == 1

    with pytest.raises(StorageError, match="callback") as raised:
        await use()
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert "a callback of the journal raised" in caplog.text


async def test_if_the_thread_dies_everybody_is_told_and_closing_raises(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def dies(self: object, batch: object) -> None:
        raise SystemExit("out of luck")

    async def use() -> None:
        async with open_sqlite(path) as storage:
            await add_devices(storage, "a")
            monkeypatch.setattr("commucat_storage.applying.Group.apply", dies)
            for _ in range(2):
                with pytest.raises(CommitFailedError, match="died"):
                    await storage.commit([message("a")])

    with pytest.raises(StorageError, match="died") as raised:
        await use()
    assert isinstance(raised.value.__cause__, SystemExit)
    assert "the journal's thread died" in caplog.text


async def test_a_transaction_is_bounded_although_routes_hide_how_many_rows_it_makes(path: Path) -> None:
    names = [f"d{index}" for index in range(30)]
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", *names)
        await send(storage, route("a", 7, *names))
    settings = SqliteSettings(group_rows=60)
    writer = Writer(connect_writer(path, settings), path, settings, Turns())
    entries = [Entry(done=lambda result: None, batch=[by_route("a")]) for _ in range(7)]

    sizes = []
    while entries:
        results = writer.commit(entries)
        sizes.append(len(results))
        entries = entries[len(results) :]
    writer.close()

    assert sizes == [2, 2, 2, 1]


async def test_what_does_not_fit_in_one_transaction_goes_into_the_next(path: Path) -> None:
    names = [f"d{index}" for index in range(30)]
    told: list[object] = []
    async with open_sqlite(path, settings=SqliteSettings(group_rows=60)) as storage:
        await add_devices(storage, "a", *names)
        await send(storage, route("a", 7, *names))
        with locked(path):
            for _ in range(7):
                await storage.enqueue([by_route("a")], told.append)
        await storage.check()

        assert len(told) == 7
        assert numbers(await stored(storage, "d29")) == list(range(1, 8))


async def test_work_sees_the_messages_before_it_and_counts_for_those_after_it(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
    settings = SqliteSettings()
    writer = Writer(connect_writer(path, settings), path, settings, Turns())

    def connects(transaction: Transaction) -> object:
        return admit(transaction, known("a")).inbox.next_number

    batch = Entry(done=lambda result: None, batch=[message("a"), message("a")])
    work = Entry(done=lambda result: None, work=connects)
    first, next_number, last = writer.commit([batch, work, batch])
    writer.close()

    assert [accepted(each)["a"] for each in first] == [1, 2]  # type: ignore[attr-defined]
    assert next_number == 3
    assert [accepted(each)["a"] for each in last] == [3, 4]  # type: ignore[attr-defined]
    async with open_sqlite(path) as storage:
        assert numbers(await stored(storage, "a")) == [1, 2, 3, 4]


# -- closing ---------------------------------------------------------------------------------------


async def test_closing_commits_what_was_taken_even_when_cancelled(path: Path) -> None:
    told: list[object] = []
    with trio.CancelScope() as scope:
        async with open_sqlite(path) as storage:
            await add_devices(storage, "a")
            for _ in range(50):
                await storage.enqueue([message("a")], told.append)
            scope.cancel()
            await trio.lowlevel.checkpoint()

    assert scope.cancelled_caught
    assert len(told) == 50
    async with open_sqlite(path) as storage:
        assert numbers(await stored(storage, "a")) == list(range(1, 51))


async def test_an_error_in_the_body_comes_out_as_it_is(path: Path) -> None:
    with pytest.raises(KeyError):
        async with open_sqlite(path):
            raise KeyError("of the caller")


async def test_reading_from_a_closed_store_is_refused(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")

    with pytest.raises(StorageUnavailableError, match="closed"):
        await storage.known_device("a")
    with pytest.raises(StorageUnavailableError, match="closed"):
        await stored(storage, "a")


# -- other writers ---------------------------------------------------------------------------------


async def test_what_another_process_changes_is_seen_at_once(path: Path) -> None:
    async with open_sqlite(path) as server, open_sqlite(path) as operator:
        [unknown] = await send(server, message("a"))
        await add_devices(operator, "a", "b")
        [known_now] = await send(server, message("a"))
        await send(operator, route("a", 7, "x"))
        [conflict] = await send(server, message("a", sender="b"))
        await operator.revoke_device("a", NOW)
        [gone] = await send(server, message("a"))

    assert refused(unknown) == {"a": RefusalReason.UNKNOWN_DEVICE}
    assert accepted(known_now) == {"a": 1}
    assert refused(conflict) == {"a": RefusalReason.CHANNEL_CONFLICT}
    assert refused(gone) == {"a": RefusalReason.REVOKED}


async def test_two_writers_never_give_out_a_number_twice(path: Path) -> None:
    given: list[int] = []
    async with open_sqlite(path) as one, open_sqlite(path) as other:
        await add_devices(one, "a", "b")

        async def writer(index: int) -> None:
            storage = (one, other)[index % 2]
            for _ in range(5):
                outcomes = await send(storage, message("a"), message("a", "b"))
                given.extend(accepted(each)["a"] for each in outcomes)

        async with trio.open_nursery() as nursery:
            for index in range(6):
                nursery.start_soon(writer, index)
        rows = await stored(one, "a")

    assert sorted(given) == list(range(1, 61))
    assert numbers(rows) == sorted(given)


# -- the end of the numbers ------------------------------------------------------------------------


def move_numbers(path: Path, name: str, by: int) -> None:
    """Pretend that the inbox has had ``by`` more messages, all confirmed."""
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE relay_queue SET position = position + ?1 "
        "WHERE position >> 32 = (SELECT inbox FROM user_device WHERE device_id = ?2)",
        (by, name),
    )
    connection.execute(
        "UPDATE inbox_offset SET next_number = next_number + ?1, confirmed = confirmed + ?1 "
        "WHERE inbox = (SELECT inbox FROM user_device WHERE device_id = ?2)",
        (by, name),
    )
    connection.commit()
    connection.close()


async def test_numbers_near_their_end_give_a_new_epoch_at_the_next_connect(path: Path) -> None:
    async with open_sqlite(path) as storage:
        before = await add_devices(storage, "a", "b")
        await send(storage, *[message("a", "b", payload=str(each).encode()) for each in range(4)])
        await confirm(storage, "a", 1)
        move_numbers(path, "a", RENEWAL_NUMBER)
        assert numbers(await stored(storage, "a"))[0] == RENEWAL_NUMBER + 2

        admitted = await storage.admit(known("a"))
        [outcome] = await send(storage, message("a", "b"))

        assert admitted.inbox.epoch != before["a"].epoch
        assert (admitted.inbox.next_number, admitted.inbox.confirmed) == (4, 0)
        assert accepted(outcome) == {"a": 4, "b": 5}
        rows = await stored(storage, "a")
        assert [(row.number, row.payload) for row in rows][:3] == [(1, b"1"), (2, b"2"), (3, b"3")]
        assert numbers(await stored(storage, "b")) == [1, 2, 3, 4, 5]
        assert (await storage.admit(known("a"))).inbox.epoch == admitted.inbox.epoch
        await confirm(storage, "a", 4)
        await confirm(storage, "b", 5)
    assert sqlite3.connect(path).execute("SELECT count(*) FROM relay_payload").fetchone() == (0,)


async def test_the_last_number_is_given_out_and_then_the_inbox_refuses(path: Path) -> None:
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a")
        move_numbers(path, "a", MAX_INBOX_NUMBER - 1)

        outcomes = await send(storage, message("a"), message("a"))

        assert accepted(outcomes[0]) == {"a": MAX_INBOX_NUMBER}
        assert refused(outcomes[1]) == {"a": RefusalReason.QUOTA}
        assert numbers(await stored(storage, "a")) == [MAX_INBOX_NUMBER]
        await confirm(storage, "a", MAX_INBOX_NUMBER)
        assert (await storage.admit(known("a"))).inbox.next_number == 1
