"""A TURN client (RFC 8656) over UDP, as small as a test needs it, and a real coturn to speak to."""

import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from commucat_proto import stun
from commucat_proto.stun import Attribute, AttributeType, Kind, Method

UDP: Final = bytes([17, 0, 0, 0])  # RFC 8656, section 18.8: the protocol number of IP
FIRST_CHANNEL: Final = 0x4000
ATTEMPTS: Final = 5
DEADLINE: Final = 30.0
GUIDE: Final = Path(__file__).parents[2] / "docs" / "nat.md"


class TurnRefusedError(Exception):
    """The server has answered with an error."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


@attrs.define(eq=False)
class TurnClient:
    """One allocation."""

    socket: trio.socket.SocketType
    username: str
    password: str
    realm: str = ""
    nonce: bytes = b""
    key: bytes | None = None
    relayed: stun.SocketAddress | None = None
    data: list[tuple[int | None, bytes]] = attrs.Factory(list)
    """What came meanwhile: the channel (None: a Data indication), and the bytes."""

    async def allocate(self) -> stun.SocketAddress:
        """Ask without credentials, learn realm and nonce, ask again with them (RFC 8489, section 9.2)."""
        asked = Attribute(AttributeType.REQUESTED_TRANSPORT, UDP)
        first = await self._exchange(Method.ALLOCATE, asked)
        assert first.kind is Kind.ERROR
        assert stun.parse_error(first.first(AttributeType.ERROR_CODE) or b"")[0] == 401
        self.realm = (first.first(AttributeType.REALM) or b"").decode()
        self.nonce = first.first(AttributeType.NONCE) or b""
        self.key = stun.long_term_key(self.username, self.realm, self.password)
        done = await self.request(Method.ALLOCATE, asked)
        relayed = done.first(AttributeType.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        self.relayed = stun.xor_address(relayed, done.transaction)
        return self.relayed

    async def request(
        self, method: Method, *attributes: Attribute, peer: stun.SocketAddress | None = None
    ) -> stun.StunMessage:
        """A request with credentials, about a peer or none; raises TurnRefusedError."""
        answer = await self._exchange(method, *attributes, peer=peer)
        if answer.kind is Kind.ERROR:
            raise TurnRefusedError(*stun.parse_error(answer.first(AttributeType.ERROR_CODE) or b""))
        return answer

    async def permit(self, peer: stun.SocketAddress) -> None:
        await self.request(Method.CREATE_PERMISSION, peer=peer)

    async def bind(self, channel: int, peer: stun.SocketAddress) -> None:
        number = Attribute(AttributeType.CHANNEL_NUMBER, channel.to_bytes(2, "big") + bytes(2))
        await self.request(Method.CHANNEL_BIND, number, peer=peer)

    async def send_indication(self, peer: stun.SocketAddress, data: bytes) -> None:
        transaction = secrets.token_bytes(12)
        attributes = (
            Attribute(AttributeType.XOR_PEER_ADDRESS, stun.xor_address_value(peer, transaction)),
            Attribute(AttributeType.DATA, data),
        )
        message = stun.StunMessage(
            kind=Kind.INDICATION, method=Method.SEND, transaction=transaction, attributes=attributes
        )
        await self.socket.send(message.encode())

    async def receive_data(self) -> tuple[int | None, bytes]:
        while not self.data:
            self._take(await self.socket.recv(4096))
        return self.data.pop(0)

    async def _exchange(
        self, method: Method, *attributes: Attribute, peer: stun.SocketAddress | None = None
    ) -> stun.StunMessage:
        transaction = secrets.token_bytes(12)
        filled = list(attributes)
        if peer is not None:
            covered = stun.xor_address_value(peer, transaction)
            filled.append(Attribute(AttributeType.XOR_PEER_ADDRESS, covered))
        if self.key is not None:
            filled += [
                Attribute(AttributeType.USERNAME, self.username.encode()),
                Attribute(AttributeType.REALM, self.realm.encode()),
                Attribute(AttributeType.NONCE, self.nonce),
            ]
        message = stun.StunMessage(
            kind=Kind.REQUEST, method=method, transaction=transaction, attributes=tuple(filled)
        )
        sent = stun.seal(message, key=self.key, fingerprint=True)
        while True:
            await self.socket.send(sent)
            with trio.move_on_after(0.5):  # RFC 8489, section 6.2.1
                while True:
                    datagram = await self.socket.recv(4096)
                    answer = self._take(datagram)
                    if answer is not None and answer.transaction == transaction:
                        if self.key is not None and answer.kind is Kind.SUCCESS:
                            assert stun.verify(datagram, self.key)[1] is not None
                        return answer

    def _take(self, datagram: bytes) -> stun.StunMessage | None:
        if datagram[0] & 0xC0:
            self.data.append(stun.read_channel_data(datagram))
            return None
        message, _ = stun.verify(datagram)
        if message.kind is Kind.INDICATION and message.method == Method.DATA:
            self.data.append((None, message.first(AttributeType.DATA) or b""))
            return None
        return message


@attrs.frozen
class Coturn:
    """A TURN server that runs."""

    port: int
    log: Path

    @asynccontextmanager
    async def client(self, username: str, password: str) -> AsyncIterator[TurnClient]:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            await opened.connect(("127.0.0.1", self.port))
            yield TurnClient(opened, username, password)


@contextmanager
def running_coturn(home: Path, secret: str) -> Iterator[Coturn]:
    """With the configuration of docs/nat.md but for addresses; in a directory of its own."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.fail("turnserver is missing; run scripts/test-tools.sh")
    for attempt in range(ATTEMPTS):
        port = _free_port()
        log = home / f"coturn-{attempt}.log"
        config = home / "turnserver.conf"
        config.write_text(
            _of_the_guide(port, secret)
            + "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nallow-loopback-peers\n"
            + f"pidfile={home}/turnserver.pid\nuserdb={home}/turndb\nlog-file=stdout\nsimple-log\n"
        )
        with log.open("wb") as output:
            process = subprocess.Popen([program, "-c", str(config)], stdout=output, stderr=output, cwd=home)
        try:
            if trio.run(_answers, port, process):
                yield Coturn(port, log)
                return
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
    pytest.fail(f"coturn did not start: {log.read_text()[-2000:]}")


def _of_the_guide(port: int, secret: str) -> str:
    """The configuration of the guide for another port and secret, and for peers on this machine."""
    [shown] = re.findall(r"```\n(listening-port=.*?)```", GUIDE.read_text(), re.DOTALL)
    kept = [line for line in shown.splitlines() if not line.startswith("denied-peer-ip=127.")]
    text = "\n".join(kept).replace("=SECRET", f"={secret}")
    return text.replace("listening-port=3478", f"listening-port={port}") + "\n"


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


async def _answers(port: int, process: "subprocess.Popen[bytes]") -> bool:
    """Whether it answers a Binding request; not if it has ended, such as for a port that was taken."""
    transaction = secrets.token_bytes(12)
    with trio.move_on_after(DEADLINE), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        await asker.bind(("127.0.0.1", 0))
        while process.poll() is None:
            await asker.sendto(stun.binding_request(transaction).encode(), ("127.0.0.1", port))
            with trio.move_on_after(0.1):
                return stun.decode(await asker.recv(2048)).transaction == transaction
    return False
