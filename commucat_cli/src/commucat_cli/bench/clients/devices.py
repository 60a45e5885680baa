"""Devices of a load, and the keys of the server they connect to."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from commucat_cli.bench.jobs import Effort, Server
from commucat_cli.bench.load_session import LoadSession, LoadTarget
from commucat_cli.client.server_info import ServerInfo, fetch_server_info
from commucat_cli.errors import CliError
from commucat_cli.transport import ServerAddress, Timeouts, Trust, open_h2
from commucat_cli.transport.trust import client_context
from commucat_crypto import DeviceKeyPair, StaticKeyPair
from commucat_proto import DELIVERY_ACK, ClientParameters, FrameType, UserHint

CHANNEL = 7


def find_server(server: Server) -> LoadTarget:
    """Ask the server for its keys.

    Raises:
        CliError: it cannot be reached, or is no CommuCat server.
    """
    address = ServerAddress.parse(server.url)
    trust = Trust(ca_file=None if server.tls_ca is None else Path(server.tls_ca))
    info = trio.run(_ask, address, trust)
    return LoadTarget(
        address=address,
        context=client_context(trust),
        domain=info.domain,
        noise_public=info.noise_public,
        patience=server.stall,
    )


async def _ask(address: ServerAddress, trust: Trust) -> ServerInfo:
    timeouts = Timeouts()
    async with open_h2(address, trust, timeouts) as client:
        return await fetch_server_info(client, timeouts)


def moved(target: LoadTarget, url: str) -> LoadTarget:
    """The same server at another address: it was started again."""
    return attrs.evolve(target, address=ServerAddress.parse(url))


def new_device(target: LoadTarget, name: str, *capabilities: str) -> ClientParameters:
    """A user with one device."""
    return ClientParameters(
        domain=target.domain,
        server_static=target.noise_public,
        device_id=name,
        device_keys=DeviceKeyPair.generate(),
        static=StaticKeyPair.generate(),
        user=UserHint(handle=name),
        capabilities=capabilities or (DELIVERY_ACK,),
    )


def sender_of(crew: str, domain: str | None = None) -> str:
    """Device id of a crew's sender, which its receivers must know beforehand; of another server: with its
    domain."""
    name = f"bench-sender-{crew}"
    return name if domain is None else f"{name}@{domain}"


def join(session: LoadSession, members: list[str], patience: float) -> None:
    """Say where the device's messages go; makes their senders no strangers to it.

    Raises:
        CliError: the server refuses.
    """
    answer = session.request(FrameType.JOIN, CHANNEL, {"members": members}, patience)
    if answer.error is not None:
        raise CliError(f"the server refuses the channel: {answer.text}")


class Watch:
    """Times a task, and notices when it makes no progress."""

    def __init__(self, stall: float) -> None:
        self.stall = stall
        self.started = self.ended = time.monotonic()
        self._cpu_before = self._cpu = time.process_time()
        self.problem: str | None = None

    def progress(self) -> float:
        """Something that counts has happened now; returns the time."""
        self.ended, self._cpu = time.monotonic(), time.process_time()
        return self.ended

    @property
    def patience(self) -> float:
        """Seconds that are left for the next progress."""
        return self.ended + self.stall - time.monotonic()

    def effort(self) -> Effort:
        """What it took, up to the last progress."""
        return Effort(
            started=self.started,
            ended=self.ended,
            cpu_seconds=self._cpu - self._cpu_before,
            problem=self.problem,
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """No search for garbage meanwhile: its pauses would be counted as the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
