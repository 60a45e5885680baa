"""Connects gather: those that come while the event loop is busy share a commit, and a look at the store."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from commucat_storage import CommitFailedError, Confirm, ConfirmOutcome, Outcome, SqliteSettings, open_sqlite
from commucat_storage.idle import MOST_GATHERED, until_idle
from commucat_storage.interface import Storage
from commucat_storage.sqlite.joint_reads import JointReads
from commucat_storage.sqlite.reads import ReaderPool
from commucat_storage.sqlite.turns import Turns
from storage.storage_builders import accepted, add_devices, known, locked, message, new_user, send

NEVER = 10**9  # seconds


@attrs.define
class Work:
    """A task that always has something to do."""

    ended: bool = False

    async def go_on(self) -> None:
        while not self.ended:
            await trio.lowlevel.checkpoint()

    async def passes(self, count: int) -> None:
        for _ in range(count):
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def busy() -> AsyncIterator[Work]:
    work = Work()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.go_on)
        try:
            yield work
        finally:
            work.ended = True


def commits(storage: Storage) -> int:
    return sum(storage.commit_times.counts)


# -- waiting for an idle moment -------------------------------------------------------------------------


async def test_nobody_is_waited_for_when_nobody_is_busy(mock_clock: MockClock) -> None:
    await until_idle(NEVER)
    assert trio.current_time() == 0


async def test_an_idle_moment_is_waited_for_until_a_time(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    back: list[float] = []

    async def wait() -> None:
        await until_idle(2.0)
        back.append(trio.current_time())

    async with busy() as work:
        nursery.start_soon(wait)
        await work.passes(100)
        assert back == []
        mock_clock.jump(2.0)
        await work.passes(5)
        assert back == [2.0]


# -- admissions -----------------------------------------------------------------------------------------


async def test_admissions_of_a_busy_moment_are_one_commit(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db", settings=SqliteSettings(gather_delay=NEVER)) as storage:
        await add_devices(storage, "a", "b", "c")
        before = commits(storage)
        async with trio.open_nursery() as nursery, busy() as work:
            for name in ("a", "b", "c"):
                nursery.start_soon(storage.admit, known(name))
                await work.passes(20)
            assert storage.waiting_rows == 3
            assert commits(storage) == before
            work.ended = True
        assert commits(storage) == before + 1


async def test_a_lone_admission_waits_for_nobody(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db", settings=SqliteSettings(gather_delay=NEVER)) as storage:
        admitted = await storage.admit(new_user("a"))
        assert admitted.device.device_id == "a"


async def test_an_admission_does_not_wait_longer_than_its_time(tmp_path: Path) -> None:
    settings = SqliteSettings(gather_delay=0)
    async with open_sqlite(tmp_path / "store.db", settings=settings) as storage, busy():
        await storage.admit(new_user("a"))


async def test_what_is_committed_meanwhile_takes_admissions_along_in_their_order(tmp_path: Path) -> None:
    """A message to a device that has just come in would be refused before its admission."""
    async with open_sqlite(tmp_path / "store.db", settings=SqliteSettings(gather_delay=NEVER)) as storage:
        await add_devices(storage, "a")
        before = commits(storage)
        async with trio.open_nursery() as nursery, busy() as work:
            nursery.start_soon(storage.admit, new_user("b"))
            await work.passes(20)
            [submitted] = await send(storage, message("b", sender="a"))
        assert accepted(submitted) == {"b": 1}
        assert commits(storage) == before + 1


async def test_admissions_take_confirmations_along(tmp_path: Path) -> None:
    settings = SqliteSettings(confirm_delay=NEVER, gather_delay=NEVER)
    told: list[Outcome] = []

    def done(result: tuple[Outcome, ...] | CommitFailedError) -> None:
        assert isinstance(result, tuple)
        told.extend(result)

    async with open_sqlite(tmp_path / "store.db", settings=settings) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        state = await storage.inbox_state("a")
        assert state is not None
        await storage.enqueue([Confirm("a", state.epoch, 1)], done)
        await storage.admit(known("a"))
        assert told == [ConfirmOutcome(True, 1)]


async def test_confirmations_whose_time_is_over_take_admissions_along(tmp_path: Path) -> None:
    settings = SqliteSettings(confirm_delay=0, gather_delay=NEVER)
    path, told = tmp_path / "store.db", trio.Event()
    async with open_sqlite(path, settings=settings) as storage:
        await add_devices(storage, "a")
        state = await storage.inbox_state("a")
        assert state is not None
        before = commits(storage)
        async with trio.open_nursery() as nursery, busy() as work:
            nursery.start_soon(storage.admit, known("a"))
            await work.passes(20)
            await storage.enqueue([Confirm("a", state.epoch, 0)], lambda result: told.set())
            await told.wait()
            assert storage.waiting_rows == 0
            assert commits(storage) == before + 1


async def test_closing_the_store_commits_admissions_that_gather(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    settings = SqliteSettings(gather_delay=NEVER)
    async with (
        trio.open_nursery() as nursery,
        busy() as work,
        open_sqlite(path, settings=settings) as storage,
    ):
        nursery.start_soon(storage.admit, new_user("a"))
        await work.passes(20)
        assert commits(storage) == 0
    async with open_sqlite(path) as storage:
        assert await storage.known_device("a") is not None


async def test_an_admission_does_not_wait_while_somebody_waits_for_its_room(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with open_sqlite(path, settings=SqliteSettings(gather_delay=NEVER, journal_rows=2)) as storage:
        await add_devices(storage, "a", "b", "c")
        async with trio.open_nursery() as nursery, busy() as work:
            with locked(path):
                for name in ("a", "b", "c"):
                    nursery.start_soon(storage.admit, known(name))
                    await work.passes(20)
            with trio.fail_after(60):
                await send(storage, message("a"))


async def test_an_admission_that_nobody_waits_for_any_more_is_harmless(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db", settings=SqliteSettings(gather_delay=NEVER)) as storage:
        async with busy() as work:
            with trio.move_on_after(0):
                await storage.admit(new_user("a"))
            await work.passes(20)
        assert (await storage.admit(known("a"))).device.device_id == "a"


# -- looks at the store -----------------------------------------------------------------------------------


@attrs.define
class Visits:
    """The keys of each visit to a reader's thread."""

    keys: list[list[str]] = attrs.Factory(list)

    def read(self, connection: sqlite3.Connection, keys: Sequence[str]) -> list[str]:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        self.keys.append(list(keys))
        return [key.upper() for key in keys]


