"""``commucat-cli chaos``."""

import json
import secrets
import signal
from functools import partial
from typing import Annotated

import trio
import typer

from commucat_cli.chaos.coordinator import run_chaos
from commucat_cli.chaos.plan import MAX_DEVICES, MAX_FAULTS, make_plan
from commucat_cli.chaos.result import Result, table, totals
from commucat_cli.commands.outcome import FAILURE, run_command
from commucat_cli.terminal import warn

TERMINATED = 143  # 128 + SIGTERM, as shells count


def chaos(
    devices: Annotated[int, typer.Option(min=2, max=MAX_DEVICES, help="How many talk to each other.")] = 8,
    messages: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many are sent.")] = 2000,
    kills: Annotated[int, typer.Option(min=0, max=MAX_FAULTS, help="SIGKILLs of the server.")] = 4,
    seed: Annotated[
        int | None, typer.Option(min=0, show_default=False, help="Gives the plan; drawn if not given.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="With so many seeds in a row; prints the sums.")] = 1,
    duration_limit: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="After which the run has failed.")
    ] = 600.0,
    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn", metavar="URL", show_default=False, help="An empty PostgreSQL database for the server."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Kill, stop and starve an own fresh server while clients talk. Exits with 1 unless its promise held."""
    chosen = secrets.randbelow(2**32) if seed is None else seed
    run_command(partial(_run_and_print, chosen, runs, devices, messages, kills, duration_limit, dsn, as_json))


async def _run_and_print(
    seed: int,
    runs: int,
    devices: int,
    messages: int,
    kills: int,
    duration_limit: float,
    dsn: str | None,
    as_json: bool,
) -> int:
    results: list[Result] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(_give_up_at_sigterm, nursery.cancel_scope)
        for each in range(seed, seed + runs):
            plan = make_plan(seed=each, devices=devices, messages=messages, kills=kills)
            result = await run_chaos(plan, kills=kills, duration_limit=duration_limit, dsn=dsn)
            if result.run.problem is not None:
                warn(result.run.problem if runs == 1 else f"seed {each}: {result.run.problem}")
            results.append(result)
        nursery.cancel_scope.cancel()
    if len(results) < runs:
        return TERMINATED
    figures = results[0].figures if runs == 1 else totals(results)
    print(json.dumps(figures, indent=2) if as_json else table(figures))
    return 0 if figures["holds"] else FAILURE


async def _give_up_at_sigterm(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Unlike the signal's default, a cancellation ends the server and the clients, too."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
