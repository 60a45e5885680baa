"""One HTTP/1.1 request and its response: the queues between its handler and the connection's tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from commucat_server.listener.errors import StreamLostError, StreamMisuseError
from commucat_server.listener.request import RequestHead
from commucat_server.listener.stream import HttpStream
from commucat_server.listener.wakeup import Wakeup

if TYPE_CHECKING:
    from commucat_server.listener.h1_exchange import H1Exchange

SWITCHING = 101

_POLL_FIRST, _POLL_LAST = 0.001, 1.0
"""Seconds between two looks at the send queue: soon after a write most are answered, and a slow peer must not
cost more than a look per second."""


class H1Stream(HttpStream):
    """The HTTP/1.1 form of a stream. The handler calls the inherited methods, the connection the rest.

    Positions count bytes of the response body since its start.
    """

    __slots__ = (
        "_arrived",
        "_end_flushed",
        "_exchange",
        "_flushed",
        "_inbound",
        "_lost",
        "_progress",
        "_queued",
        "_started",
        "ending",
        "inbound_bytes",
        "outbox",
        "peer_ended",
        "raw",
        "taken",
        "work",
    )

    def __init__(self, exchange: "H1Exchange", head: RequestHead, remote: tuple[str, int]) -> None:
        self.method = head.method.decode("latin-1")
        self.path = head.path.decode("latin-1")
        self.query = head.query.decode("latin-1")
        self.headers = head.first_headers()
        self.remote_host, self.remote_port = remote
        self.outbox = bytearray()
        self.ending = False
        self.raw = False
        """After a 101: the connection carries this stream's bytes and nothing else."""
        self.work = Wakeup()
        """Set when the writer has something to do."""
        self.taken = Wakeup()
        """Set when the reader has room again."""
        self.inbound_bytes = 0
        self.peer_ended = False
        self._exchange = exchange
        self._inbound: list[bytes] = []
        self._arrived = Wakeup()
        self._progress = trio.lowlevel.ParkingLot()
        self._queued = self._flushed = 0
        self._end_flushed = self._started = False
        self._lost: str | None = None

    # The handler's side

    @property
    def http_version(self) -> str:
        return "1.1"

    async def start(
        self, status: int, headers: Sequence[tuple[str, str]], *, with_body: bool = False
    ) -> None:
        try:
            fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        except UnicodeEncodeError as exc:
            raise StreamMisuseError("a header is not Latin-1") from exc
        if status < 300:
            # Here the response begins before the body is read: a client that waits for permission to send
            # would take the final status for a refusal.
            self._exchange.permit_body()
        self.send_head(status, fields, end=False)

    def send_head(self, status: int, headers: Sequence[tuple[bytes, bytes]], *, end: bool) -> None:
        self._check_alive()
        if self._started:
            raise StreamMisuseError("the response was started before")
        self._exchange.send_head(status, headers)
        self._started = True
        self.ending = end
        self.work.set()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._inbound:
            if self.peer_ended:
                return b""
            self._check_alive()
            self._exchange.permit_body()
            await self._arrived.wait()
        data = self._inbound[0] if len(self._inbound) == 1 else b"".join(self._inbound)
        self._inbound = []
        self.inbound_bytes = 0
        self.taken.set()
        return data

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_sendable()
        while len(self.outbox) >= self._exchange.settings.outbox_high_water:
            await self._progress.park()
            self._check_sendable()
        if data:
            self.outbox += data
            self._queued += len(data)
            self.work.set()

    async def flushed(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        position = self._queued
        while self._flushed < position:
            self._check_alive()
            await self._progress.park()

    @property
    def sent_bytes(self) -> int:
        return self._queued

    async def confirm(self, beyond: int | None = None) -> int:
        position = self._queued
        await self.flushed()
        progress = self._exchange.progress
        mark, best = progress.sent(), -1
        pause, patience = _POLL_FIRST, self._exchange.settings.ping_timeout
        deadline = trio.current_time() + patience
        while (acknowledged := progress.acknowledged()) < mark:
            if acknowledged > best:
                best, deadline = acknowledged, trio.current_time() + patience
            elif trio.current_time() >= deadline:
                self._exchange.lose("peer acknowledges nothing")
            self._check_alive()
            await trio.sleep(pause)
            pause = min(2 * pause, _POLL_LAST)
        self._check_alive()
        return position

    async def end(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._started:
            raise StreamMisuseError("the response was not started")
        self.ending = True
        self.work.set()

    def reset(self) -> None:
        if not self._end_flushed:
            self._exchange.lose("reset by this server")

    async def wait_closed(self) -> None:
        while self._lost is None and not self._end_flushed:
            await self._progress.park()

    @property
    def outbox_bytes(self) -> int:
        return len(self.outbox)

    @property
    def started(self) -> bool:
        return self._started

    # The connection's side

    @property
    def lost(self) -> bool:
        """Whether the connection is gone, or to be given up."""
        return self._lost is not None

    @property
    def end_flushed(self) -> bool:
        """Whether the response was passed to the kernel to its end."""
        return self._end_flushed

    def take(self, limit: int) -> bytes:
        """Remove up to ``limit`` bytes from the outbox; an empty one keeps no memory."""
        if len(self.outbox) <= limit:
            chunk = bytes(self.outbox)
            self.outbox = bytearray()
        else:
            chunk = bytes(memoryview(self.outbox)[:limit])
            del self.outbox[:limit]
        return chunk

    def flushed_more(self, amount: int, *, ended: bool) -> None:
        """So many more bytes of the body (and its end) were passed to the kernel."""
        self._flushed += amount
        self._end_flushed = ended
        self._progress.unpark_all()

    def deliver(self, data: bytes) -> None:
        """Queue bytes of the peer."""
        if self._lost is None and data:
            self._inbound.append(data)
            self.inbound_bytes += len(data)
            self._arrived.set()

    def deliver_end(self) -> None:
        """The peer ended its side."""
        self.peer_ended = True
        self._arrived.set()

    def switch(self) -> None:
        """The request is over, and plain bytes follow."""
        self.raw = True
        self.peer_ended = False

    def lose(self, reason: str) -> None:
        """Nothing goes out any more, and nothing more comes in; what came before can be received."""
        if self._lost is None:
            self._lost = reason
            self.outbox.clear()
            self._arrived.set()
            self.work.set()
            self.taken.set()
            self._progress.unpark_all()

    def check_answered(self) -> None:
        """Raise ``StreamMisuseError`` if the handler sent nothing although it could have."""
        if not self._started and self._lost is None:
            raise StreamMisuseError("the handler returned without an answer")

    async def finish(self, patience: float) -> None:
        """End the response and return when that was passed to the kernel, or the peer took nothing more."""
        if self._lost is None:
            await self.end()
        while self._lost is None and not self._end_flushed:
            with trio.move_on_after(patience) as waiting:
                await self._progress.park()
            if waiting.cancelled_caught:
                self._exchange.lose("peer takes nothing of its answer")

    def _check_alive(self) -> None:
        if self._lost is not None:
            raise StreamLostError(self._lost)

    def _check_sendable(self) -> None:
        self._check_alive()
        if not self._started or self.ending:
            raise StreamMisuseError("bytes before the start or after the end of a response")
