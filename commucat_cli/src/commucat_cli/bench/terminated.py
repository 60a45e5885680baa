"""SIGTERM ends a benchmark in order: unlike the signal's default, a cancellation ends the server and
the clients, too.
"""

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from commucat_cli.bench.coordinator import measure
from commucat_cli.bench.plan import Plan
from commucat_cli.bench.result import Result

T = TypeVar("T")


async def measure_until_terminated(plan: Plan) -> Result | None:
    """The result, or None after SIGTERM."""
    return await until_terminated(lambda: measure(plan))


async def until_terminated(work: Callable[[], Awaitable[T]]) -> T | None:
    """What ``work`` returns, or None after SIGTERM."""
    results: list[T] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(_give_up_at_sigterm, nursery.cancel_scope)
        results.append(await work())
        nursery.cancel_scope.cancel()
    return results[0] if results else None


async def _give_up_at_sigterm(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
