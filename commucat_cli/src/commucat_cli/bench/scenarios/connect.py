"""C: full connects, one after the other and many at once."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ClassVar

import attrs
import trio

from commucat_cli.bench.crew import (
    ClientProcess,
    Exchange,
    address_of,
    client,
    cpu_since,
    crew,
    new_load,
    shares,
)
from commucat_cli.bench.jobs import ConnectorJob, ConnectorReport, ConnectTask, SendTask
from commucat_cli.bench.percentiles import latency_figures
from commucat_cli.bench.plan import Plan
from commucat_cli.bench.result import ClientUse, Faults, Figure, Run
from commucat_cli.bench.scenarios.latency import MAX_MESSAGES, per_second, seconds, waits
from commucat_cli.bench.scenarios.outcome import (
    clients_of,
    exchange_faults,
    exchange_problems,
    problems_of,
    rate,
    share,
)
from commucat_cli.bench.scenarios.relay import positive
from commucat_cli.bench.schedule import Schedule
from commucat_cli.bench.server_process import ServerUnderLoad
from commucat_cli.errors import CliError

MAX_AT_ONCE = 5000
BURST_SIZE = 256
"""Bytes of the messages that others exchange during a burst."""
_BEFORE = 0.5
"""Part of ``duration`` that is quiet before the burst."""


@attrs.frozen(kw_only=True)
class Connect(Plan):
    """Registered devices connect (TCP, TLS, HTTP/2, XK, proof, session row) and leave in order."""

    name: ClassVar[str] = "connect"

    connects: int = attrs.field(default=600, validator=positive)
    at_once: int = attrs.field(default=8, validator=[positive, attrs.validators.le(MAX_AT_ONCE)])
    """How many are on their way at any time."""
    processes: int = attrs.field(default=2, validator=[positive, attrs.validators.le(64)])
    burst: int = attrs.field(default=0, validator=[attrs.validators.ge(0), attrs.validators.le(MAX_AT_ONCE)])
    """So many connects at the same moment, while two sessions exchange messages; 0 for none."""
    rate: float = attrs.field(default=500.0, validator=per_second)
    """Messages a second of these two sessions."""
    duration: float = attrs.field(default=10.0, validator=seconds)
    """Seconds for which they exchange messages; the burst begins in the middle."""

    def __attrs_post_init__(self) -> None:
        if self.burst and self.rate * self.duration > MAX_MESSAGES:
            raise CliError(
                f"rate and duration make {self.rate * self.duration:.0f} messages; {MAX_MESSAGES} is the most"
            )

    @property
    def pause(self) -> float:
        return 1 / self.rate if self.burst else 0.0

    @property
    def open_sessions(self) -> int:
        return max(self.at_once, self.burst) + 2

    def limits(self) -> dict[str, int]:
        handshakes = max(1000, self.at_once, self.burst)
        return Plan.limits(self) | {
            "handshakes": handshakes,
            "max_connections": max(10_000, 2 * handshakes),
        }

    async def run(self, server: ServerUnderLoad) -> Run:
        devices = max(self.at_once, self.burst, self.processes)
        async with connectors(server, devices, self.processes, self.stall) as people:
            before = server.cpu_seconds()
            reports = await connect_all(people, self.connects, self.at_once)
            cpu = cpu_since(before, server)
            run = self._run(reports, cpu)
            if self.burst:
                run = await self._add_burst(run, server, people)
        return attrs.evolve(run, figures={**run.figures, "server_rss_kib": server.rss_kib()})

    def _run(self, reports: list[ConnectorReport], cpu: float | None) -> Run:
        done = sum(len(report.durations) for report in reports)
        figures: dict[str, Figure] = {
            "seconds": round(span(reports), 4),
            "connects_per_s": rate(done, span(reports)),
            "server_cpu_ms_per_connect": share(cpu, done, 1e3),
            **latency_figures("connect_ms", durations(reports), unit=1e3),
            "burst_seconds": None,
            **latency_figures("burst_connect_ms", [], unit=1e3),
            **latency_figures("before_us", []),
            **latency_figures("during_us", []),
        }
        return Run(
            figures=figures,
            faults=Faults(lost=sum(report.failed for report in reports)),
            clients=uses(reports),
            problems=problems_of(*(report.effort for report in reports)),
        )

    async def _add_burst(self, run: Run, server: ServerUnderLoad, people: list[ClientProcess]) -> Run:
        schedule = Schedule(self.rate, max(round(self.rate * self.duration), 1))
        exchanges: list[Exchange] = []
        async with crew(server, devices=1, stall=self.stall) as others:

            async def exchange() -> None:
                task = SendTask(load=new_load(schedule.count, BURST_SIZE), rate=self.rate)
                exchanges.append(await others.exchange(task, arrivals=True))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange)
                await trio.sleep(self.duration * _BEFORE)
                begun = time.monotonic()
                reports = await connect_all(people, self.burst, self.burst)
        [exchange_done] = exchanges
        started = exchange_done.sender.effort.started
        first, last = begun - started, max(report.effort.ended for report in reports) - started
        arrivals = exchange_done.arrivals
        before = waits(schedule, started, arrivals, schedule.between(0.0, first))
        during = waits(schedule, started, arrivals, schedule.between(first, last))
        figures = {
            "burst_seconds": round(span(reports), 4),
            **latency_figures("burst_connect_ms", durations(reports), unit=1e3),
            **latency_figures("before_us", before),
            **latency_figures("during_us", during),
        }
        failed = Faults(lost=sum(report.failed for report in reports))
        sender = exchange_done.sender
        return attrs.evolve(
            run,
            figures={**run.figures, **figures},
            faults=run.faults + failed + exchange_faults(exchange_done, 1),
            acknowledged=sender.acknowledged,
            refused=sender.refused,
            clients=run.clients + uses(reports, "-burst") + clients_of(sender, exchange_done.receivers),
            problems=run.problems
            + problems_of(*(report.effort for report in reports))
            + exchange_problems(exchange_done),
        )


@asynccontextmanager
async def connectors(
    server: ServerUnderLoad, devices: int, processes: int, stall: float
) -> AsyncIterator[list[ClientProcess]]:
    """Processes with registered devices."""
    async with AsyncExitStack() as stack:
        people: list[ClientProcess] = []
        for index, part in enumerate(shares(devices, processes)):
            job = ConnectorJob(server=address_of(server, stall), devices=part)
            people.append(await stack.enter_async_context(client(f"connector-{index + 1}", server, job)))
        yield people


async def connect_all(
    people: list[ClientProcess], connects: int, at_once: int, *, cut: bool = False
) -> list[ConnectorReport]:
    """Connect and disconnect, spread over all processes."""
    reports: list[ConnectorReport] = []
    # A process without a connect of its own, or without a turn, would be one too many.
    number_of_parts = min(len(people), connects, at_once)
    widths = shares(at_once, number_of_parts)
    parts = list(zip(people, shares(connects, number_of_parts), widths, strict=False))

    async def go(process: ClientProcess) -> None:
        reports.append(await process.go(ConnectorReport))

    for process, number, width in parts:
        await process.assign(ConnectTask(count=number, at_once=min(width, number), cut=cut))
    async with trio.open_nursery() as nursery:
        for process, _, _ in parts:
            nursery.start_soon(go, process)
    return reports


def span(reports: list[ConnectorReport]) -> float:
    """Seconds from the first start to the last end."""
    starts = [report.effort.started for report in reports]
    return max(report.effort.ended for report in reports) - min(starts)


def durations(reports: list[ConnectorReport]) -> list[float]:
    """Seconds of all connects that succeeded."""
    return [one for report in reports for one in report.durations]


def uses(reports: list[ConnectorReport], suffix: str = "") -> tuple[ClientUse, ...]:
    """How busy the processes were."""
    return tuple(
        ClientUse.of(f"connector-{index + 1}{suffix}", report.effort) for index, report in enumerate(reports)
    )
