"""Starts the server and the client processes, strikes the server, and has the history judged."""

import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

import attrs
import trio

from commucat_cli.bench.child import Child, ChildError, running
from commucat_cli.bench.domains import make_domains
from commucat_cli.bench.server_process import clean_environment
from commucat_cli.chaos.federation import wait_carried, write_returned
from commucat_cli.chaos.history import read_history
from commucat_cli.chaos.jobs import ACT, DRAIN, Job, Report, decode_line, encode_line
from commucat_cli.chaos.plan import Plan, ServerFault, Strike, stream_of
from commucat_cli.chaos.result import Result, Run
from commucat_cli.chaos.services import ServiceFault, ServiceFaults, scheduled
from commucat_cli.chaos.verdict import judge
from commucat_cli.chaos.victim import LIMITS, Kinship, Setup, Victim
from commucat_cli.chaos.wire import Wire
from commucat_storage import StorageError

MAX_WORKERS = 2
"""Client processes; more would only take the processors from the server."""
_RECOVERED = 10
"""Messages finished after a strike, before the next one: more than were finished but not reported yet."""
_EMBEDDED = Setup()
_NO_SERVICE_FAULTS = ServiceFaults()


_Timed: TypeAlias = tuple[int, Callable[[], Awaitable[None]]]
"""What is done as soon as so many messages are finished."""


@attrs.define(eq=False)
class _Part:
    """One client process."""

    child: Child
    history: Path
    report: Report = attrs.field(factory=Report)


