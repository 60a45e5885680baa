"""Costly steps of newcomers: a few for each pass of the event loop, those that have come furthest first."""

import math
import time
from collections.abc import Callable

import pytest
import trio
import trio.testing

from commucat_server.listener import Step, Turnstile
from commucat_server.listener.turnstile import PASS_SECONDS


class Newcomers:
    """Tasks that each take one step as soon as they may, and what happened in which order."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.turnstile = Turnstile()
        self.order: list[str] = []
        self._nursery = nursery

    def come(self, name: str, step: Step, scope: trio.CancelScope | None = None) -> None:
        self._nursery.start_soon(self._take, name, step, scope or trio.CancelScope())

    async def _take(self, name: str, step: Step, scope: trio.CancelScope) -> None:
        with scope:
            await self.turnstile.turn(step, scope)
            self.order.append(name)


def long_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass has lasted too long already when somebody asks."""
    now = time.perf_counter()

    def clock() -> Callable[[], float]:
        passed = now

        def read() -> float:
            nonlocal passed
            passed += 2 * PASS_SECONDS
            return passed

        return read

    monkeypatch.setattr("commucat_server.listener.turnstile.time.perf_counter", clock())


async def count_passes(passes: list[int]) -> None:
    while True:
        passes[0] += 1
        await trio.lowlevel.checkpoint()


async def test_who_comes_alone_passes_at_once() -> None:
    turnstile, scope = Turnstile(), trio.CancelScope(deadline=math.inf)

    with scope, trio.testing.assert_no_checkpoints():
        await turnstile.turn(Step.TLS, scope)
        assert turnstile.waiting == 0


async def test_a_pass_that_has_lasted_long_takes_one_step(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_passes(monkeypatch)
    newcomers, passes = Newcomers(nursery), [0]
    nursery.start_soon(count_passes, passes)
    for number in range(20):
        newcomers.come(str(number), Step.TLS)

    await _until(lambda: len(newcomers.order) == 20)

    assert passes[0] >= 18  # the first two may share the pass in which this one begins to count
    nursery.cancel_scope.cancel()


async def test_a_young_pass_takes_whoever_comes(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commucat_server.listener.turnstile.time.perf_counter", lambda: 1.0)
    newcomers, passes = Newcomers(nursery), [0]
    nursery.start_soon(count_passes, passes)
    for number in range(20):
        newcomers.come(str(number), Step.TLS)

    await _until(lambda: len(newcomers.order) == 20)

    assert passes[0] <= 5
    nursery.cancel_scope.cancel()


async def test_those_that_have_come_furthest_go_first(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    newcomers = Newcomers(nursery)
    shut = True
    monkeypatch.setattr(newcomers.turnstile, "_open", lambda: not shut)
    for name, step in [("t1", Step.TLS), ("t2", Step.TLS), ("p", Step.PROOF), ("h1", Step.HELLO)]:
        newcomers.come(name, step)
        waiting = newcomers.turnstile.waiting
        await _until(lambda waiting=waiting: newcomers.turnstile.waiting > waiting)  # type: ignore[misc]
    newcomers.come("h2", Step.HELLO)
    await _until(lambda: newcomers.turnstile.waiting == 5)

    shut = False
    await _until(lambda: newcomers.turnstile.waiting == 0)

    assert newcomers.order == ["p", "h1", "h2", "t1", "t2"]


async def test_a_connection_stays_with_the_kernel_while_others_wait(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    newcomers = Newcomers(nursery)
    took: list[list[str]] = []
    shut = True
    monkeypatch.setattr(newcomers.turnstile, "_open", lambda: not shut)

    async def accept() -> None:
        await newcomers.turnstile.turn(Step.ACCEPT)
        took.append(list(newcomers.order))

    nursery.start_soon(accept)
    await _until(lambda: newcomers.turnstile.waiting == 1)
    for step in (Step.TLS, Step.HTTP, Step.END):
        newcomers.come(step.name, step)
    await _until(lambda: newcomers.turnstile.waiting == 4)

    shut = False
    await _until(lambda: newcomers.turnstile.waiting == 0)

    assert took == [["END", "HTTP", "TLS"]]


async def test_who_goes_away_stops_nobody(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    newcomers, gone = Newcomers(nursery), trio.CancelScope()
    shut = True
    monkeypatch.setattr(newcomers.turnstile, "_open", lambda: not shut)
    newcomers.come("first", Step.PROOF, gone)
    await _until(lambda: newcomers.turnstile.waiting == 1)
    newcomers.come("second", Step.TLS)
    await _until(lambda: newcomers.turnstile.waiting == 2)

    gone.cancel()
    await _until(lambda: newcomers.turnstile.waiting == 1)
    shut = False
    await _until(lambda: newcomers.turnstile.waiting == 0)

    assert newcomers.order == ["second"]


async def test_a_deadline_stands_still_while_its_owner_waits(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    newcomers = Newcomers(nursery)
    shut = True
    monkeypatch.setattr(newcomers.turnstile, "_open", lambda: not shut)
    scope = trio.CancelScope(deadline=trio.current_time() + 10)
    newcomers.come("patient", Step.HELLO, scope)
    # For the first pass the deadline goes on, which is so short that it does not matter.
    await _until(lambda: scope.deadline == math.inf)
    assert newcomers.turnstile.waiting == 1

    mock_clock.jump(60)
    shut = False
    await _until(lambda: newcomers.turnstile.waiting == 0)

    assert newcomers.order == ["patient"]
    assert scope.deadline == trio.current_time() + 10


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await trio.lowlevel.checkpoint()
