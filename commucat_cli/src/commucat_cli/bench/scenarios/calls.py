"""Voice of calls between several devices each, while two other devices exchange messages."""

from contextlib import AsyncExitStack
from typing import ClassVar

import attrs
import trio

from commucat_cli.bench.crew import ClientProcess, Crew, Exchange, address_of, client, crew, new_load, shares
from commucat_cli.bench.jobs import PartyJob, SendTask, TalkReport, TalkTask
from commucat_cli.bench.percentiles import counted_latency_figures, latency_figures
from commucat_cli.bench.plan import Plan
from commucat_cli.bench.result import ClientUse, Faults, Figure, Run
from commucat_cli.bench.scenarios.latency import MAX_MESSAGES, waits
from commucat_cli.bench.scenarios.outcome import (
    clients_of,
    exchange_faults,
    exchange_problems,
    problems_of,
    rate,
    share,
)
from commucat_cli.bench.schedule import Schedule
from commucat_cli.bench.server_process import ServerUnderLoad
from commucat_cli.errors import CliError

MAX_PARTIES = 64
MAX_CALLS = 100
MAX_DEVICES = 500
"""Of one process, which watches all its sockets at once (select)."""
MAX_SECONDS = 3600.0
MAX_PACKETS = 4_000_000
"""Prepared before a step, and kept."""
MESSAGE_SIZE = 256
LOSS = 0.01
"""Part of the packets whose loss ends the search for the load that is too much."""


