"""G: a sender and a receiver of two domains; then what waits for a server that was away."""

import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import attrs

from commucat_cli.bench.crew import Crew, cpu_since, crew, new_load
from commucat_cli.bench.domains import make_domains
from commucat_cli.bench.jobs import ReceiverReport, ReceiveTask, SenderReport, SendTask
from commucat_cli.bench.plan import Plan, check_load, room_for
from commucat_cli.bench.result import Faults, Figure, Run
from commucat_cli.bench.scenarios.outcome import (
    clients_of,
    exchange_faults,
    exchange_problems,
    faults_of,
    problems_of,
    rate,
    share,
)
from commucat_cli.bench.scenarios.relay import payload_size, positive
from commucat_cli.bench.server_process import OwnServer, Place, ServerUnderLoad, Store, own_server

DOMAINS = ("sending.test", "receiving.test")
BACKLOG = 120_000
"""What ten minutes make at 200 messages a second."""
_SETTINGS = ("backoff_min = 1", "backoff_max = 2", "events_per_second = 1000000")
"""Section ``[federation]``: a server that is back is found soon, and nothing but its speed holds it up."""


class ServerPair(ServerUnderLoad):
    """Two servers that are each other's peer; their costs are those of both together."""

    def __init__(self, folder: Path, sending: OwnServer, receiving: OwnServer) -> None:
        super().__init__(folder, sending.url, sending.tls_ca)
        self.sending = sending
        self.receiving = receiving

    def cpu_seconds(self) -> float | None:
        return self.sending.cpu_seconds() + self.receiving.cpu_seconds()

    def rss_kib(self) -> int | None:
        return self.sending.rss_kib() + self.receiving.rss_kib()


@attrs.frozen(kw_only=True)
class _CaughtUp:
    """A load that was sent while the receiving server was away."""

    sender: SenderReport
    receiver: ReceiverReport
    listening: float
    """When the receiving server was there again."""


@attrs.frozen(kw_only=True)
class Federation(Plan):
    """Closed loop over two servers; then a backlog."""

    name: ClassVar[str] = "federation"

    messages: int = attrs.field(default=20_000, validator=positive)
    size: int = attrs.field(default=256, validator=payload_size)
    window: int = attrs.field(default=500, validator=positive)
    """Messages on the way that the sender's server has not acknowledged."""
    warmup: int = attrs.field(default=2000, validator=attrs.validators.ge(0))
    """Messages before the measured ones; counted, but not timed."""
    backlog: int = attrs.field(default=BACKLOG, validator=attrs.validators.ge(0))
    """Messages that are sent while the receiving server is killed."""

    def __attrs_post_init__(self) -> None:
        check_load(max(self.messages, self.warmup, self.backlog), self.size)

    def open(self) -> AbstractAsyncContextManager[ServerUnderLoad]:
        return _pair(self.limits(), self.store)

    def limits(self) -> dict[str, int]:
        return Plan.limits(self) | room_for(max(self.messages + self.warmup, self.backlog), self.size)

    async def run(self, server: ServerUnderLoad) -> Run:
        assert isinstance(server, ServerPair), "made by open"
        sending, receiving = server.sending, server.receiving
        faults = Faults()
        problems: tuple[str, ...] = ()
        async with crew(sending, devices=1, stall=self.stall, receiving=receiving) as people:
            if self.warmup:
                warm = await people.exchange(self._task(self.warmup))
                faults, problems = exchange_faults(warm, 1), exchange_problems(warm)
            before = sending.cpu_seconds(), receiving.cpu_seconds()
            exchange = await people.exchange(self._task(self.messages))
            costs = cpu_since(before[0], sending), cpu_since(before[1], receiving)
        figures: dict[str, Figure] = {
            "seconds": round(exchange.seconds, 4),
            "msg_per_s": rate(self.messages, exchange.seconds),
            "acked_per_s": rate(self.messages, exchange.sender.effort.ended - exchange.sender.effort.started),
            "sending_cpu_us_per_msg": share(costs[0], self.messages),
            "receiving_cpu_us_per_msg": share(costs[1], self.messages),
            "enqueue_per_s": None,
            "catchup_per_s": None,
            "catchup_seconds": None,
        }
        clients = clients_of(exchange.sender, exchange.receivers)
        acknowledged, refused = exchange.sender.acknowledged, exchange.sender.refused
        problems += exchange_problems(exchange)
        faults += exchange_faults(exchange, 1)
        if self.backlog:
            async with crew(sending, devices=1, stall=self.stall, away=True, receiving=receiving) as people:
                caught_up = await self._catch_up(people, receiving)
            sender, receiver = caught_up.sender, caught_up.receiver
            seconds = receiver.effort.ended - caught_up.listening
            figures |= {
                "enqueue_per_s": rate(self.backlog, sender.effort.ended - sender.effort.started),
                "catchup_per_s": rate(receiver.received, seconds),
                "catchup_seconds": round(seconds, 3),
            }
            clients += clients_of(sender, [receiver], "-catchup")
            acknowledged += sender.acknowledged
            refused += sender.refused
            problems += problems_of(sender.effort, receiver.effort)
            faults += faults_of(self.backlog, 1, sender, [receiver])
        return Run(
            figures=figures | {"server_rss_kib": server.rss_kib()},
            faults=faults,
            acknowledged=acknowledged,
            refused=refused,
            clients=clients,
            problems=problems,
        )

    def _task(self, messages: int) -> SendTask:
        return SendTask(load=new_load(messages, self.size), window=self.window)

    async def _catch_up(self, people: Crew, receiving: OwnServer) -> _CaughtUp:
        task = self._task(self.backlog)
        [receiver] = people.receivers
        await people.sender.assign(task)
        await receiver.assign(ReceiveTask(load=task.load))
        await receiving.kill()
        sent = await people.sender.go(SenderReport)
        await receiving.start()
        listening = time.monotonic()
        return _CaughtUp(sender=sent, receiver=await receiver.go(ReceiverReport), listening=listening)


@asynccontextmanager
async def _pair(limits: Mapping[str, int], store: Store) -> AsyncIterator[ServerUnderLoad]:
    """Both servers, fresh ones.

    Raises:
        ChildError: one does not start; the text says why.
    """
    with tempfile.TemporaryDirectory(prefix="commucat-bench-") as name:
        folder = Path(name)
        domains = make_domains(folder, *DOMAINS)
        ports = _free_ports(len(domains))
        urls = [f"https://127.0.0.1:{port}" for port in ports]
        async with AsyncExitStack() as stack:
            servers = []
            for index, domain in enumerate(domains):
                other = 1 - index
                place = Place(
                    domain=domain,
                    port=ports[index],
                    section=domain.section([(domains[other], urls[other])], *_SETTINGS),
                )
                server = own_server(domain.home, limits, store, place)
                servers.append(await stack.enter_async_context(server))
            yield ServerPair(folder, *servers)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now: each server has to know the other's before that has started."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
