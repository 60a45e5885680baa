"""H: the relay after many connects and disconnects, in turn with a fresh server.

A machine is seldom as fast a quarter of an hour later. So the relay on the server that had them is not
compared with the one before them, but with a server that is started then: both in turn, several times.
"""

import statistics
from collections.abc import Sequence
from typing import ClassVar

import attrs

from commucat_cli.bench.crew import Exchange, cpu_since
from commucat_cli.bench.plan import Plan, check_load, room_for
from commucat_cli.bench.result import ClientUse, Faults, Figure, Run
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
from commucat_cli.bench.server_process import ServerUnderLoad, server_for

DEVICES = 64
"""Registered devices that take turns."""
_Relayed = tuple[Exchange | None, Exchange]
"""Warm-up and measured load."""


@attrs.frozen(kw_only=True)
class Churn(Plan):
    """What a server forgets to forget makes it slower and larger."""

    name: ClassVar[str] = "churn"

    connects: int = attrs.field(default=50_000, validator=positive)
    """Every second session of a device ends without a word."""
    at_once: int = attrs.field(default=8, validator=[positive, attrs.validators.le(MAX_AT_ONCE)])
    processes: int = attrs.field(default=2, validator=[positive, attrs.validators.le(64)])
    messages: int = attrs.field(default=20_000, validator=positive)
    """Of each relay."""
    rounds: int = attrs.field(default=5, validator=positive)
    """Relays on either server after the connects."""
    size: int = attrs.field(default=256, validator=payload_size)
    window: int = attrs.field(default=500, validator=positive)
    warmup: int = attrs.field(default=2000, validator=attrs.validators.ge(0))

    def __attrs_post_init__(self) -> None:
        check_load(max(self.messages, self.warmup), self.size)

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
        fresh, again = await self._in_turn(server)
        figures: dict[str, Figure] = {
            **self._compared([one for _, one in fresh], [one for _, one in again]),
            "connects_per_s": rate(sum(len(one.durations) for one in reports), span(reports)),
            "server_cpu_ms_per_connect": share(cpu, self.connects, 1e3),
            "rss_before_kib": rss_before,
            "rss_after_kib": rss_after,
        }
        measured = [before, *fresh, *again]
        exchanges = [one for pair in measured for one in pair if one is not None]
        failed = Faults(lost=sum(report.failed for report in reports))
        return Run(
            figures=figures,
            faults=sum((exchange_faults(one, 1) for one in exchanges), failed),
            acknowledged=sum(one.sender.acknowledged for _, one in measured),
            refused=sum(one.sender.refused for one in exchanges),
            clients=_clients(fresh, "-fresh") + uses(reports) + _clients(again, "-again"),
            problems=exchange_problems(*exchanges) + problems_of(*(report.effort for report in reports)),
        )

    async def _in_turn(self, server: ServerUnderLoad) -> tuple[list[_Relayed], list[_Relayed]]:
        """The relay on a fresh server and on this one, as often on either."""
        fresh: list[_Relayed] = []
        again: list[_Relayed] = []
        async with server_for(None, None, self.limits(), self.store) as other:
            order = [(other, fresh), (server, again)]
            for _ in range(self.rounds):
                for each, results in order:
                    results.append(await relayed(self._relay, each))
                # The second of a pair may find the machine otherwise than the first.
                order.reverse()
        return fresh, again

    def _compared(self, fresh: Sequence[Exchange], again: Sequence[Exchange]) -> dict[str, Figure]:
        figures = {
            name: [relay_figures(self._relay, one) for one in those]
            for name, those in (("fresh", fresh), ("again", again))
        }
        out: dict[str, Figure] = {}
        for figure, ratio in (("msg_per_s", "ratio"), ("server_cpu_us_per_msg", "cpu_ratio")):
            values = {name: [each[figure] for each in those] for name, those in figures.items()}
            for name, those in values.items():
                out[f"{name}_{figure.removeprefix('server_')}"] = _median(those)
            pairs = zip(values["fresh"], values["again"], strict=True)
            out[ratio] = _median([_ratio(*pair) for pair in pairs], digits=3)
        return out


def _clients(relays: Sequence[_Relayed], suffix: str) -> tuple[ClientUse, ...]:
    """Of the last relay: they do the same in each."""
    exchange = relays[-1][1]
    return clients_of(exchange.sender, exchange.receivers, suffix)


def _ratio(fresh: Figure, again: Figure) -> float | None:
    if not isinstance(fresh, float) or not isinstance(again, float) or not fresh:
        return None
    return again / fresh


def _median(values: Sequence[Figure], digits: int = 2) -> float | None:
    known = [value for value in values if isinstance(value, float)]
    return round(statistics.median(known), digits) if known else None
