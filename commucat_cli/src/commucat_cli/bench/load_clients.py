"""The sender and the receivers of a benchmark, each in a process of its own."""

import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import attrs
import trio

from commucat_cli.bench.jobs import Ready, ReceiverJob, ReceiverReport, SenderJob, SenderReport
from commucat_cli.bench.payload import Tally, make_payloads
from commucat_cli.client import Answer, Connection, connect
from commucat_cli.client.server_info import fetch_server_info
from commucat_cli.errors import CliError
from commucat_cli.transport import ServerAddress, Timeouts, Trust, open_h2
from commucat_crypto import DeviceKeyPair, StaticKeyPair
from commucat_proto import DELIVERY_ACK, SEND_ONLY, ClientParameters, Frame, FrameType, UserHint

CHANNEL = 7
LATECOMERS = 0.2
"""Seconds to wait for messages after the last expected one: duplicates would come now."""

Start = Callable[[Ready], Awaitable[None]]
"""Tells the coordinator that all is prepared; returns when the benchmark begins."""


@attrs.frozen(kw_only=True)
class LoadTarget:
    """The server under load, as its clients see it."""

    address: ServerAddress
    trust: Trust
    domain: str
    noise_public: bytes

    @classmethod
    async def find(cls, server: str, tls_ca: str | None) -> "LoadTarget":
        """Ask the server for its keys.

        Raises:
            CliError: it cannot be reached, or is no CommuCat server.
        """
        address = ServerAddress.parse(server)
        trust = Trust(ca_file=None if tls_ca is None else Path(tls_ca))
        timeouts = Timeouts()
        async with open_h2(address, trust, timeouts) as client:
            info = await fetch_server_info(client, timeouts)
        return cls(address=address, trust=trust, domain=info.domain, noise_public=info.noise_public)

    def new_device(self, name: str, capability: str) -> ClientParameters:
        """A user with one device."""
        return ClientParameters(
            domain=self.domain,
            server_static=self.noise_public,
            device_id=name,
            device_keys=DeviceKeyPair.generate(),
            static=StaticKeyPair.generate(),
            user=UserHint(handle=name),
            capabilities=(capability,),
        )

    def connect(self, device: ClientParameters) -> AbstractAsyncContextManager[Connection]:
        return connect(self.address, self.trust, device)


def sender_of(run: str) -> str:
    """Device id of a run's sender, which its receivers must know beforehand."""
    return f"bench-sender-{run}"


async def befriend(connection: Connection, run: str) -> None:
    """Give the receiver a route to the sender: strangers may fill a small part of an inbox only.

    Raises:
        CliError: the server refuses.
    """
    joined = await connection.join(CHANNEL, [sender_of(run)])
    if joined.error is not None:
        raise CliError(f"the server refuses the receiver's channel: {joined.text}")


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception inside nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# -- sender ---------------------------------------------------------------------------------------


async def send(job: SenderJob, start: Start) -> SenderReport:
    """Send everything, with ``window`` messages on the way.

    Raises:
        CliError: the load cannot begin.
    """
    target = await LoadTarget.find(job.server, job.tls_ca)
    payloads = make_payloads(bytes.fromhex(job.run), job.messages, job.size)
    async with target.connect(target.new_device(sender_of(job.run), SEND_ONLY)) as connection:
        joined = await connection.join(CHANNEL, job.devices)
        if joined.error is not None:
            raise CliError(f"the server refuses the sender's channel: {joined.text}")
        await start(Ready(devices=[]))
        return await _Sending(connection, job).run(payloads)


