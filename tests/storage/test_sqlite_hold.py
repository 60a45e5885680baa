"""Confirmations that wait for company: for how long, for how many, and what ends it."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from commucat_storage import CommitFailedError, Confirm, ConfirmOutcome, Outcome, SqliteSettings, open_sqlite
from commucat_storage.interface import Done, Storage
from commucat_storage.sqlite.hold import Hold
from storage.storage_builders import accepted, add_devices, confirm, message, numbers, send, stored


@attrs.frozen
class Item:
    name: str
    rows: int = 1
    size: int = 0


@pytest.fixture
async def released() -> list[str]:
    return []


def holder(released: list[str], *, delay: float = 1.0, most_rows: int = 10) -> Hold[Item]:
    return Hold(delay, most_rows, lambda items: released.extend(item.name for item in items))


# -- the waiting room itself -----------------------------------------------------------------------


async def test_everything_goes_when_the_first_has_waited_long_enough(
    released: list[str], mock_clock: MockClock
) -> None:
    hold = holder(released)
    hold.add(Item("first"))
    await wait_all_tasks_blocked()
    mock_clock.jump(0.75)
    hold.add(Item("second"))
    await wait_all_tasks_blocked()
    assert released == []

    mock_clock.jump(0.25)
    await wait_all_tasks_blocked()
    assert released == ["first", "second"]
    hold.close()


async def test_what_comes_after_a_release_has_its_own_time(
    released: list[str], mock_clock: MockClock
) -> None:
    hold = holder(released)
    hold.add(Item("first"))
    await wait_all_tasks_blocked()
    mock_clock.jump(0.75)
    hold.let_go()
    hold.add(Item("second"))
    mock_clock.jump(0.5)
    await wait_all_tasks_blocked()
    assert released == ["first"]

    mock_clock.jump(0.5)
    await wait_all_tasks_blocked()
    assert released == ["first", "second"]
    hold.close()


async def test_many_rows_go_at_once(released: list[str]) -> None:
    hold = holder(released, most_rows=5)
    hold.add(Item("small", rows=2))
    assert released == []
    hold.add(Item("large", rows=3))
    assert released == ["small", "large"]
    hold.close()


async def test_closing_releases_what_is_held_and_what_still_comes(released: list[str]) -> None:
    hold = holder(released)
    hold.add(Item("held"))
    hold.close()
    hold.add(Item("late"))
    assert released == ["held", "late"]


# -- in the journal --------------------------------------------------------------------------------


@attrs.define
class Told:
    """Outcomes in the order in which they were told."""

    outcomes: list[Outcome] = attrs.Factory(list)

    def done(self, note: Callable[[], None] = lambda: None) -> Done:
        def take(result: tuple[Outcome, ...] | CommitFailedError) -> None:
            assert isinstance(result, tuple)
            self.outcomes += result
            note()

        return take


async def epoch_of(storage: Storage, name: str) -> str:
    state = await storage.inbox_state(name)
    assert state is not None
    return state.epoch


NEVER = SqliteSettings(confirm_delay=1e9)


async def test_a_confirmation_waits_for_a_message_and_is_told_before_it(tmp_path: Path) -> None:
    told = Told()
    async with open_sqlite(tmp_path / "store.db", settings=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done())
        assert numbers(await stored(storage, "a")) == [1]  # a read is not what it waits for
        assert told.outcomes == []

        [submitted] = await send(storage, message("a"))
        assert told.outcomes == [ConfirmOutcome(True, 1)]
        assert accepted(submitted) == {"a": 2}
        assert numbers(await stored(storage, "a")) == [2]


async def test_whoever_waits_for_the_outcome_can_hurry_it(tmp_path: Path) -> None:
    told, answered = Told(), trio.Event()
    async with open_sqlite(tmp_path / "store.db", settings=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done(answered.set))
        storage.hurry()
        await answered.wait()
        assert told.outcomes == [ConfirmOutcome(True, 1)]
        assert await stored(storage, "a") == ()


async def test_without_a_message_it_goes_alone_after_the_delay(tmp_path: Path) -> None:
    told, answered = Told(), trio.Event()
    async with open_sqlite(tmp_path / "store.db", settings=SqliteSettings(confirm_delay=0.001)) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done(answered.set))
        await answered.wait()
        assert told.outcomes == [ConfirmOutcome(True, 1)]


async def test_a_caller_that_waits_is_never_held_up(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db", settings=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        assert await confirm(storage, "a", 1) == ConfirmOutcome(True, 1)


async def test_closing_the_store_commits_what_was_held(tmp_path: Path) -> None:
    told = Told()
    async with open_sqlite(tmp_path / "store.db", settings=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done())
    assert told.outcomes == [ConfirmOutcome(True, 1)]
    async with open_sqlite(tmp_path / "store.db") as storage:
        assert await stored(storage, "a") == ()


async def test_a_journal_full_of_held_confirmations_lets_a_message_in(tmp_path: Path) -> None:
    settings = SqliteSettings(confirm_delay=1e9, journal_rows=4)
    told = Told()
    async with open_sqlite(tmp_path / "store.db", settings=settings) as storage:
        await add_devices(storage, "a")
        epoch = await epoch_of(storage, "a")
        for _ in range(4):
            await storage.enqueue([Confirm("a", epoch, 0)], told.done())
        [submitted] = await send(storage, message("a"))
        assert accepted(submitted) == {"a": 1}
        assert told.outcomes == [ConfirmOutcome(True, 0)] * 4


# -- counts, when messages and their confirmation share a transaction ------------------------------


async def counts(path: Path) -> tuple[int, ...]:
    """Rows, bytes and shared rows of the only inbox that is not empty, as stored and as they are."""
    with sqlite3.connect(path) as connection:
        said = connection.execute("SELECT sum(rows), sum(bytes), sum(shared) FROM inbox_offset").fetchone()
        true = connection.execute(
            "SELECT count(*), coalesce(sum(size), 0), count(payload_id) FROM relay_queue"
        ).fetchone()
    connection.close()
    assert said == true
    return tuple(said)


async def test_counts_stay_true_however_confirmations_and_messages_mix(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with open_sqlite(path) as storage:
        await add_devices(storage, "a", "b")
        a = await epoch_of(storage, "a")
        await send(storage, message("a"), message("a", "b", payload=b"shared"))
        # All of it, then more, of which a part.
        await send(storage, Confirm("a", a, 2), message("a"), message("a", "b"), Confirm("a", a, 3))
        assert await counts(path) == (3, 14, 3)
        # A part, then all, then more.
        await send(storage, message("a"), Confirm("a", a, 4), Confirm("a", a, 5), message("a", payload=b"x"))
        assert await counts(path) == (3, 11, 2)
        await send(storage, Confirm("b", await epoch_of(storage, "b"), 2), Confirm("a", a, 6))
        assert await counts(path) == (0, 0, 0)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM relay_payload").fetchone() == (0,)
    connection.close()
