"""D: what a session costs that does nothing."""

from typing import ClassVar

import attrs
import trio

from commucat_cli.bench.crew import ClientProcess, cpu_since
from commucat_cli.bench.jobs import HoldReport, HoldTask
from commucat_cli.bench.plan import Plan
from commucat_cli.bench.result import Faults, Figure, Run
from commucat_cli.bench.scenarios.connect import connectors
from commucat_cli.bench.scenarios.outcome import problems_of, share
from commucat_cli.bench.server_process import ServerUnderLoad

MAX_SESSIONS = 100_000
WARMUP = 50
"""Sessions that are there before: what is allocated once is not a session's."""


@attrs.frozen(kw_only=True)
class Idle(Plan):
    """Registered devices connect and stay; then the server's memory is read."""

    name: ClassVar[str] = "idle"

    sessions: int = attrs.field(
        default=2000, validator=[attrs.validators.ge(1), attrs.validators.le(MAX_SESSIONS)]
    )
    """Sessions that are compared with none."""
    settle: float = attrs.field(default=30.0, validator=[attrs.validators.ge(0), attrs.validators.le(3600)])
    """Seconds between the last connect and the reading."""

    @property
    def open_sessions(self) -> int:
        return self.sessions + WARMUP

    def limits(self) -> dict[str, int]:
        return Plan.limits(self) | {"max_connections": max(10_000, 2 * self.open_sessions)}

    async def run(self, server: ServerUnderLoad) -> Run:
        async with connectors(server, self.open_sessions, 1, self.stall) as people:
            [process] = people
            await _hold(process, WARMUP)
            before = server.rss_kib()
            opened = await _hold(process, self.sessions)
            cpu_before = server.cpu_seconds()
            await trio.sleep(self.settle)
            cpu = cpu_since(cpu_before, server)
            after = server.rss_kib()
            last = await _hold(process, 0)
        figures: dict[str, Figure] = {
            "kib_per_session": (
                None if before is None or after is None else round((after - before) / self.sessions, 2)
            ),
            "rss_before_kib": before,
            "rss_after_kib": after,
            "alive": last.alive,
            "idle_cpu_ms_per_s": share(cpu, self.settle, 1e3),
        }
        return Run(
            figures=figures,
            faults=Faults(lost=self.open_sessions - last.alive),
            problems=problems_of(opened.effort, last.effort),
        )


async def _hold(process: ClientProcess, count: int) -> HoldReport:
    return await process.do(HoldTask(count=count), HoldReport)
