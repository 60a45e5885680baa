"""Runs a scenario as often as its plan says, each time with a fresh server."""

from commucat_cli.bench.open_files import allow
from commucat_cli.bench.plan import Plan
from commucat_cli.bench.result import Result, Run


async def measure(plan: Plan) -> Result:
    """Run a benchmark.

    Raises:
        CliError: it could not be run; a server that loses messages is a result, not an error.
    """
    allow(plan.open_sessions)
    runs: list[Run] = []
    for _ in range(plan.runs):
        async with plan.open() as server:
            runs.append(await plan.run(server))
    return Result.of(plan, runs, plan.limits() if plan.server is None else None)
