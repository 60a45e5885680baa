"""H: the relay before and after many connects and disconnects, on one server."""

from typing import ClassVar

import attrs

from commucat_cli.bench.crew import cpu_since
from commucat_cli.bench.plan import Plan, room_for
from commucat_cli.bench.result import Faults, Figure, Run
from commucat_cli.bench.scenarios.connect import MAX_AT_ONCE, connect_all, connectors, span, uses
from commucat_cli.bench.scenarios.outcome import (
    clients_of,
    exchange_faults,
    exchange_problems,
    problems_of,
    rate,
    share,
)
from commucat_cli.bench.scenarios.relay import Relay, payload_size, positive, relay_figures, relayed
from commucat_cli.bench.server_process import ServerUnderLoad

DEVICES = 64
"""Registered devices that take turns."""


@attrs.frozen(kw_only=True)
class Churn(Plan):
    """What a server forgets to forget makes it slower and larger."""

    name: ClassVar[str] = "churn"

    connects: int = attrs.field(default=50_000, validator=positive)
    """Every second session of a device ends without a word."""
    at_once: int = attrs.field(default=8, validator=[positive, attrs.validators.le(MAX_AT_ONCE)])
    processes: int = attrs.field(default=2, validator=[positive, attrs.validators.le(64)])
    messages: int = attrs.field(default=20_000, validator=positive)
    """Of the relay before, and of the one after."""
    size: int = attrs.field(default=256, validator=payload_size)
    window: int = attrs.field(default=500, validator=positive)
    warmup: int = attrs.field(default=2000, validator=attrs.validators.ge(0))

    @property
    def open_sessions(self) -> int:
        return self.at_once + 2

    def limits(self) -> dict[str, int]:
        return Plan.limits(self) | room_for(self.messages + self.warmup, self.size)

    @property
    def _relay(self) -> Relay:
        return Relay(
            messages=self.messages,
            size=self.size,
            window=self.window,
            warmup=self.warmup,
            stall=self.stall,
        )

    async def run(self, server: ServerUnderLoad) -> Run:
        relay = self._relay
        before = await relayed(relay, server)
        rss_before = server.rss_kib()
        devices = max(DEVICES, self.at_once)
        async with connectors(server, devices, self.processes, self.stall) as people:
            cpu_before = server.cpu_seconds()
            reports = await connect_all(people, self.connects, self.at_once, cut=True)
            cpu = cpu_since(cpu_before, server)
        rss_after = server.rss_kib()
        after = await relayed(relay, server)
        fresh, again = relay_figures(relay, before[1]), relay_figures(relay, after[1])
        speed = (fresh["msg_per_s"], again["msg_per_s"])
        figures: dict[str, Figure] = {
            "fresh_msg_per_s": speed[0],
            "again_msg_per_s": speed[1],
            "ratio": _ratio(*speed),
            "fresh_cpu_us_per_msg": fresh["server_cpu_us_per_msg"],
            "again_cpu_us_per_msg": again["server_cpu_us_per_msg"],
            "connects_per_s": rate(sum(len(one.durations) for one in reports), span(reports)),
            "server_cpu_ms_per_connect": share(cpu, self.connects, 1e3),
            "rss_before_kib": rss_before,
            "rss_after_kib": rss_after,
        }
        exchanges = [one for one in (*before, *after) if one is not None]
        failed = Faults(lost=sum(report.failed for report in reports))
        return Run(
            figures=figures,
            faults=sum((exchange_faults(one, 1) for one in exchanges), failed),
            acknowledged=sum(one.sender.acknowledged for one in (before[1], after[1])),
            refused=sum(one.sender.refused for one in exchanges),
            clients=clients_of(before[1].sender, before[1].receivers, "-fresh")
            + uses(reports)
            + clients_of(after[1].sender, after[1].receivers, "-again"),
            problems=exchange_problems(*exchanges) + problems_of(*(report.effort for report in reports)),
        )


def _ratio(fresh: Figure, again: Figure) -> float | None:
    if not isinstance(fresh, float) or not isinstance(again, float) or not fresh:
        return None
    return round(again / fresh, 3)
