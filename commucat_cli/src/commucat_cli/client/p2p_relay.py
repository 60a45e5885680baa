"""A peer at the server's relay ``/p2p``: payloads to another peer, protected against loss of their parts.

The relay itself loses nothing, but what feeds it may: a sender that drops what it cannot send in time, or
a datagram path before it. So each payload travels as datagrams of :mod:`commucat_proto.fec`, one in a
WebSocket message, and arrives if enough of them do.
"""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlencode

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, ProtocolError, RemoteProtocolError

from commucat_cli.client.rest import answer_within, read_problem
from commucat_cli.errors import ConnectionLostError, NotCommuCatError
from commucat_cli.transport import HTTP1, ServerAddress, Timeouts, Trust, closing
from commucat_cli.transport.open import open_tls
from commucat_cli.transport.tasks import alongside
from commucat_proto.fec import LOW_LATENCY, DatagramAssembler, FecProfile, datagrams_of

PATH = "/p2p"
READY = b"OK"
_READ_LEN = 65_536
_WAITING = 32
"""Writes that wait for the connection; whoever sends more waits, too."""
_MAX_DATAGRAM = 64 * 1024
_MAX_PROBLEM = 64 * 1024
_TIMEOUTS = Timeouts()


class P2pRelay:
    """One end of a meeting. Made by :func:`join_relay`.

    One task may send while another receives.
    """

    def __init__(self, stream: trio.abc.Stream, profile: FecProfile) -> None:
        self._stream = stream
        self._profile = profile
        self._websocket = WSConnection(ConnectionType.CLIENT)
        self._outgoing, self._to_write = trio.open_memory_channel[bytes](_WAITING)
        self._events: deque[Event] = deque()
        self._part = bytearray()
        self._number = 0
        self.assembler = DatagramAssembler()
        """Counts what came and was of no use."""
        self.closed: tuple[int, str] | None = None
        """Code and reason of the server's Close frame."""

    async def write(self) -> None:
        """Pass on what is to be sent, until that fails; whoever sends or receives is told then."""
        async with self._to_write:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in self._to_write:
                    await self._stream.send_all(data)

    async def open(self, host: str, path: str, headers: Sequence[tuple[str, str]]) -> None:
        """The opening handshake.

        Raises:
            CliError: the server refuses, or is none with a relay.
        """
        fields = [(name.encode(), value.encode()) for name, value in headers]
        await self._send(Request(host=host, target=path, extra_headers=fields))
        match await self._next_event():
            case AcceptConnection():
                return
            case RejectConnection() as refusal:
                body = bytearray()
                while refusal.has_body:
                    data = await self._next_event()
                    if not isinstance(data, RejectData) or len(body) > _MAX_PROBLEM:
                        break
                    body += data.data
                    if data.body_finished:
                        break
                found = {name.decode("latin-1"): value.decode("latin-1") for name, value in refusal.headers}
                raise read_problem(refusal.status_code, found, bytes(body), PATH)
            case _:
                raise NotCommuCatError("the server's answer to the WebSocket upgrade is none")

    async def join(self, session_id: str) -> None:
        """Name the word under which the two peers meet.

        Raises:
            ConnectionLostError: the server does not take it; the text says why.
        """
        await self._send(BytesMessage(data=session_id.encode()))
        if await self.receive_datagram() != READY:
            raise ConnectionLostError(f"the relay does not take the session id: {self.reason}")

    @property
    def reason(self) -> str:
        """Why the server has closed, for people."""
        code, reason = self.closed or (1006, "")
        return f"{reason or 'the connection has ended'} ({code})"

    async def send(self, payload: bytes) -> None:
        """Send one payload of 1 to 65,536 bytes, as datagrams.

        Raises:
            commucat_proto.LocalProtocolError: it is longer.
            ConnectionLostError: the connection broke, or the meeting is over.
        """
        datagrams = datagrams_of(self._number, payload, self._profile)
        self._number += 1
        for datagram in datagrams:
            await self.send_datagram(datagram)

    async def send_datagram(self, datagram: bytes) -> None:
        """Send one datagram as it is."""
        await self._send(BytesMessage(data=datagram))

    async def receive(self) -> bytes | None:
        """The next payload that is whole; ``None`` at the end of the meeting, see :attr:`closed`.

        Raises:
            ConnectionLostError: the connection broke.
        """
        while (datagram := await self.receive_datagram()) is not None:
            found = self.assembler.add(datagram)
            if found is not None:
                return found[1]
        return None

    async def receive_datagram(self) -> bytes | None:
        """The next message as it came, text as UTF-8; likewise."""
        while True:
            match await self._next_event():
                case BytesMessage() | TextMessage() as message:
                    data = message.data
                    self._part += data.encode() if isinstance(data, str) else data
                    if len(self._part) > _MAX_DATAGRAM:
                        raise ConnectionLostError("the relay sends a message that is too long")
                    if message.message_finished:
                        whole = bytes(self._part)
                        self._part.clear()
                        return whole
                case Ping() as ping:
                    await self._send(ping.response())
                case CloseConnection() as close:
                    self.closed = (int(close.code), close.reason or "")
                    return None
                case _:
                    continue

    async def _send(self, event: Event) -> None:
        try:
            await self._outgoing.send(self._websocket.send(event))
        except trio.BrokenResourceError as exc:
            raise ConnectionLostError("the connection to the relay was lost") from exc
        except LocalProtocolError as exc:
            raise ConnectionLostError(f"the meeting is over: {self.reason}") from exc

    async def _next_event(self) -> Event:
        while not self._events:
            try:
                data = await self._stream.receive_some(_READ_LEN)
                self._websocket.receive_data(bytes(data) or None)
                self._events.extend(self._websocket.events())
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise ConnectionLostError("the connection to the relay was lost") from exc
            except (RemoteProtocolError, ProtocolError) as exc:
                raise ConnectionLostError(f"the relay broke the rules of WebSocket: {exc}") from exc
            if not data and not self._events:
                raise ConnectionLostError("the relay has ended the connection")
        return self._events.popleft()


@asynccontextmanager
async def join_relay(
    address: ServerAddress,
    trust: Trust,
    session_id: str,
    *,
    ticket: str = "",
    token: str = "",
    profile: FecProfile = LOW_LATENCY,
    timeouts: Timeouts = _TIMEOUTS,
    patience: float = 20.0,
) -> AsyncIterator[P2pRelay]:
    """Wait at a relay for the other peer, with a ticket of the server's advice or with a session's token.

    Args:
        address: of the server.
        trust: how its certificate is checked.
        session_id: 16 to 96 letters, digits, ``-`` and ``_`` that both peers know and nobody guesses.
        ticket: goes into the address.
        token: goes into a header.
        profile: how payloads are cut.
        timeouts: of the connection.
        patience: seconds until the server has taken the session id; for the other peer it waits longer.

    Raises:
        CliError: there is no connection, or the server refuses.
    """
    path = f"{PATH}?{urlencode({'ticket': ticket})}" if ticket else PATH
    headers = [("user-agent", "commucat-cli")] + ([("authorization", f"Bearer {token}")] if token else [])
    tls = await open_tls(address, trust, timeouts, [HTTP1])
    async with closing(tls):
        relay = P2pRelay(tls, profile)
        async with alongside(relay.write):
            with answer_within(patience, "the relay does not answer"):
                await relay.open(address.authority, path, headers)
                await relay.join(session_id)
            yield relay
