"""Starts the server and the client processes, strikes the server, and has the history judged."""

import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import trio

from commucat_cli.bench.child import Child, ChildError, running
from commucat_cli.bench.server_process import clean_environment
from commucat_cli.chaos.history import read_history
from commucat_cli.chaos.jobs import ACT, DRAIN, Job, Report, decode_line, encode_line
from commucat_cli.chaos.plan import Plan, Strike
from commucat_cli.chaos.result import Result, Run
from commucat_cli.chaos.verdict import judge
from commucat_cli.chaos.victim import LIMITS, Victim

MAX_WORKERS = 2
"""Client processes; more would only take the processors from the server."""


@attrs.define(eq=False)
class _Part:
    """One client process."""

    child: Child
    history: Path
    report: Report = attrs.field(factory=Report)


class _Stage:
    """A run in progress."""

    def __init__(self, plan: Plan, kills: int, folder: Path, dsn: str | None) -> None:
        self._plan = plan
        self._kills = kills
        self._folder = folder
        self._victim = Victim(folder, dsn)
        self._parts: list[_Part] = []
        self._news = trio.lowlevel.ParkingLot()
        self._killing = False
        self.drained = False
        self.strikes: Counter[Strike] = Counter()
        self.problem: str | None = None

    @property
    def histories(self) -> list[Path]:
        # A run may be over before its clients have begun to write.
        return [part.history for part in self._parts if part.history.exists()]

    @property
    def reconnects(self) -> int:
        return sum(part.report.reconnects for part in self._parts)

    async def play(self, limit: float) -> None:
        """The whole plan, for at most ``limit`` seconds; then ``problem`` says where it stood.

        Raises:
            ChildError: a process ended by itself.
        """
        with trio.move_on_after(limit) as patience:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._victim.end)
                await self._victim.start()
                await self._enlist(stack)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._strike_and_drain, nursery.cancel_scope)
                    nursery.start_soon(self._watch)
                    for part in self._parts:
                        nursery.start_soon(self._listen, part)
                self.drained = True
        if patience.cancelled_caught:
            finished = sum(part.report.finished for part in self._parts)
            failures = (part.report.failure for part in self._parts)
            why = next((f"; {failure}" for failure in failures if failure), "")
            self.problem = f"{finished} of {self._plan.messages} messages finished within {limit:g} s{why}"

    async def _enlist(self, stack: AsyncExitStack) -> None:
        count = min(MAX_WORKERS, len(self._plan.devices))
        for index in range(count):
            name = f"clients-{index}"
            child = await stack.enter_async_context(
                running(
                    name,
                    "commucat_cli.chaos.worker",
                    [],
                    folder=self._folder,
                    environment=clean_environment(),
                )
            )
            part = _Part(child, self._folder / f"{name}.history")
            job = Job(
                seed=self._plan.seed,
                devices=len(self._plan.devices),
                messages=self._plan.messages,
                kills=self._kills,
                mine=list(range(index, len(self._plan.devices), count)),
                server=self._victim.url,
                tls_ca=str(self._victim.tls_ca),
                history=str(part.history),
            )
            await child.write_line(encode_line(job))
            self._parts.append(part)
        for part in self._parts:
            part.report = decode_line(await part.child.read_line(), Report)

    async def _listen(self, part: _Part) -> None:
        while not part.report.done:
            part.report = decode_line(await part.child.read_line(), Report)
            self._news.unpark_all()

    async def _watch(self) -> None:
        """A server that ends without having been killed is an error of its own."""
        while True:
            life = self._victim.lives
            try:
                await self._victim.wait_ended()
            except (ChildError, trio.ClosedResourceError):
                if not self._killing and life == self._victim.lives:
                    raise
            while self._killing:
                await self._news.park()

    async def _strike_and_drain(self, scope: trio.CancelScope) -> None:
        for part in self._parts:
            await part.child.write_line(ACT)
        for fault in self._plan.faults:
            while sum(part.report.finished for part in self._parts) < fault.after:
                await self._news.park()
            match fault.strike:
                case Strike.KILL:
                    await self._kill()
                case Strike.STOP:
                    await self._victim.stop_for(fault.seconds)
                case Strike.FULL_DISK:
                    if not self._victim.embedded:
                        continue  # the disk is another server's
                    await self._victim.fill_disk_for(fault.seconds)
            self.strikes[fault.strike] += 1
        while not all(part.report.sent for part in self._parts):
            await self._news.park()
        for part in self._parts:
            await part.child.write_line(DRAIN)
        while not all(part.report.done for part in self._parts):
            await self._news.park()
        scope.cancel()

    async def _kill(self) -> None:
        self._killing = True
        await self._victim.kill()
        self._killing = False
        self._news.unpark_all()


async def run_chaos(plan: Plan, *, kills: int, duration_limit: float, dsn: str | None = None) -> Result:
    """Act out a plan and judge what happened.

    ``kills`` is what the plan was made with; ``duration_limit`` is in seconds. With ``dsn`` the server keeps
    everything in that PostgreSQL database, which must be empty, and no disk is filled.

    Raises:
        CliError: it could not be run, or the server ended by itself.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="commucat-chaos-") as name:
        stage = _Stage(plan, kills, Path(name), dsn)
        try:
            await stage.play(duration_limit)
        except* ChildError as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            stage.problem = str(error)
        seconds = time.monotonic() - began
        verdict = judge(read_history(stage.histories), drained=stage.drained)
    return Result(
        run=Run(
            seed=plan.seed,
            devices=len(plan.devices),
            messages=plan.messages,
            strikes=stage.strikes,
            reconnects=stage.reconnects,
            seconds=seconds,
            limits=LIMITS,
            problem=stage.problem,
        ),
        verdict=verdict,
    )
