"""When a busy event loop gives way to the threads of the store."""

import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from commucat_storage import Resolve, Storage, open_sqlite
from commucat_storage.sqlite.journal import Journal
from commucat_storage.sqlite.turns import (
    BACK_SECONDS,
    MOST_VAIN_SECONDS,
    OTHER_SECONDS,
    VAIN_SECONDS,
    WAKING_SECONDS,
    WRITER_SECONDS,
    Turns,
)


class Recorded(Turns):
    """Notes for how long it would have given way, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 1.0
        super().__init__(lambda: self.now)
        self.given: list[float] = []

    def give_way(self, seconds: float) -> None:
        self.given.append(seconds)


@pytest.fixture
def turns() -> Recorded:
    return Recorded()


def test_without_work_for_the_store_the_loop_goes_on(turns: Recorded) -> None:
    turns.before_io_wait(0)

    assert turns.given == []


def test_a_loop_with_idle_time_does_not_give_way(turns: Recorded) -> None:
    turns.wanted()
    turns.computes()
    turns.before_io_wait(0.001)

    assert turns.given == []


def test_a_computing_writer_gets_a_turn_in_every_pass(turns: Recorded) -> None:
    turns.wanted()
    turns.computes()
    turns.before_io_wait(0)
    turns.before_io_wait(0)

    assert turns.given == [WRITER_SECONDS] * 2


def test_a_writer_at_the_disk_gets_a_short_turn_now_and_then(turns: Recorded) -> None:
    turns.computes()
    turns.waits()
    for _ in range(3):
        turns.before_io_wait(0)

    assert turns.given[0] == OTHER_SECONDS
    assert WRITER_SECONDS not in turns.given


def test_an_idle_writer_gets_none(turns: Recorded) -> None:
    turns.computes()
    turns.waits()
    turns.computes()
    turns.idle()
    turns.before_io_wait(0)

    assert turns.given == []


def test_readers_get_short_turns_as_long_as_they_read(turns: Recorded) -> None:
    with turns.reading():
        turns.before_io_wait(0)
    turns.before_io_wait(0)

    assert turns.given == [OTHER_SECONDS]


def commits(turns: Turns) -> None:
    turns.computes()
    turns.syncs()


def test_a_writer_at_the_disk_is_given_way_to_when_it_can_be_back(turns: Recorded) -> None:
    for _ in range(300):
        commits(turns)
        turns.now += 0.002
    commits(turns)
    turns.now += 0.001
    turns.between()
    assert turns.given == []
    turns.now += 0.001
    turns.between()
    turns.between()
    assert turns.given == [BACK_SECONDS]
    turns.now += VAIN_SECONDS
    turns.between()
    assert turns.given == [BACK_SECONDS] * 2


def test_a_disk_that_stands_still_is_asked_less_and_less(turns: Recorded) -> None:
    commits(turns)
    for _ in range(10_000):
        turns.now += 0.0001
        turns.between()
    assert len(turns.given) < 1 / MOST_VAIN_SECONDS + 10


def test_a_writer_that_was_there_says_itself_when_it_comes_again() -> None:
    class Quick(Recorded):
        def give_way(self, seconds: float) -> None:
            super().give_way(seconds)
            commits(self)

    turns = Quick()
    commits(turns)
    turns.now += WRITER_SECONDS
    turns.between()
    turns.now += VAIN_SECONDS
    turns.between()
    assert turns.given == [BACK_SECONDS]


def test_a_writer_that_has_something_to_do_is_given_way_to_when_it_can_have_woken_up(turns: Recorded) -> None:
    turns.wanted()
    turns.between()
    assert turns.given == []
    turns.now += WAKING_SECONDS
    turns.wanted()  # More of it changes nothing.
    turns.between()
    assert turns.given == [BACK_SECONDS]


def test_only_an_idle_writer_is_handed_the_interpreter(turns: Recorded) -> None:
    assert turns.wanted()
    assert not turns.wanted()
    turns.idle()
    assert turns.wanted()


async def test_an_idle_writer_begins_at_once_but_not_while_the_loop_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[str] = []
    at = "outside"

    class Noted(Turns):
        def hand_over(self) -> None:
            handed.append(at)
            super().hand_over()

    monkeypatch.setattr("commucat_storage.sqlite.storage.Turns", Noted)
    async with open_sqlite(tmp_path / "store.db") as storage:
        told = trio.Event()

        def ask_again(result: object) -> None:
            nonlocal at
            at = "within"
            storage.enqueue_now([Resolve("nobody", 1)], lambda result: told.set())
            at = "outside"

        assert storage.enqueue_now([Resolve("nobody", 1)], ask_again)
        with trio.fail_after(60):
            await told.wait()
    assert handed == ["outside"]


class Asking(Turns):
    """Asks the store something while the loop looks, and looks until the writer has answered."""

    ask: Callable[[], None] | None = None
    interrupted = False

    def between(self) -> None:
        if self.ask is not None:
            self.ask()
        if self.interrupted:
            raise KeyboardInterrupt


@asynccontextmanager
async def asking(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Storage, list[str]]]:
    """A store that is asked at the next look of the loop, and a list of what happens then."""
    made = Asking()
    monkeypatch.setattr("commucat_storage.sqlite.storage.Turns", lambda: made)
    happened: list[str] = []
    async with open_sqlite(path / "store.db") as storage:
        journal = storage._journal
        assert isinstance(journal, Journal)
        wake = journal._wake

        def noted_wake() -> None:
            happened.append("woken")
            wake()

        def ask() -> None:
            made.ask = None
            assert storage.enqueue_now([Resolve("nobody", 1)], lambda result: happened.append("told"))
            while not journal._posted:
                time.sleep(0)

        monkeypatch.setattr(journal, "_wake", noted_wake)
        made.ask = ask
        yield storage, happened


async def test_what_comes_while_the_loop_looks_is_told_at_once_and_wakes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, monkeypatch) as (storage, happened):
        storage.attend()
        assert happened == ["told"]


async def test_an_interrupted_look_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asking, "interrupted", True)
    async with asking(tmp_path, monkeypatch) as (storage, happened):
        with pytest.raises(KeyboardInterrupt):
            storage.attend()
        monkeypatch.setattr(Asking, "interrupted", False)
        assert happened == ["told"]
        await storage.settle()
        assert happened == ["told", "woken"]


def test_between_pieces_of_work_an_idle_writer_gets_no_turn(turns: Recorded) -> None:
    commits(turns)
    turns.computes()
    turns.idle()
    turns.now += 1
    turns.between()

    assert turns.given == []


def test_an_end_that_nobody_waited_for_does_not_end_the_next_turn() -> None:
    turns = Turns()
    turns.computes()
    turns.waits()
    turns.computes()

    assert turns._turn.locked()


def test_the_writer_ends_its_turn_early_from_its_own_thread() -> None:
    turns = Turns()
    turns.computes()

    def write() -> None:
        while not turns.giving:
            os.sched_yield()
        turns.waits()

    writer = threading.Thread(target=write)
    writer.start()
    # Ends with the writer's word and not after a minute, which pytest would not survive.
    turns.give_way(60)
    writer.join()


async def test_the_store_takes_its_turns_away_when_it_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Recorded] = []

    class Noted(Recorded):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr("commucat_storage.sqlite.storage.Turns", Noted)
    async with open_sqlite(tmp_path / "store.db") as storage:
        await storage.check()
    with pytest.raises(KeyError):
        trio.lowlevel.remove_instrument(made[0])
