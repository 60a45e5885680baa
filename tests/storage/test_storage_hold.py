"""Confirmations that wait for company: for how long, for how many, and what ends it. For every backend."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from commucat_storage import (
    CommitFailedError,
    Confirm,
    ConfirmOutcome,
    Outcome,
    Resolve,
    SqliteSettings,
    open_sqlite,
)
from commucat_storage.hold import Hold
from commucat_storage.interface import Done, Storage
from storage.storage_builders import accepted, add_devices, confirm, locked, message, numbers, send, stored

if TYPE_CHECKING:
    from storage.conftest import Backend


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


NEVER = 10**9  # seconds


async def test_a_confirmation_waits_for_a_message_and_is_told_before_it(backend: "Backend") -> None:
    told = Told()
    async with backend.open(confirm_delay=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done())
        assert numbers(await stored(storage, "a")) == [1]  # a read is not what it waits for
        assert told.outcomes == []

        [submitted] = await send(storage, message("a"))
        assert told.outcomes == [ConfirmOutcome(True, 1)]
        assert accepted(submitted) == {"a": 2}
        assert numbers(await stored(storage, "a")) == [2]


async def test_a_question_is_no_company(backend: "Backend") -> None:
    """A commit for the confirmation alone would keep a message that comes meanwhile waiting."""
    told, asked, answered = Told(), Told(), trio.Event()
    async with backend.open(confirm_delay=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done())
        await storage.enqueue([Resolve("a", 7), Resolve("a", 8)], asked.done(answered.set))
        await answered.wait()
        assert len(asked.outcomes) == 2
        assert told.outcomes == []
        assert numbers(await stored(storage, "a")) == [1]


async def test_whoever_waits_for_the_outcome_can_hurry_it(backend: "Backend") -> None:
    told, answered = Told(), trio.Event()
    async with backend.open(confirm_delay=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done(answered.set))
        storage.hurry()
        await answered.wait()
        assert told.outcomes == [ConfirmOutcome(True, 1)]
        assert await stored(storage, "a") == ()


async def test_without_a_message_it_goes_alone_after_the_delay(backend: "Backend") -> None:
    told, answered = Told(), trio.Event()
    async with backend.open(confirm_delay=0) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done(answered.set))
        await answered.wait()
        assert told.outcomes == [ConfirmOutcome(True, 1)]


async def test_a_caller_that_waits_is_never_held_up(backend: "Backend") -> None:
    async with backend.open(confirm_delay=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        assert await confirm(storage, "a", 1) == ConfirmOutcome(True, 1)


async def test_closing_the_store_commits_what_was_held(backend: "Backend") -> None:
    told = Told()
    async with backend.open(confirm_delay=NEVER) as storage:
        await add_devices(storage, "a")
        await send(storage, message("a"))
        await storage.enqueue([Confirm("a", await epoch_of(storage, "a"), 1)], told.done())
    assert told.outcomes == [ConfirmOutcome(True, 1)]
    async with backend.open() as storage:
        assert await stored(storage, "a") == ()


async def test_a_journal_full_of_held_confirmations_lets_a_message_in(backend: "Backend") -> None:
    told = Told()
    async with backend.open(confirm_delay=NEVER, journal_rows=4) as storage:
        await add_devices(storage, "a")
        epoch = await epoch_of(storage, "a")
        for _ in range(4):
            await storage.enqueue([Confirm("a", epoch, 0)], told.done())
        [submitted] = await send(storage, message("a"))
        assert accepted(submitted) == {"a": 1}
        assert told.outcomes == [ConfirmOutcome(True, 0)] * 4


async def test_a_confirmation_does_not_wait_while_somebody_waits_for_its_room(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The disk stalls meanwhile, so that all of them queue up before the journal."""
    settings = SqliteSettings(confirm_delay=1e9, journal_rows=2)
    path, told, stored_now = tmp_path / "store.db", Told(), trio.Event()
    async with open_sqlite(path, settings=settings) as storage:
        await add_devices(storage, "a")
        epoch = await epoch_of(storage, "a")

        async def submit() -> None:
            await send(storage, message("a"))
            stored_now.set()

        with locked(path):
            await storage.enqueue([message("a"), message("a")], told.done())
            for _ in range(2):
                nursery.start_soon(storage.enqueue, [Confirm("a", epoch, 0)], told.done())
                await wait_all_tasks_blocked()
            nursery.start_soon(submit)
            await wait_all_tasks_blocked()
        with trio.fail_after(60):
            await stored_now.wait()
        assert told.outcomes[2:] == [ConfirmOutcome(True, 0)] * 2


# -- counts, when messages and their confirmation share a transaction ------------------------------


def counts(backend: "Backend") -> tuple[int, ...]:
    """Rows, bytes and shared rows of all inboxes, as stored and as they are."""
    said = backend.numbers("SELECT sum(rows), sum(bytes), sum(shared) FROM inbox_offset")
    assert said == backend.numbers(
        "SELECT count(*), coalesce(sum(size), 0), count(payload_id) FROM relay_queue"
    )
    return said[0]


async def test_counts_stay_true_however_confirmations_and_messages_mix(backend: "Backend") -> None:
    async with backend.open() as storage:
        await add_devices(storage, "a", "b")
        a = await epoch_of(storage, "a")
        await send(storage, message("a"), message("a", "b", payload=b"shared"))
        # All of it, then more, of which a part.
        await send(storage, Confirm("a", a, 2), message("a"), message("a", "b"), Confirm("a", a, 3))
        assert counts(backend) == (3, 14, 3)
        # A part, then all, then more.
        await send(storage, message("a"), Confirm("a", a, 4), Confirm("a", a, 5), message("a", payload=b"x"))
        assert counts(backend) == (3, 11, 2)
        await send(storage, Confirm("b", await epoch_of(storage, "b"), 2), Confirm("a", a, 6))
        assert counts(backend) == (0, 0, 0)
    assert backend.numbers("SELECT count(*) FROM relay_payload") == [(0,)]
