"""How a command ends: exit status 0, 1 or 130, and one line on standard error instead of a traceback."""

import os
import signal
import traceback
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import trio
import typer

from commucat_cli.errors import CliError
from commucat_cli.terminal import report_error

T = TypeVar("T")

FAILURE = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def run_command(command: Callable[[], Awaitable[int]]) -> NoReturn:
    """Run an asynchronous command to its end and leave with its exit status."""
    finish(lambda: trio.run(command))


def run_interruptibly(work: Callable[[], Awaitable[T]]) -> T:
    """Run what may wait for something else than Trio, such as a database; Ctrl-C cancels it.

    Trio would raise ``KeyboardInterrupt`` where its main task happens to be, and what is raised into
    the code of another event loop can be lost there. A cancellation stays until it is obeyed.

    Raises:
        KeyboardInterrupt: it was cancelled so.
    """
    results: list[T] = []

    async def interrupt(
        scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                scope.cancel()

    async def guarded() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(interrupt, nursery.cancel_scope)
            results.append(await work())
            nursery.cancel_scope.cancel()

    try:
        trio.run(guarded)
    except BaseExceptionGroup as exc:
        leaves = list(_leaves(exc))
        if len(leaves) == 1:
            raise leaves[0] from exc.__cause__
        raise
    if not results:
        raise KeyboardInterrupt
    return results[0]


def finish(command: Callable[[], int]) -> NoReturn:
    """Run a command to its end and leave with its exit status."""
    try:
        status = command()
    except BaseException as exc:
        known = _status_of(exc)
        if known is None:
            raise
        status = known
    raise typer.Exit(status)


def _status_of(exc: BaseException) -> int | None:
    leaves = list(_leaves(exc))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        report_error("interrupted")
        return INTERRUPTED
    if any(not isinstance(leaf, Exception) for leaf in leaves) or isinstance(leaves[0], typer.Exit):
        return None
    for leaf in leaves:
        if isinstance(leaf, CliError):
            report_error(str(leaf))
            return FAILURE
    if os.environ.get("COMMUCAT_TRACEBACK"):
        traceback.print_exception(exc)
    report_error(
        f"{type(leaves[0]).__name__}: {leaves[0]}; this is a defect of commucat-cli, "
        "set COMMUCAT_TRACEBACK=1 to see where"
    )
    return FAILURE


def _leaves(exc: BaseException) -> "list[BaseException]":
    """The exceptions inside nested groups, in order; never empty."""
    if not isinstance(exc, BaseExceptionGroup):
        return [exc]
    return [leaf for inner in exc.exceptions for leaf in _leaves(inner)]