@pytest.fixture
async def readers(tmp_path: Path) -> AsyncIterator[ReaderPool]:
    path = tmp_path / "store.db"
    async with open_sqlite(path):
        pool = ReaderPool(path, SqliteSettings(), Turns())
        yield pool
        pool.close()


async def test_questions_of_a_busy_moment_are_one_visit(readers: ReaderPool) -> None:
    visits, answers = Visits(), {}
    joint = JointReads[str, str](readers, visits.read, NEVER)

    async def ask(key: str) -> None:
        answers[key] = await joint.ask(key)

    async with trio.open_nursery() as nursery, busy() as work:
        for key in ("a", "b", "c"):
            nursery.start_soon(ask, key)
            await work.passes(20)
        assert visits.keys == []
    assert answers == {"a": "A", "b": "B", "c": "C"}
    assert [sorted(keys) for keys in visits.keys] == [["a", "b", "c"]]


async def test_a_question_waits_no_longer_than_its_time(readers: ReaderPool) -> None:
    joint = JointReads[str, str](readers, Visits().read, 0)
    async with busy():
        assert await joint.ask("a") == "A"


async def test_who_gathers_and_is_cancelled_leaves_the_others_their_answer(readers: ReaderPool) -> None:
    visits, answers = Visits(), []
    joint = JointReads[str, str](readers, visits.read, NEVER)
    first = trio.CancelScope()

    async def ask_first() -> None:
        with first:
            await joint.ask("a")

    async def ask_second() -> None:
        answers.append(await joint.ask("b"))

    async with trio.open_nursery() as nursery, busy() as work:
        nursery.start_soon(ask_first)
        await work.passes(20)
        nursery.start_soon(ask_second)
        await work.passes(20)
        first.cancel()
        await work.passes(20)
    assert answers == ["B"]
    assert visits.keys == [["b"]]


async def test_as_many_questions_as_fit_wait_for_no_more(readers: ReaderPool) -> None:
    visits = Visits()
    joint = JointReads[str, str](readers, visits.read, NEVER)
    async with trio.open_nursery() as nursery, busy() as work:
        for number in range(MOST_GATHERED):
            nursery.start_soon(joint.ask, str(number))
            await work.passes(2)
        while not visits.keys:
            await trio.lowlevel.checkpoint()
        assert [len(keys) for keys in visits.keys] == [MOST_GATHERED]


async def test_the_oldest_question_says_how_long_a_visit_waits(
    readers: ReaderPool, mock_clock: MockClock
) -> None:
    """Also when those who were about to go are cancelled."""
    visits = Visits()
    joint = JointReads[str, str](readers, visits.read, 1.0)
    first = trio.CancelScope()

    async def ask_first() -> None:
        with first:
            await joint.ask("a")

    async with trio.open_nursery() as nursery, busy() as work:
        nursery.start_soon(ask_first)
        await work.passes(5)
        mock_clock.jump(0.5)
        nursery.start_soon(joint.ask, "b")
        await work.passes(5)
        mock_clock.jump(0.4)
        first.cancel()
        await work.passes(20)
        mock_clock.jump(0.5)
        await work.passes(20)
        assert visits.keys == []
        mock_clock.jump(0.1)
        while not visits.keys:
            await trio.lowlevel.checkpoint()
    assert visits.keys == [["b"]]
