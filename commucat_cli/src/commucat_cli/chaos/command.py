"""``commucat-cli chaos``."""

import json
import secrets
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated

import attrs
import trio
import typer

from commucat_cli.chaos.coordinator import run_chaos
from commucat_cli.chaos.plan import MAX_DEVICES, MAX_FAULTS, make_plan
from commucat_cli.chaos.result import Result, table, totals
from commucat_cli.chaos.services import empty_redis_for_a_run, service_faults
from commucat_cli.chaos.victim import Setup
from commucat_cli.commands.outcome import FAILURE, run_command
from commucat_cli.terminal import warn

MAX_NODES = 9
TERMINATED = 143  # 128 + SIGTERM, as shells count


@attrs.frozen(kw_only=True)
class _Wishes:
    """What was asked for."""

    seeds: range
    devices: int
    messages: int
    kills: int
    duration_limit: float
    setup: Setup
    database_faults: int
    redis_faults: int


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
    dsns: Annotated[
        list[str] | None,
        typer.Option(
            "--dsn",
            metavar="URL",
            show_default=False,
            help="An empty PostgreSQL database for the server; one for each domain.",
        ),
    ] = None,
    nodes: Annotated[
        int, typer.Option(min=1, max=MAX_NODES, help="Of the server, on one database; needs --dsn.")
    ] = 1,
    redis: Annotated[
        str | None,
        typer.Option("--redis", metavar="URL", show_default=False, help="A Redis for the server."),
    ] = None,
    domains: Annotated[
        int, typer.Option(min=1, max=2, help="2: two servers that are each other's peers share the devices.")
    ] = 1,
    database_faults: Annotated[
        int, typer.Option(min=0, max=MAX_FAULTS, help="Cuts of all connections to the database; needs --dsn.")
    ] = 0,
    redis_faults: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_FAULTS,
            help="Times that Redis is emptied, or its connections cut; needs --redis, of an empty server.",
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Kill, stop and starve an own fresh server while clients talk. Exits with 1 unless its promise held."""
    databases = tuple(dsns or ())
    if domains > 1 and (nodes > 1 or redis is not None):
        raise typer.BadParameter("each has one node: no --nodes, no --redis", param_hint="--domains")
    if databases and len(set(databases)) != domains:
        raise typer.BadParameter(
            f"each domain needs a database of its own: give {domains}, not {len(set(databases))}",
            param_hint="--dsn",
        )
    if devices < 2 * domains:
        raise typer.BadParameter("each domain needs two: add --devices 4", param_hint="--domains")
    if nodes > 1 and not databases:
        raise typer.BadParameter("several nodes need a database: add --dsn URL", param_hint="--nodes")
    if database_faults and not databases:
        raise typer.BadParameter("there is no database: add --dsn URL", param_hint="--database-faults")
    if redis_faults and redis is None:
        raise typer.BadParameter("there is no Redis: add --redis URL", param_hint="--redis-faults")
    chosen = secrets.randbelow(2**32) if seed is None else seed
    wishes = _Wishes(
        seeds=range(chosen, chosen + runs),
        devices=devices,
        messages=messages,
        kills=kills,
        duration_limit=duration_limit,
        setup=Setup(dsns=databases, nodes=nodes, redis_url=redis, domains=domains),
        database_faults=database_faults,
        redis_faults=redis_faults,
    )
    run_command(partial(_run_and_print, wishes, as_json=as_json))


async def _run_and_print(wishes: _Wishes, *, as_json: bool) -> int:
    runs = len(wishes.seeds)
    results: list[Result] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(_give_up_at_sigterm, nursery.cancel_scope)
        for seed in wishes.seeds:
            result = await _run(wishes, seed)
            if result.run.problem is not None:
                warn(result.run.problem if runs == 1 else f"seed {seed}: {result.run.problem}")
            results.append(result)
        nursery.cancel_scope.cancel()
    if len(results) < runs:
        return TERMINATED
    figures = results[0].figures if runs == 1 else totals(results)
    print(json.dumps(figures, indent=2) if as_json else table(figures))
    return 0 if figures["holds"] else FAILURE


async def _run(wishes: _Wishes, seed: int) -> Result:
    kills, setup = wishes.kills, wishes.setup
    plan = make_plan(
        seed=seed, devices=wishes.devices, messages=wishes.messages, kills=kills, domains=setup.domains
    )
    faults = service_faults(setup, wishes.database_faults, wishes.redis_faults)
    async with AsyncExitStack() as stack:
        if faults.redis and setup.redis_url is not None:
            await stack.enter_async_context(empty_redis_for_a_run(setup.redis_url))
        return await run_chaos(
            plan, kills=kills, duration_limit=wishes.duration_limit, setup=setup, services=faults
        )


async def _give_up_at_sigterm(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Unlike the signal's default, a cancellation ends the server and the clients, too."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
