"""Room in the journal: first come, first served, and nothing taken from whoever gave up."""

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from commucat_storage import CommitFailedError
from commucat_storage.backlog import Backlog


@attrs.frozen
class Box:
    name: str
    rows: int = 1
    size: int = 0


@pytest.fixture
def put() -> list[Box]:
    return []


def backlog_of(put: list[Box], rows: int = 3, size: int = 100) -> Backlog[Box]:
    return Backlog(max_rows=rows, max_bytes=size, put=put.append)


async def test_while_there_is_room_nobody_waits_and_no_other_task_runs(put: list[Box]) -> None:
    backlog = backlog_of(put)
    with trio.testing.assert_no_checkpoints():
        for name in "abc":
            await backlog.enter(Box(name))

    assert [each.name for each in put] == ["a", "b", "c"]
    assert (backlog.rows, backlog.entries) == (3, 3)


async def test_waiters_come_in_in_the_order_of_coming(put: list[Box], nursery: trio.Nursery) -> None:
    backlog = backlog_of(put, rows=1)
    for name in "abcd":
        nursery.start_soon(backlog.enter, Box(name))
        await wait_all_tasks_blocked()
    assert [each.name for each in put] == ["a"]

    for count in range(2, 5):
        backlog.release(put[-1:])
        assert [each.name for each in put] == list("abcd"[:count])


async def test_a_small_one_does_not_overtake_a_large_one(put: list[Box], nursery: trio.Nursery) -> None:
    backlog = backlog_of(put)
    await backlog.enter(Box("first", rows=2))
    nursery.start_soon(backlog.enter, Box("large", rows=3))
    await wait_all_tasks_blocked()
    nursery.start_soon(backlog.enter, Box("small"))
    await wait_all_tasks_blocked()
    assert [each.name for each in put] == ["first"]

    backlog.release(put[:1])
    assert [each.name for each in put] == ["first", "large"]
    backlog.release(put[1:])
    assert [each.name for each in put] == ["first", "large", "small"]


async def test_one_larger_than_the_journal_goes_in_alone(put: list[Box], nursery: trio.Nursery) -> None:
    backlog = backlog_of(put, size=10)
    await backlog.enter(Box("huge", size=11))
    nursery.start_soon(backlog.enter, Box("next", size=1))
    await wait_all_tasks_blocked()
    assert [each.name for each in put] == ["huge"]

    backlog.release(put[:1])
    assert [each.name for each in put] == ["huge", "next"]


async def test_bytes_bound_it_too(put: list[Box], nursery: trio.Nursery) -> None:
    backlog = backlog_of(put, size=10)
    await backlog.enter(Box("a", size=10))
    await backlog.enter(Box("empty", size=0))
    nursery.start_soon(backlog.enter, Box("b", size=1))
    await wait_all_tasks_blocked()

    assert [each.name for each in put] == ["a", "empty"]
    backlog.release(put[:1])


async def test_cancelled_while_waiting_nothing_is_taken_and_the_next_moves_up(
    put: list[Box], nursery: trio.Nursery
) -> None:
    backlog = backlog_of(put)
    await backlog.enter(Box("first", rows=2))
    scope = trio.CancelScope()

    async def large() -> None:
        with scope:
            await backlog.enter(Box("large", rows=3))

    nursery.start_soon(large)
    await wait_all_tasks_blocked()
    nursery.start_soon(backlog.enter, Box("small"))
    await wait_all_tasks_blocked()

    scope.cancel()
    await wait_all_tasks_blocked()

    assert scope.cancelled_caught
    assert [each.name for each in put] == ["first", "small"]


async def test_cancelled_in_the_moment_of_being_let_in_it_is_taken(
    put: list[Box], nursery: trio.Nursery
) -> None:
    backlog = backlog_of(put, rows=1)
    await backlog.enter(Box("first"))
    scope = trio.CancelScope()
    returned = []

    async def waits() -> None:
        with scope:
            await backlog.enter(Box("second"))
            returned.append("second")

    nursery.start_soon(waits)
    await wait_all_tasks_blocked()

    backlog.release(put[:1])
    scope.cancel()
    await wait_all_tasks_blocked()

    # Put means returned: whoever waits must know that it was taken.
    assert [each.name for each in put] == ["first", "second"]
    assert returned == ["second"]


async def test_closing_refuses_those_who_wait_and_those_who_come(put: list[Box]) -> None:
    backlog = backlog_of(put, rows=1)
    await backlog.enter(Box("a"))
    errors: list[str] = []

    async def waits(name: str) -> None:
        try:
            await backlog.enter(Box(name))
        except CommitFailedError as exc:
            errors.append(str(exc))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits, "b")
        nursery.start_soon(waits, "c")
        await wait_all_tasks_blocked()
        backlog.close("closed for a reason")
    await waits("d")

    assert errors == ["closed for a reason"] * 3
    assert [each.name for each in put] == ["a"]


async def test_who_was_cancelled_gets_no_room_that_is_given_back_in_the_same_moment(
    put: list[Box], nursery: trio.Nursery
) -> None:
    backlog = backlog_of(put, rows=1)
    await backlog.enter(Box("first"))
    scope = trio.CancelScope()

    async def waits() -> None:
        with scope:
            await backlog.enter(Box("cancelled"))

    nursery.start_soon(waits)
    await wait_all_tasks_blocked()
    nursery.start_soon(backlog.enter, Box("next"))
    await wait_all_tasks_blocked()

    scope.cancel()
    # The journal tells what is on disk before the cancelled task has its turn.
    backlog.release(put[:1])
    await wait_all_tasks_blocked()

    assert scope.cancelled_caught
    assert [each.name for each in put] == ["first", "next"]
