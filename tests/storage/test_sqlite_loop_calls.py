"""What the writer's thread has the event loop call."""

import os
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from commucat_storage.sqlite.loop_calls import LoopCalls

MORE_THAN_A_PIPE_HOLDS = 70_000


def nothing() -> None:
    """Where nobody is waited for."""


async def test_calls_of_a_thread_are_made_in_the_loop_in_their_order() -> None:
    calls = LoopCalls()
    seen: list[tuple[int, int]] = []
    done = trio.Event()

    def note(number: int) -> None:
        seen.append((number, threading.get_ident()))
        if number == 9:
            done.set()

    def work() -> None:
        for number in range(10):
            assert calls.post(note, number)
        calls.end()

    thread = threading.Thread(target=work)
    thread.start()
    with trio.fail_after(60):
        await done.wait()
    thread.join()

    assert seen == [(number, threading.get_ident()) for number in range(10)]


async def test_what_comes_while_the_loop_looks_needs_no_wake_up() -> None:
    calls = LoopCalls()
    seen: list[str] = []
    calls.look(lambda: calls.post(seen.append, "at once") and None)

    assert seen == ["at once"]
    with pytest.raises(BlockingIOError):
        os.read(calls._reader, 1)
    calls.end()


async def test_a_loop_that_looks_first_takes_the_wake_up_back() -> None:
    calls = LoopCalls()
    seen: list[str] = []
    calls.post(seen.append, "first")
    waits: list[None] = []
    calls.look(lambda: waits.append(None))

    assert (seen, waits) == (["first"], [])
    with pytest.raises(BlockingIOError):
        os.read(calls._reader, 1)
    calls.post(seen.append, "second")
    await wait_all_tasks_blocked()
    assert seen == ["first", "second"]
    calls.end()


async def test_nothing_is_called_from_within_a_call() -> None:
    calls = LoopCalls()
    seen: list[str] = []

    def outer() -> None:
        assert calls.calling
        calls.post(seen.append, "inner")
        calls.look(lambda: seen.append("waited"))
        seen.append("outer")

    calls.post(outer)
    calls.look(nothing)
    assert seen == ["outer"]
    assert not calls.calling
    await wait_all_tasks_blocked()
    assert seen == ["outer", "inner"]
    calls.end()


async def test_a_call_that_fails_does_not_make_the_others_deaf() -> None:
    calls = LoopCalls()
    seen: list[str] = []
    calls.post(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        calls.look(nothing)
    calls.post(seen.append, "next")
    await wait_all_tasks_blocked()

    assert seen == ["next"]
    calls.end()


async def test_more_calls_than_wake_ups_fit_into_a_pipe() -> None:
    calls = LoopCalls()
    seen: list[int] = []
    for number in range(MORE_THAN_A_PIPE_HOLDS):
        assert calls.post(seen.append, number)
    await wait_all_tasks_blocked()

    assert seen == list(range(MORE_THAN_A_PIPE_HOLDS))
    calls.end()


async def test_at_the_end_nothing_stays_open() -> None:
    calls = LoopCalls()
    seen: list[str] = []
    calls.post(seen.append, "last")
    calls.end()
    await wait_all_tasks_blocked()

    assert seen == ["last"]
    for descriptor in (calls._reader, calls._writer):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_loop_that_has_ended_is_noticed() -> None:
    async def make() -> LoopCalls:
        return LoopCalls()

    calls = trio.run(make)
    assert not calls.post(nothing)
    calls.end()
