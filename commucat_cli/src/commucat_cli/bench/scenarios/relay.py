"""A: one sender, receivers that are connected."""

from typing import ClassVar

import attrs

from commucat_cli.bench.crew import Exchange, crew, new_load
from commucat_cli.bench.jobs import SendTask
from commucat_cli.bench.payload import HEADER_LEN
from commucat_cli.bench.plan import Plan, check_load, room_for
from commucat_cli.bench.result import Faults, Figure, Run
from commucat_cli.bench.scenarios.outcome import (
    MAX_SIZE,
    clients_of,
    exchange_faults,
    exchange_problems,
    rate,
    share,
)
from commucat_cli.bench.server_process import ServerUnderLoad

MAX_RECEIVERS = 500
"""Below the default limit of devices that one route may name."""

positive = attrs.validators.ge(1)
payload_size = attrs.validators.and_(attrs.validators.ge(HEADER_LEN), attrs.validators.le(MAX_SIZE))


@attrs.frozen(kw_only=True)
class Relay(Plan):
    """Closed loop: as fast as ``window`` unanswered messages permit."""

    name: ClassVar[str] = "relay"

    messages: int = attrs.field(default=20_000, validator=positive)
    size: int = attrs.field(default=256, validator=payload_size)
    """Bytes of the payload of each Msg frame: what would be the sealed text."""
    window: int = attrs.field(default=500, validator=positive)
    """Messages on the way that the server has not acknowledged."""
    receivers: int = attrs.field(
        default=1, validator=[attrs.validators.ge(1), attrs.validators.le(MAX_RECEIVERS)]
    )
    """Devices that get each message."""
    warmup: int = attrs.field(default=2000, validator=attrs.validators.ge(0))
    """Messages before the measured ones; counted, but not timed."""

    def __attrs_post_init__(self) -> None:
        check_load(max(self.messages, self.warmup), self.size)

    @property
    def open_sessions(self) -> int:
        return self.receivers + 1

    def limits(self) -> dict[str, int]:
        return Plan.limits(self) | room_for(self.messages + self.warmup, self.size)

    async def run(self, server: ServerUnderLoad) -> Run:
        warm, exchange = await relayed(self, server)
        return Run(
            figures=relay_figures(self, exchange) | {"server_rss_kib": server.rss_kib()},
            faults=exchange_faults(exchange, self.receivers)
            + (exchange_faults(warm, self.receivers) if warm is not None else Faults()),
            acknowledged=exchange.sender.acknowledged,
            refused=exchange.sender.refused,
            clients=clients_of(exchange.sender, exchange.receivers),
            problems=exchange_problems(exchange, *([warm] if warm is not None else [])),
        )


async def relayed(plan: Relay, server: ServerUnderLoad) -> tuple[Exchange | None, Exchange]:
    """Connect a crew, warm up, send everything: (warm-up, measured).

    Raises:
        ChildError: a client process could not do its work.
    """
    async with crew(server, devices=plan.receivers, stall=plan.stall) as people:
        warm = None
        if plan.warmup:
            load = new_load(plan.warmup, plan.size)
            warm = await people.exchange(SendTask(load=load, window=plan.window))
        load = new_load(plan.messages, plan.size)
        return warm, await people.exchange(SendTask(load=load, window=plan.window))


def relay_figures(plan: Relay, exchange: Exchange) -> dict[str, Figure]:
    """Times and costs of a load."""
    seconds = exchange.seconds
    return {
        "seconds": round(seconds, 4),
        "msg_per_s": rate(plan.messages, seconds),
        "deliveries_per_s": rate(plan.messages * plan.receivers, seconds),
        "server_cpu_us_per_msg": share(exchange.server_cpu, plan.messages),
    }