class _Sending:
    """One sender at work."""

    def __init__(self, connection: Connection, job: SenderJob) -> None:
        self._connection = connection
        self._job = job
        self._on_the_way = 0
        self._acknowledged = 0
        self._refused = 0
        self._ended = 0.0
        self._lot = trio.lowlevel.ParkingLot()
        self._patience = trio.CancelScope()

    async def run(self, payloads: list[bytes]) -> SenderReport:
        cpu, started = time.process_time(), time.monotonic()
        self._ended = started
        problem = None
        try:
            with self._patience:
                self._extend()
                await self._send(payloads)
        except* CliError as group:
            problem = f"the sender lost its session: {first_of(group)}"
        if self._patience.cancelled_caught:
            problem = f"the server acknowledged nothing for {self._job.stall:g} s"
        return SenderReport(
            started=started,
            ended=self._ended,
            acknowledged=self._acknowledged,
            refused=self._refused,
            cpu_seconds=time.process_time() - cpu,
            problem=problem,
        )

    async def _send(self, payloads: list[bytes]) -> None:
        connection, window = self._connection, self._job.window
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.wait_ended)
            for payload in payloads:
                while self._on_the_way >= window:
                    await self._lot.park()
                self._on_the_way += 1
                connection.send_frame(FrameType.MSG, CHANNEL, payload, self._answered)
            while self._on_the_way:
                await self._lot.park()
            nursery.cancel_scope.cancel()

    def _answered(self, answer: Answer) -> None:
        self._on_the_way -= 1
        if answer.error is not None or answer.refused:
            self._refused += 1
        else:
            self._acknowledged += 1
        if self._lot:
            # Woken once for all answers of a read: the sender runs after the last of them.
            self._ended = time.monotonic()
            self._extend()
            self._lot.unpark_all()

    def _extend(self) -> None:
        self._patience.deadline = trio.current_time() + self._job.stall


# -- receivers ------------------------------------------------------------------------------------


async def receive(job: ReceiverJob, start: Start) -> ReceiverReport:
    """Receive everything with every device, confirming as it comes.

    Raises:
        CliError: the load cannot begin.
    """
    target = await LoadTarget.find(job.server, job.tls_ca)
    receiving = _Receiving(target, job)
    async with AsyncExitStack() as sessions:
        for device in receiving.devices:
            if job.away:
                # Makes the inbox that messages will wait in.
                async with target.connect(device) as connection:
                    await befriend(connection, job.run)
            else:
                connection = await sessions.enter_async_context(target.connect(device))
                await befriend(connection, job.run)
                receiving.connections.append(connection)
        await start(Ready(devices=[device.device_id for device in receiving.devices]))
        return await receiving.run()


class _Receiving:
    """All receivers of one process."""

    def __init__(self, target: LoadTarget, job: ReceiverJob) -> None:
        self._target = target
        self._job = job
        self.devices = [
            target.new_device(f"bench-receiver-{secrets.token_hex(8)}", DELIVERY_ACK)
            for _ in range(job.receivers)
        ]
        self.connections: list[Connection] = []
        """Of the devices in their order; empty when they are away."""
        self._tallies = [Tally(bytes.fromhex(job.run), job.messages, job.size) for _ in self.devices]
        self._patience = trio.CancelScope()
        self._ended = 0.0
        self._cpu = 0.0

    async def run(self) -> ReceiverReport:
        cpu, started = time.process_time(), time.monotonic()
        self._ended, self._cpu = started, cpu
        problem = None
        try:
            with self._patience:
                self._note_progress()
                async with trio.open_nursery() as nursery:
                    for index in range(len(self.devices)):
                        nursery.start_soon(self._receive, index)
        except* CliError as group:
            problem = f"a receiver lost its session: {first_of(group)}"
        if self._patience.cancelled_caught:
            problem = f"nothing arrived for {self._job.stall:g} s"
        tallies = self._tallies
        return ReceiverReport(
            started=started,
            ended=self._ended,
            received=sum(tally.received for tally in tallies),
            duplicates=sum(tally.duplicates for tally in tallies),
            out_of_order=sum(tally.out_of_order for tally in tallies),
            damaged=sum(tally.damaged for tally in tallies),
            cpu_seconds=self._cpu - cpu,
            problem=problem,
        )

    async def _receive(self, index: int) -> None:
        tally = self._tallies[index]
        if self.connections:
            await self._receive_all(self.connections[index], tally)
        else:
            async with self._target.connect(self.devices[index]) as connection:
                await self._receive_all(connection, tally)

    async def _receive_all(self, connection: Connection, tally: Tally) -> None:
        while not tally.complete:
            _take(await connection.deliveries(), connection, tally)
            self._note_progress()
        with trio.move_on_after(LATECOMERS):
            while True:
                _take(await connection.deliveries(), connection, tally)

    def _note_progress(self) -> None:
        self._ended, self._cpu = time.monotonic(), time.process_time()
        self._patience.deadline = trio.current_time() + self._job.stall


def _take(frames: list[Frame], connection: Connection, tally: Tally) -> None:
    for frame in frames:
        if frame.type is FrameType.MSG:
            tally.take(frame.payload)
    connection.confirm(frames[-1].sequence)
