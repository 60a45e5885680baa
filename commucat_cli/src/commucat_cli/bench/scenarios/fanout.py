"""F: one message to many devices."""

from typing import ClassVar

import attrs

from commucat_cli.bench.crew import Exchange, crew, new_load
from commucat_cli.bench.jobs import SendTask
from commucat_cli.bench.percentiles import latency_figures
from commucat_cli.bench.plan import Plan, check_load
from commucat_cli.bench.result import Faults, Figure, Run
from commucat_cli.bench.scenarios.latency import per_second, waits
from commucat_cli.bench.scenarios.outcome import (
    clients_of,
    exchange_faults,
    exchange_problems,
    rate,
    share,
)
from commucat_cli.bench.scenarios.relay import payload_size, positive
from commucat_cli.bench.schedule import Schedule
from commucat_cli.bench.server_process import ServerUnderLoad

MAX_MEMBERS = 4999
"""With the sender, the most devices of a group or a route."""
_WARMUP = 3
"""Messages to everybody before the measured ones."""


@attrs.frozen(kw_only=True)
class Fanout(Plan):
    """Single messages by a schedule first, then as many at once as ``window`` permits."""

    name: ClassVar[str] = "fanout"

    members: int = attrs.field(default=1000, validator=[positive, attrs.validators.le(MAX_MEMBERS)])
    messages: int = attrs.field(default=20, validator=positive)
    """Single messages."""
    rate: float = attrs.field(default=2.0, validator=per_second)
    """Single messages a second."""
    sustained: int = attrs.field(default=50, validator=positive)
    """Messages at once."""
    window: int = attrs.field(default=20, validator=positive)
    """Of these, how many are unanswered at any time."""
    size: int = attrs.field(default=256, validator=payload_size)
    route: bool = False
    """By a route that names all members, instead of a group."""
    processes: int = attrs.field(default=2, validator=[positive, attrs.validators.le(64)])
    """Client processes that the members are spread over."""

    def __attrs_post_init__(self) -> None:
        check_load(max(self.messages, self.sustained), self.size)

    @property
    def pause(self) -> float:
        return 1 / self.rate

    @property
    def open_sessions(self) -> int:
        return self.members + 1

    def limits(self) -> dict[str, int]:
        return Plan.limits(self) | {
            "max_connections": max(10_000, 2 * self.open_sessions),
            "channel_members": max(512, self.members),
        }

    async def run(self, server: ServerUnderLoad) -> Run:
        async with crew(
            server,
            devices=self.members,
            stall=self.stall,
            processes=self.processes,
            as_group=not self.route,
        ) as people:
            warm = await people.exchange(SendTask(load=new_load(_WARMUP, self.size), window=1))
            single = await people.exchange(
                SendTask(load=new_load(self.messages, self.size), rate=self.rate), arrivals=True
            )
            sustained = await people.exchange(
                SendTask(load=new_load(self.sustained, self.size), window=self.window)
            )
            rss = server.rss_kib()
        faults = sum((exchange_faults(one, self.members) for one in (warm, single, sustained)), Faults())
        return Run(
            figures=self._figures(single, sustained) | {"server_rss_kib": rss},
            faults=faults,
            acknowledged=single.sender.acknowledged + sustained.sender.acknowledged,
            refused=single.sender.refused + sustained.sender.refused,
            clients=clients_of(single.sender, single.receivers, "-single")
            + clients_of(sustained.sender, sustained.receivers),
            problems=exchange_problems(warm, single, sustained),
        )

    def _figures(self, single: Exchange, sustained: Exchange) -> dict[str, Figure]:
        schedule = Schedule(self.rate, self.messages)
        started = single.sender.effort.started
        everything = range(self.messages)
        return {
            **latency_figures(
                "last_member_ms", waits(schedule, started, single.arrivals, everything), unit=1e3
            ),
            **latency_figures(
                "acked_ms", waits(schedule, started, single.sender.answers, everything), unit=1e3
            ),
            "deliveries_per_s": rate(self.sustained * self.members, sustained.seconds),
            "server_cpu_us_per_delivery": share(sustained.server_cpu, self.sustained * self.members),
        }