class _Stage:
    """A run in progress."""

    def __init__(self, plan: Plan, kills: int, folder: Path, setup: Setup, services: ServiceFaults) -> None:
        self._plan = plan
        self._kills = kills
        self._folder = folder
        self._setup = setup
        self._victims: list[Victim] = []
        self._wires: list[Wire] = []
        self._returned = folder / "returned.history"
        self._services = services
        self._chance = stream_of(plan.seed, "nodes")
        self._parts: list[_Part] = []
        self._news = trio.lowlevel.ParkingLot()
        self.drained = False
        self.strikes: Counter[Strike] = Counter()
        self.service_strikes: Counter[str] = Counter()
        self.problem: str | None = None

    @property
    def histories(self) -> list[Path]:
        # A run may be over before its clients have begun to write.
        histories = [*(part.history for part in self._parts), self._returned]
        return [history for history in histories if history.exists()]

    @property
    def reconnects(self) -> int:
        return sum(part.report.reconnects for part in self._parts)

    @property
    def _finished(self) -> int:
        return sum(part.report.finished for part in self._parts)

    @property
    def _sent(self) -> bool:
        return all(part.report.sent for part in self._parts)

    async def play(self, limit: float) -> None:
        """The whole plan, for at most ``limit`` seconds; then ``problem`` says where it stood.

        Raises:
            ChildError: a process ended by itself.
        """
        with trio.move_on_after(limit) as patience:
            async with AsyncExitStack() as stack:
                if self._setup.domains > 1:
                    self._victims = await self._federated(stack)
                else:
                    self._victims = _victims(self._folder, self._setup)
                for victim in self._victims:
                    stack.push_async_callback(victim.end)
                    await victim.start()
                await self._enlist(stack)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._act_and_drain, nursery.cancel_scope)
                    for victim in self._victims:
                        nursery.start_soon(self._watch, victim)
                    for part in self._parts:
                        nursery.start_soon(self._listen, part)
                self.drained = True
            if self._setup.domains > 1:
                await write_returned(self._victims, self._returned)
        if patience.cancelled_caught:
            failures = (part.report.failure for part in self._parts)
            why = next((f"; {failure}" for failure in failures if failure), "")
            self.problem = (
                f"{self._finished} of {self._plan.messages} messages finished within {limit:g} s{why}"
            )

    async def _federated(self, stack: AsyncExitStack) -> list[Victim]:
        """A server of each domain, and before each a wire by which the others reach it."""
        domains = make_domains(self._folder, *(f"chaos-{index}.test" for index in range(self._setup.domains)))
        victims: list[Victim] = []
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        for index in range(len(domains)):
            chance = stream_of(self._plan.seed, f"wire {index}")
            wire = Wire(partial(lambda at: victims[at].port, index), chance)
            await nursery.start(wire.serve)
            self._wires.append(wire)
        ways = [(domain, wire.url) for domain, wire in zip(domains, self._wires, strict=True)]
        for place, domain in enumerate(domains):
            peers = [way for way in ways if way[0] is not domain]
            victims.append(Victim(domain.home, self._setup, domain=domain, peers=peers, place=place))
        return victims

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
                domains=self._setup.domains,
                mine=list(range(index, len(self._plan.devices), count)),
                servers=self._addresses,
                tls_ca=str(self._victims[0].tls_ca),
                history=str(part.history),
            )
            await child.write_line(encode_line(job))
            self._parts.append(part)
        for part in self._parts:
            part.report = decode_line(await part.child.read_line(), Report)

    @property
    def _addresses(self) -> list[list[str]]:
        """Of each domain all nodes."""
        urls = [victim.url for victim in self._victims]
        return [[url] for url in urls] if self._setup.domains > 1 else [urls]

    async def _listen(self, part: _Part) -> None:
        while not part.report.done:
            part.report = decode_line(await part.child.read_line(), Report)
            self._news.unpark_all()

    async def _watch(self, victim: Victim) -> None:
        """A server that ends without having been killed is an error of its own."""
        while True:
            life = victim.lives
            try:
                await victim.wait_ended()
            except (ChildError, trio.ClosedResourceError):
                if not victim.killing and life == victim.lives:
                    raise
            while victim.killing:
                await self._news.park()

    async def _act_and_drain(self, scope: trio.CancelScope) -> None:
        for part in self._parts:
            await part.child.write_line(ACT)
        async with trio.open_nursery() as nursery:
            # One after the other: a node that starts needs the database.
            nodes: list[_Timed] = [
                (fault.after, partial(self._strike_node, fault)) for fault in self._plan.faults
            ]
            others = self._of_service("database", self._services.database)
            nursery.start_soon(self._strike, sorted([*nodes, *others], key=itemgetter(0)))
            # Redis may be away whatever else happens.
            nursery.start_soon(self._strike, self._of_service("redis", self._services.redis))
            nursery.start_soon(self._strike, self._of_service("wire", self._wire_faults))
        while not self._sent:
            await self._news.park()
        if self._setup.domains > 1:
            await wait_carried(self._victims)
        for part in self._parts:
            await part.child.write_line(DRAIN)
        while not all(part.report.done for part in self._parts):
            await self._news.park()
        scope.cancel()

    @property
    def _wire_faults(self) -> list[ServiceFault]:
        """Each kind of them for each wire, more of them if the server is killed more often."""
        kinds = [ServiceFault(name, strike) for wire in self._wires for name, strike in wire.faults.items()]
        return kinds * (1 + self._kills // 4)

    def _of_service(self, service: str, faults: Sequence[ServiceFault]) -> list[_Timed]:
        plan = self._plan
        timed = scheduled(faults, seed=plan.seed, service=service, messages=plan.messages)
        return [(after, partial(self._strike_service, fault)) for after, fault in timed]

    async def _strike(self, strikes: Sequence[_Timed]) -> None:
        earliest = 0
        for after, strike in strikes:
            while self._finished < max(after, earliest) and not self._sent:
                await self._news.park()
            await strike()
            # Strikes whose moment has passed meanwhile would otherwise hit what has not recovered yet.
            earliest = self._finished + _RECOVERED

    async def _strike_node(self, fault: ServerFault) -> None:
        victim = self._chance.choice(self._victims)
        match fault.strike:
            case Strike.KILL:
                await victim.kill()
                self._news.unpark_all()
            case Strike.STOP:
                await victim.stop_for(fault.seconds)
            case Strike.FULL_DISK:
                if victim.dsn is not None:
                    return  # the disk is another server's
                await victim.fill_disk_for(fault.seconds)
        self.strikes[fault.strike] += 1

    async def _strike_service(self, fault: ServiceFault) -> None:
        try:
            await fault.strike()
        except StorageError as exc:
            raise ChildError(f"no strike: {exc}") from exc
        self.service_strikes[fault.name] += 1


def _victims(folder: Path, setup: Setup) -> list[Victim]:
    if setup.nodes == 1:
        return [Victim(folder, setup)]
    first = folder / "node-1"
    kinship = Kinship(seed=secrets.token_hex(32), certificate=first / "data" / "tls" / "cert.pem")
    return [Victim(folder / f"node-{number}", setup, kinship) for number in range(1, setup.nodes + 1)]


async def run_chaos(
    plan: Plan,
    *,
    kills: int,
    duration_limit: float,
    setup: Setup = _EMBEDDED,
    services: ServiceFaults = _NO_SERVICE_FAULTS,
) -> Result:
    """Act out a plan and judge what happened.

    ``kills`` is what the plan was made with; ``duration_limit`` is in seconds. On PostgreSQL no disk is
    filled. Each strike hits one of the nodes, and each session of a device goes to the next. Of several
    domains (``plan`` must have as many) each strike hits one server, and the ways between them fail, too.
    Whoever owns the services may add faults of them, as ``services``, that no client of theirs can bring
    about.

    Raises:
        CliError: it could not be run, or the server ended by itself.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="commucat-chaos-") as name:
        stage = _Stage(plan, kills, Path(name), setup, services)
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
            nodes=setup.nodes,
            domains=setup.domains,
            messages=plan.messages,
            strikes=stage.strikes,
            service_strikes=dict(stage.service_strikes),
            reconnects=stage.reconnects,
            seconds=seconds,
            limits=LIMITS,
            problem=stage.problem,
        ),
        verdict=verdict,
    )
