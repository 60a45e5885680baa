"""The client processes of a run, as the coordinator sees them."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import attrs
import trio

from commucat_cli.bench.child import Child, running
from commucat_cli.bench.jobs import (
    ConnectorJob,
    ConnectTask,
    HoldTask,
    Load,
    PartyJob,
    Ready,
    ReceiverJob,
    ReceiverReport,
    ReceiveTask,
    SenderJob,
    SenderReport,
    SendTask,
    Server,
    TalkTask,
    decode_line,
    encode_line,
)
from commucat_cli.bench.payload import RUN_LEN
from commucat_cli.bench.server_process import ServerUnderLoad, clean_environment

Job = SenderJob | ReceiverJob | ConnectorJob | PartyJob
Task = SendTask | ReceiveTask | ConnectTask | HoldTask | TalkTask
Report = TypeVar("Report")

_ROLES = {SenderJob: "send", ReceiverJob: "receive", ConnectorJob: "connect", PartyJob: "talk"}
_WORDS = {
    SendTask: b"send ",
    ReceiveTask: b"receive ",
    ConnectTask: b"connect ",
    HoldTask: b"hold ",
    TalkTask: b"talk ",
}


class ClientProcess:
    """A client that has done its job and waits for tasks."""

    def __init__(self, name: str, child: Child, devices: Sequence[str]) -> None:
        self.name = name
        self.devices = list(devices)
        """Those that receive."""
        self._child = child

    async def assign(self, task: Task) -> None:
        """Hand over a task; returns when everything is prepared for it."""
        await self._child.write_line(_WORDS[type(task)] + encode_line(task))
        decode_line(await self._child.read_line(), Ready)

    async def go(self, kind: type[Report]) -> Report:
        """Let the task begin; returns its report."""
        await self._child.write_line(b"go\n")
        return decode_line(await self._child.read_line(), kind)

    async def do(self, task: Task, kind: type[Report]) -> Report:
        """Both."""
        await self.assign(task)
        return await self.go(kind)


@asynccontextmanager
async def client(name: str, server: ServerUnderLoad, job: Job) -> AsyncIterator[ClientProcess]:
    """A client process for as long as the block lasts.

    Raises:
        ChildError: it cannot do its job; the text says why.
    """
    module = "commucat_cli.bench.worker"
    arguments = [_ROLES[type(job)]]
    async with running(
        name, module, arguments, folder=server.folder, environment=clean_environment()
    ) as child:
        await child.write_line(encode_line(job))
        yield ClientProcess(name, child, decode_line(await child.read_line(), Ready).devices)


def address_of(server: ServerUnderLoad, stall: float) -> Server:
    """The server, for a job."""
    return Server(url=server.url, tls_ca=None if server.tls_ca is None else str(server.tls_ca), stall=stall)


def new_load(messages: int, size: int) -> Load:
    """Messages that no other task has."""
    return Load(run=secrets.token_hex(RUN_LEN), messages=messages, size=size)


@attrs.frozen(kw_only=True)
class Exchange:
    """What the sender and all receivers reported of one load, and the server's CPU time for it."""

    load: Load
    sender: SenderReport
    receivers: list[ReceiverReport]
    server_cpu: float | None

    @property
    def seconds(self) -> float:
        """From the first message to the last answer or delivery, whichever is later."""
        ends = [self.sender.effort.ended, *(report.effort.ended for report in self.receivers)]
        return max(ends) - self.sender.effort.started

    @property
    def arrivals(self) -> list[float]:
        """When the last device had each message, 0 for never."""
        return [
            max(times) if all(times) else 0.0
            for times in zip(*(report.arrivals for report in self.receivers), strict=True)
        ]


class Crew:
    """A sender and its receivers."""

    def __init__(
        self, server: ServerUnderLoad, sender: ClientProcess, receivers: Sequence[ClientProcess]
    ) -> None:
        self._server = server
        self.sender = sender
        self.receivers = list(receivers)

    async def exchange(self, task: SendTask, *, arrivals: bool = False) -> Exchange:
        """Send a load to receivers that are there."""
        for receiver in self.receivers:
            await receiver.assign(ReceiveTask(load=task.load, arrivals=arrivals))
        await self.sender.assign(task)
        sent: list[SenderReport] = []
        received: list[ReceiverReport] = []

        async def send() -> None:
            sent.append(await self.sender.go(SenderReport))

        async def receive(receiver: ClientProcess) -> None:
            received.append(await receiver.go(ReceiverReport))

        before = self._server.cpu_seconds()
        async with trio.open_nursery() as nursery:
            for receiver in self.receivers:
                nursery.start_soon(receive, receiver)
            nursery.start_soon(send)
        return Exchange(
            load=task.load,
            sender=sent[0],
            receivers=received,
            server_cpu=cpu_since(before, self._server),
        )


def cpu_since(before: float | None, server: ServerUnderLoad) -> float | None:
    """Server CPU seconds since a reading; None when they are not known."""
    now = server.cpu_seconds()
    return None if before is None or now is None else now - before


@asynccontextmanager
async def crew(
    server: ServerUnderLoad,
    *,
    devices: int,
    stall: float,
    processes: int = 1,
    away: bool = False,
    as_group: bool = False,
    receiving: ServerUnderLoad | None = None,
) -> AsyncIterator[Crew]:
    """A sender and ``devices`` receivers in so many processes, connected (receivers may be ``away``).

    ``receiving``: the receivers' server, if it is of another domain than the sender's.

    Raises:
        ChildError: the load cannot begin.
    """
    name = secrets.token_hex(RUN_LEN)
    address = address_of(server, stall)
    theirs = server if receiving is None else receiving
    async with AsyncExitStack() as stack:
        receivers: list[ClientProcess] = []
        for index, share in enumerate(shares(devices, processes)):
            label = "receiver" if processes == 1 else f"receiver-{index + 1}"
            job = ReceiverJob(
                server=address_of(theirs, stall),
                crew=name,
                devices=share,
                away=away,
                sender_domain=None if receiving is None else server.domain,
            )
            receivers.append(await stack.enter_async_context(client(label, theirs, job)))
        everybody = [device for receiver in receivers for device in receiver.devices]
        if receiving is not None:
            everybody = [f"{device}@{receiving.domain}" for device in everybody]
        sender_job = SenderJob(server=address, crew=name, devices=everybody, as_group=as_group)
        sender = await stack.enter_async_context(client("sender", server, sender_job))
        yield Crew(server, sender, receivers)


def shares(total: int, parts: int) -> list[int]:
    """``total`` in at most ``parts`` parts, none of them empty, that differ by one at most."""
    parts = min(parts, total)
    return [total // parts + (index < total % parts) for index in range(parts)]
