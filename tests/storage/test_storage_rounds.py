"""Whoever collects what a commit brings learns when it is told, and when all of it was. For every backend."""

from typing import TYPE_CHECKING

import pytest
import trio

from commucat_storage import CommitFailedError, Outcome, StorageError
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
