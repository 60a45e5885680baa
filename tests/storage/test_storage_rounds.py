"""Whoever collects what a commit brings learns when it is told, and when all of it was. For every backend."""

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from commucat_storage import CommitFailedError, Outcome, SqliteSettings, StorageError, open_sqlite
from storage.storage_builders import add_devices, message, send

if TYPE_CHECKING:
    from storage.conftest import Backend


async def test_outcomes_are_told_between_begin_and_end(backend: "Backend") -> None:
    calls: list[str] = []
    async with backend.open() as storage:
        await add_devices(storage, "a")
        storage.on_rounds(lambda: calls.append("begin"), lambda: calls.append("end"))
        told = trio.Event()

        def done(result: tuple[Outcome, ...] | CommitFailedError) -> None:
            assert isinstance(result, tuple)
            calls.append("done")
            told.set()

        for _ in range(3):
            await storage.enqueue([message("a")], done)
        await told.wait()
        await send(storage, message("a"))
    assert calls.count("done") == 3
    assert calls[:2] == ["begin", "done"]
    # Never a nested or an unfinished round, and nothing told outside of one.
    depth = 0
    for call in calls:
        depth += {"begin": 1, "end": -1}.get(call, 0)
        assert depth == (0 if call == "end" else 1)


async def test_a_callback_that_raises_does_not_leave_a_round_open(backend: "Backend") -> None:
    calls: list[str] = []

    def broken(result: object) -> None:
        raise ValueError("broken")

    async def use() -> None:
        async with backend.open() as storage:
            await add_devices(storage, "a")
            storage.on_rounds(lambda: calls.append("begin"), lambda: calls.append("end"))
            await storage.enqueue([message("a")], broken)
            await send(storage, message("a"))

    with pytest.raises(StorageError, match="callback"):
        await use()
    assert calls
    assert calls == ["begin", "end"] * (len(calls) // 2)


async def test_what_is_on_disk_is_told_without_a_turn_of_the_event_loop(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db") as storage:
        await add_devices(storage, "a")
        told: list[object] = []
        assert storage.enqueue_now([message("a")], told.append)
        assert storage.enqueue_now([message("a")], told.append)
        while len(told) < 2:
            storage.attend()
        # And not once more when the loop has its turn.
        await send(storage, message("a"))
        assert len(told) == 2


class Told:
    """What somebody wants to be called when his message is stored."""

    def __init__(self) -> None:
        self.happened = trio.Event()

    def __call__(self, result: object) -> None:
        self.happened.set()


async def test_nothing_of_a_group_is_kept_until_the_next_one(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store.db") as storage:
        await add_devices(storage, "a")
        told = Told()
        kept = weakref.ref(told)
        await storage.enqueue([message("a")], told)
        await told.happened.wait()
        del told
        with trio.fail_after(60):
            while kept() is not None:
                await trio.lowlevel.checkpoint()


async def test_nothing_is_told_within_what_is_being_told(tmp_path: Path) -> None:
    depth = deepest = 0
    told: list[object] = []

    async with open_sqlite(tmp_path / "store.db") as storage:
        await add_devices(storage, "a")

        def done(result: object) -> None:
            nonlocal depth, deepest
            depth += 1
            deepest = max(deepest, depth)
            for _ in range(100):
                storage.attend()
            depth -= 1
            told.append(result)

        for _ in range(20):
            assert storage.enqueue_now([message("a")], done)
        while len(told) < 20:
            storage.attend()
    assert deepest == 1


async def test_between_two_groups_everybody_else_has_a_turn(tmp_path: Path) -> None:
    told: list[object] = []
    groups: list[int] = []

    async with open_sqlite(tmp_path / "store.db", settings=SqliteSettings(group_rows=10)) as storage:
        await add_devices(storage, "a")

        def done(result: object) -> None:
            if not told:
                # Meanwhile the writer commits what is behind it.
                while not storage._journal._posted:  # type: ignore[attr-defined]
                    os.sched_yield()
            told.append(result)

        for _ in range(200):
            assert storage.enqueue_now([message("a")], done)
        while len(told) < 200:
            await trio.lowlevel.checkpoint()
            groups.append(len(told))
    assert groups[0] < 200