@attrs.frozen(kw_only=True)
class Calls(Plan):
    """First ``calls`` calls for ``seconds``; then, if ``overload`` is more than that, step by step more of
    them until packets get lost."""

    name: ClassVar[str] = "calls"

    calls: int = attrs.field(default=1, validator=[attrs.validators.ge(1), attrs.validators.le(MAX_CALLS)])
    parties: int = attrs.field(
        default=8, validator=[attrs.validators.ge(2), attrs.validators.le(MAX_PARTIES)]
    )
    """Devices in each; all of them speak all the time."""
    seconds: float = attrs.field(
        default=10.0, validator=[attrs.validators.gt(0), attrs.validators.le(MAX_SECONDS)]
    )
    rate: float = attrs.field(default=50.0, validator=[attrs.validators.gt(0), attrs.validators.le(1000.0)])
    """Packets a second of each device."""
    size: int = attrs.field(default=80, validator=[attrs.validators.ge(40), attrs.validators.le(1400)])
    """Bytes of a packet with its header."""
    messages: float = attrs.field(
        default=100.0, validator=[attrs.validators.gt(0), attrs.validators.le(10_000.0)]
    )
    """Messages a second of another pair of devices, in open loop."""
    overload: int = attrs.field(default=0, validator=[attrs.validators.ge(0), attrs.validators.le(MAX_CALLS)])
    """Calls of the last step at most; 0: no overload."""
    step_seconds: float = attrs.field(
        default=5.0, validator=[attrs.validators.gt(0), attrs.validators.le(600.0)]
    )
    processes: int = attrs.field(default=2, validator=attrs.validators.ge(1))

    def __attrs_post_init__(self) -> None:
        packets = round(self.calls * self.parties * self.rate * self.seconds)
        packets = max(packets, round(self.overload * self.parties * self.rate * self.step_seconds))
        if packets > MAX_PACKETS:
            raise CliError(f"calls, parties and seconds make {packets} packets; {MAX_PACKETS} is the most")
        longest = max(self.seconds, self.step_seconds if self.overload > self.calls else 0.0)
        if self.messages * longest > MAX_MESSAGES:
            raise CliError(
                f"messages and seconds make {self.messages * longest:.0f} of them; {MAX_MESSAGES} is the most"
            )
        if max(self.calls, self.overload) * self.parties > MAX_DEVICES * self.processes:
            raise CliError(f"a client process can have {MAX_DEVICES} devices; take more --processes")

    @property
    def pause(self) -> float:
        return 1 / self.messages

    @property
    def open_sessions(self) -> int:
        return max(self.calls, self.overload) * self.parties + 2

    async def run(self, server: ServerUnderLoad) -> Run:
        job = PartyJob(server=address_of(server, self.stall), parties=self.parties)
        most = max(self.calls, self.overload)
        async with AsyncExitStack() as stack:
            people = await stack.enter_async_context(crew(server, devices=1, stall=self.stall))
            processes = [
                await stack.enter_async_context(client(f"party-{number + 1}", server, job))
                for number in range(min(self.processes, most))
            ]
            first = await self._step(server, people, processes, self.calls, self.seconds)
            steps = await self._overload(server, people, processes, first)
            rss = server.rss_kib()
        everything = [first, *steps]
        return Run(
            figures=self._figures(first, everything) | {"server_rss_kib": rss},
            faults=sum((exchange_faults(step.messages, 1) for step in everything), Faults()),
            acknowledged=sum(step.messages.sender.acknowledged for step in everything),
            refused=sum(step.messages.sender.refused for step in everything),
            clients=(
                *clients_of(first.messages.sender, first.messages.receivers),
                *(
                    ClientUse.of(f"party-{number + 1}", report.effort)
                    for number, report in enumerate(first.reports)
                ),
                *(
                    ClientUse.of(f"party-{number + 1} of {step.calls} calls", report.effort)
                    for step in steps
                    for number, report in enumerate(step.reports)
                ),
            ),
            problems=(
                *exchange_problems(*(step.messages for step in everything)),
                *problems_of(*(report.effort for step in everything for report in step.reports)),
            ),
        )

    async def _overload(
        self, server: ServerUnderLoad, people: Crew, processes: list[ClientProcess], first: "Step"
    ) -> list["Step"]:
        steps: list[Step] = []
        calls = self.calls
        while calls < self.overload and (steps[-1] if steps else first).loss < LOSS:
            calls = min(calls + max(1, calls // 2), self.overload)
            steps.append(await self._step(server, people, processes, calls, self.step_seconds))
        return steps

    async def _step(
        self,
        server: ServerUnderLoad,
        people: Crew,
        processes: list[ClientProcess],
        calls: int,
        seconds: float,
    ) -> "Step":
        """Calls and messages at once."""
        run = new_load(1, MESSAGE_SIZE).run
        working = list(zip(processes, shares(calls, len(processes)), strict=False))
        packets = max(round(seconds * self.rate), 1)
        for process, part in working:
            task = TalkTask(run=run, calls=part, packets=packets, rate=self.rate, size=self.size)
            await process.assign(task)
        schedule = Schedule(self.messages, max(round(self.messages * seconds), 1))
        send = SendTask(load=new_load(schedule.count, MESSAGE_SIZE), rate=self.messages)
        exchanges: list[Exchange] = []
        reports: list[TalkReport] = []

        async def exchange() -> None:
            exchanges.append(await people.exchange(send, arrivals=True))

        async def talk(process: ClientProcess) -> None:
            reports.append(await process.go(TalkReport))

        before = server.cpu_seconds()
        async with trio.open_nursery() as nursery:
            for process, _ in working:
                nursery.start_soon(talk, process)
            nursery.start_soon(exchange)
        after = server.cpu_seconds()
        cpu = None if before is None or after is None else after - before
        return Step(
            calls=calls,
            sent=sum(part for _, part in working) * self.parties * packets,
            schedule=schedule,
            messages=exchanges[0],
            reports=reports,
            cpu=cpu,
        )

    def _figures(self, first: "Step", everything: list["Step"]) -> dict[str, Figure]:
        cpu = share(first.cpu, first.received)
        best = max(everything, key=lambda step: step.forwarded_per_s)
        return {
            # Of one device to another: what a server has to forward for it.
            "streams": float(self.calls * self.parties * (self.parties - 1)),
            "packets_per_s": rate(first.sent, first.span),
            "forwarded_per_s": round(first.forwarded_per_s, 1),
            "media_lost": float(first.expected - first.received),
            "media_repeated": float(sum(report.repeated for report in first.reports)),
            "media_refused": float(sum(report.refused for report in first.reports)),
            "media_damaged": float(sum(report.damaged for report in first.reports)),
            **counted_latency_figures("media_ms", first.latencies),
            **latency_figures("message_us", first.message_waits),
            # How late the sender itself was; it is part of these.
            **latency_figures("message_sent_late_us", first.messages.sender.lateness),
            "sent_late_ms_max": round(max(report.latest for report in first.reports) * 1e3, 2),
            # The messages' part is in it: it is some percent of this.
            "cpu_us_per_forwarded_packet": cpu,
            "streams_per_core": None if not cpu else round(1e6 / cpu / self.rate, 1),
            "most_forwarded_per_s": round(best.forwarded_per_s, 1),
            "step_calls": [float(step.calls) for step in everything],
            "step_forwarded_per_s": [round(step.forwarded_per_s, 1) for step in everything],
            "step_cpu_us": [share(step.cpu, step.received) or 0.0 for step in everything],
            "step_loss": [round(step.loss, 5) for step in everything],
            "step_media_ms_p99": [step.media_p99 for step in everything],
            "step_message_us_p99": [step.message_p99 for step in everything],
        }


@attrs.frozen(kw_only=True)
class Step:
    """What one number of calls gave."""

    calls: int
    sent: int
    """Packets by all devices; each is forwarded to all others in its call."""
    schedule: Schedule
    messages: Exchange
    reports: list[TalkReport]
    cpu: float | None

    @property
    def expected(self) -> int:
        return sum(report.expected for report in self.reports)

    @property
    def received(self) -> int:
        return sum(report.received for report in self.reports)

    @property
    def span(self) -> float:
        """Seconds in which packets were on their way."""
        started = min(report.effort.started for report in self.reports)
        return max(report.effort.ended for report in self.reports) - started

    @property
    def forwarded_per_s(self) -> float:
        return self.received / self.span if self.span > 0 else 0.0

    @property
    def loss(self) -> float:
        return 1 - self.received / self.expected if self.expected else 0.0

    @property
    def latencies(self) -> dict[int, int]:
        """Of all processes."""
        found: dict[int, int] = {}
        for report in self.reports:
            for step, count in report.latencies:
                found[step] = found.get(step, 0) + count
        return found

    @property
    def message_waits(self) -> list[float]:
        """Seconds from when each message was due."""
        started = self.messages.sender.effort.started
        return waits(self.schedule, started, self.messages.arrivals, range(self.schedule.count))

    @property
    def media_p99(self) -> float:
        """Milliseconds; 0 when nothing came."""
        return counted_latency_figures("media", self.latencies)["media_p99"] or 0.0

    @property
    def message_p99(self) -> float:
        """Microseconds; 0 when nothing came."""
        return latency_figures("message", self.message_waits)["message_p99"] or 0.0
