"""B: messages at a fixed rate, and how long each takes from the moment it was due."""

from typing import ClassVar

import attrs

from commucat_cli.bench.crew import Exchange, crew, new_load
from commucat_cli.bench.jobs import SendTask
from commucat_cli.bench.percentiles import latency_figures
from commucat_cli.bench.plan import Plan, check_load, room_for
from commucat_cli.bench.result import Figure, Run
from commucat_cli.bench.scenarios.outcome import (
    clients_of,
    exchange_faults,
    exchange_problems,
    rate,
    share,
)
from commucat_cli.bench.scenarios.relay import payload_size
from commucat_cli.bench.schedule import Schedule
from commucat_cli.bench.server_process import ServerUnderLoad
from commucat_cli.errors import CliError

MAX_MESSAGES = 1_000_000
"""A time is kept for each."""

seconds = attrs.validators.and_(attrs.validators.gt(0.0), attrs.validators.le(3600.0))
per_second = attrs.validators.and_(attrs.validators.gt(0.0), attrs.validators.le(100_000.0))


@attrs.frozen(kw_only=True)
class Latency(Plan):
    """Open loop: a slow server gets no rest, and what waits for it counts."""

    name: ClassVar[str] = "latency"

    rate: float = attrs.field(default=2000.0, validator=per_second)
    """Messages a second."""
    duration: float = attrs.field(default=10.0, validator=seconds)
    """Seconds of the measured part."""
    size: int = attrs.field(default=256, validator=payload_size)
    warmup: float = attrs.field(default=1.0, validator=[attrs.validators.ge(0), attrs.validators.le(3600)])
    """Seconds at the same rate before; counted, but not timed."""

    @property
    def schedule(self) -> Schedule:
        """Of all messages, those of the warm-up included."""
        return Schedule(self.rate, max(round(self.rate * (self.warmup + self.duration)), 1))

    @property
    def measured(self) -> range:
        """Numbers of the messages behind the warm-up."""
        return self.schedule.between(self.warmup, self.warmup + self.duration)

    def __attrs_post_init__(self) -> None:
        if self.schedule.count > MAX_MESSAGES:
            raise CliError(
                f"rate and duration make {self.schedule.count} messages; {MAX_MESSAGES} is the most"
            )
        if not self.measured:
            raise CliError(
                "no message is due while it is measured; take a higher --rate or a longer --duration"
            )
        check_load(self.schedule.count, self.size)

    @property
    def pause(self) -> float:
        return 1 / self.rate

    def limits(self) -> dict[str, int]:
        return Plan.limits(self) | room_for(self.schedule.count, self.size)

    async def run(self, server: ServerUnderLoad) -> Run:
        schedule = self.schedule
        async with crew(server, devices=1, stall=self.stall) as people:
            task = SendTask(load=new_load(schedule.count, self.size), rate=self.rate)
            exchange = await people.exchange(task, arrivals=True)
            figures = self._figures(exchange) | {"server_rss_kib": server.rss_kib()}
        return Run(
            figures=figures,
            faults=exchange_faults(exchange, 1),
            acknowledged=exchange.sender.acknowledged,
            refused=exchange.sender.refused,
            clients=clients_of(exchange.sender, exchange.receivers),
            problems=exchange_problems(exchange),
        )

    def _figures(self, exchange: Exchange) -> dict[str, Figure]:
        schedule = self.schedule
        measured = self.measured
        started = exchange.sender.effort.started
        late = exchange.sender.lateness
        return {
            **latency_figures("delivered_us", waits(schedule, started, exchange.arrivals, measured)),
            **latency_figures("acked_us", waits(schedule, started, exchange.sender.answers, measured)),
            # How late the sender itself was; it is part of both.
            **latency_figures("sent_late_us", [late[number] for number in measured if number < len(late)]),
            "msg_per_s": rate(schedule.count, exchange.seconds),
            "server_cpu_us_per_msg": share(exchange.server_cpu, schedule.count),
        }


def waits(schedule: Schedule, started: float, times: list[float], numbers: range) -> list[float]:
    """Seconds from when each message was due until its time; those that never came are left out."""
    return [
        times[number] - started - schedule.due(number)
        for number in numbers
        if number < len(times) and times[number]
    ]
