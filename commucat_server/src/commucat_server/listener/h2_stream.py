"""One HTTP/2 stream: the queues between its handler and the connection's reader and writer."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from commucat_server.listener.errors import StreamLostError, StreamMisuseError
from commucat_server.listener.request import RequestHead
from commucat_server.listener.stream import HttpStream
from commucat_server.listener.wakeup import Wakeup

if TYPE_CHECKING:
    from commucat_server.listener.h2_connection import H2Connection

NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0, 2, 7, 8  # RFC 9113, section 7

# RFC 9113, section 8.2.2: fields that mean the connection; a peer must treat a response with one as broken.
_CONNECTION_FIELDS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)

# RFC 9110, sections 5.1 and 5.5; RFC 9113, section 8.2.1. The protocol library would send anything.
_FIELD_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_FIELD_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")


_CREDIT = 8192
"""Bytes taken before the library is told: an eighth of the smallest window, and some thirty messages."""


class _Taking:
    """Somebody who waits in ``receive_by``."""

    __slots__ = ("_take", "ended", "failed")

    def __init__(self, take: Callable[[bytes], bool]) -> None:
        self._take = take
        self.ended = False
        self.failed: Exception | None = None

    def goes_on(self, data: bytes) -> bool:
        """Whether it takes more after this."""
        try:
            self.ended = not self._take(data)
        except Exception as exc:  # noqa: BLE001 - raised where it is waited for; the connection has others to serve
            self.failed = exc
            self.ended = True
        return not self.ended


class H2Stream(HttpStream):
    """The HTTP/2 form of a stream. The handler calls the inherited methods, the connection the rest.

    Positions count bytes of the response body since its start.
    """

    __slots__ = (
        "_answered_alive",
        "_arrived",
        "_connection",
        "_end_flushed",
        "_flushed",
        "_inbound",
        "_inbound_credit",
        "_lost",
        "_peer_ended",
        "_ping_mark",
        "_progress",
        "_protocol",
        "_queued",
        "_started",
        "_taking",
        "_writer",
        "blocked",
        "end_framed",
        "ending",
        "framed",
        "outbox",
        "stream_id",
    )

    def __init__(
        self, connection: "H2Connection", stream_id: int, head: RequestHead, remote: tuple[str, int]
    ) -> None:
        self.method = head.method.decode("latin-1")
        self.path = head.path.decode("latin-1")
        self.query = head.query.decode("latin-1")
        self.headers = head.first_headers()
        self.remote_host, self.remote_port = remote
        self._protocol = head.protocol.decode("latin-1")
        self.stream_id = stream_id
        self.outbox = bytearray()
        self.framed = self._queued = self._flushed = 0
        # PINGs the connection had sent when this stream's last bytes were framed.
        self._ping_mark = 0
        self.blocked = False
        """Out of the writer's rotation until the peer opens its flow-control window."""
        self.ending = self.end_framed = self._end_flushed = False
        self._connection = connection
        self._writer = connection.writer
        self._inbound: list[bytes] = []
        self._inbound_credit = 0
        self._arrived = Wakeup()
        self._taking: _Taking | None = None
        self._progress: trio.lowlevel.ParkingLot | None = None
        self._peer_ended = False
        self._started = False
        self._lost: str | None = None
        # PINGs that were answered when it was lost.
        self._answered_alive: int | None = None

    # The handler's side

    @property
    def protocol(self) -> str:
        return self._protocol

    async def start(
        self, status: int, headers: Sequence[tuple[str, str]], *, with_body: bool = False
    ) -> None:
        try:
            fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        except UnicodeEncodeError as exc:
            raise StreamMisuseError("a header is not Latin-1") from exc
        self._send_head(status, fields, end=False, now=not with_body)

    def send_head(self, status: int, headers: Sequence[tuple[bytes, bytes]], *, end: bool) -> None:
        self._send_head(status, headers, end=end, now=True)

    def _send_head(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], *, end: bool, now: bool
    ) -> None:
        self._check_alive()
        if self._started:
            raise StreamMisuseError("the response was started before")
        fields = [(b":status", b"%d" % status)]
        for name, value in headers:
            if not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
                raise StreamMisuseError(f"header {name!r} is not valid")
            if name not in _CONNECTION_FIELDS:
                fields.append((name, value))
        self._connection.send_head(self.stream_id, fields, end=end, now=now)
        self._started = True
        if end:
            self.ending = self.end_framed = True
            self._writer.watch(self)

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._inbound:
            if self._peer_ended:
                return b""
            self._check_alive()
            self._writer.hurry()
            await self._arrived.wait()
        return self._collect()

    async def receive_by(self, take: Callable[[bytes], bool]) -> bool:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._inbound:
                if not take(self._collect()):
                    return True
                continue
            if self._peer_ended:
                return False
            self._check_alive()
            self._writer.hurry()
            waiting = self._taking = _Taking(take)
            try:
                await self._arrived.wait()
            finally:
                self._taking = None
            if waiting.failed is not None:
                raise waiting.failed
            if waiting.ended:
                return True

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_sendable()
        while len(self.outbox) >= self._connection.settings.outbox_high_water:
            await self._wait_progress()
            self._check_sendable()
        if data:
            self.outbox += data
            self._queued += len(data)
            self._writer.offer(self)

    def send_now(self, data: bytes) -> bool:
        self._check_sendable()
        if not self.outbox and data and self._writer.pass_on(self, data):
            self._queued += len(data)
            return True
        if len(self.outbox) >= self._connection.settings.outbox_high_water:
            return False
        self.outbox += data
        self._queued += len(data)
        self._writer.push(self)
        return True

    async def flushed(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        position = self._queued
        self._writer.hurry()
        while self._flushed < position:
            self._check_alive()
            await self._wait_progress()

    async def confirm(self, beyond: int | None = None) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        wanted = self._queued if beyond is None else beyond + 1
        while self.framed < wanted:
            self._check_alive()
            await self._wait_progress()
        position = self.framed
        # A PING counts if it was sent after the last bytes were framed, also if that is long ago.
        number = self._ping_mark + 1
        while self._answered < number:
            self._check_alive()
            await self._writer.wait_ping(number)
        return position

    @property
    def _answered(self) -> int:
        """The newest PING whose answer speaks for this stream.

        A peer drops what comes for a stream that it has reset (RFC 9113, section 5.1), and answers PINGs all
        the same.
        """
        return self._writer.pings.answered if self._answered_alive is None else self._answered_alive

    async def end(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._started:
            raise StreamMisuseError("the response was not started")
        if not self.ending and self._lost is None:
            self.ending = True
            self._writer.push(self)

    def reset(self) -> None:
        self.break_off(CANCEL)

    def cut_off(self) -> None:
        if self._lost is not None or self.end_framed:
            return
        self._queued -= len(self.outbox)
        self.outbox = bytearray()
        self.ending = True
        # RFC 9113, section 6.9.1: an empty DATA frame that ends the stream needs no room in a window.
        self.blocked = False
        self._writer.offer(self)
        self._notify()

    @property
    def sent_bytes(self) -> int:
        return self._queued

    async def wait_closed(self) -> None:
        while self._lost is None and not self._end_flushed:
            await self._wait_progress()

    @property
    def outbox_bytes(self) -> int:
        return len(self.outbox)

    @property
    def started(self) -> bool:
        return self._started

    # The connection's side

    def take(self, limit: int) -> bytes:
        """Remove up to ``limit`` bytes (at least 0) from the outbox; an empty one keeps no memory."""
        if len(self.outbox) <= limit or not self.outbox:
            chunk = bytes(self.outbox)
            self.outbox = bytearray()
        else:
            with memoryview(self.outbox)[:limit] as view:
                chunk = bytes(view)
            del self.outbox[:limit]
        return chunk

    def framed_to(self, position: int, *, ended: bool, pings: int) -> None:
        """The body up to ``position`` (and its end) is on its way; ``pings`` were sent before it."""
        self.framed, self.end_framed, self._ping_mark = position, ended, pings
        self._notify()

    def flushed_to(self, position: int, *, ended: bool) -> None:
        """The body up to ``position`` (and its end) was passed to the kernel."""
        self._flushed, self._end_flushed = position, ended
        self._notify()

    def deliver(self, data: bytes, credit: int) -> None:
        """Queue bytes of the peer; ``credit`` is what they cost of its windows (padding included)."""
        if self._lost is not None or not data:
            self._connection.credit(self.stream_id, credit)
            return
        self._inbound_credit += credit
        taking = self._taking
        if taking is None:
            self._inbound.append(data)
            self._arrived.set()
        else:
            self._give_credit()
            if not taking.goes_on(data):
                self._taking = None
                self._arrived.set()

    def deliver_end(self) -> None:
        """The peer ended its side."""
        self._peer_ended = True
        self._arrived.set()

    def lose(self, reason: str) -> None:
        """Nothing goes out any more, and nothing more comes in; what came before can be received."""
        if self._lost is None and not (self._end_flushed and self._peer_ended):
            self._lost = reason
            self._answered_alive = self._writer.pings.answered
            self.outbox.clear()
            # A window that opens now must not bring it back to the writer.
            self.blocked = False
            self._arrived.set()
            self._notify()

    def break_off(self, code: int) -> None:
        """Reset the stream with an error code of RFC 9113, section 7."""
        if self._lost is None and not (self.end_framed and self._peer_ended):
            self._connection.reset_stream(self.stream_id, code)
            self.lose("reset by this server")

    def check_answered(self) -> None:
        """Raise ``StreamMisuseError`` if the handler sent nothing although it could have."""
        if not self._started and self._lost is None:
            raise StreamMisuseError("the handler returned without an answer")

    async def finish(self, patience: float) -> None:
        """End the response and return when that was passed to the kernel; called after the handler.

        A peer that is still sending is told to stop (RFC 9113, section 8.1). A peer that takes nothing for
        ``patience`` seconds loses the rest.
        """
        if self._lost is not None:
            return
        if not self._started:
            self.break_off(INTERNAL_ERROR)
            return
        await self.end()
        while self._lost is None and not self._end_flushed:
            with trio.move_on_after(patience) as waiting:
                await self._wait_progress()
            if waiting.cancelled_caught:
                self.break_off(CANCEL)
        if not self._peer_ended:
            self.break_off(NO_ERROR)

    def release(self) -> None:
        """Forget everything; called last. Bytes nobody took no longer count against the connection."""
        self.break_off(CANCEL)
        self._inbound = []
        if self._inbound_credit:
            self._connection.credit(self.stream_id, self._inbound_credit)
            self._inbound_credit = 0

    def _collect(self) -> bytes:
        """Take what has arrived, of which there is something."""
        data = self._inbound[0] if len(self._inbound) == 1 else b"".join(self._inbound)
        self._inbound = []
        self._give_credit()
        return data

    def _give_credit(self) -> None:
        """Tell the library what was taken, once that is worth an update of the peer's window."""
        if self._inbound_credit >= _CREDIT:
            credit, self._inbound_credit = self._inbound_credit, 0
            self._connection.credit(self.stream_id, credit)

    def _notify(self) -> None:
        """Let those who wait for room, a flush or the end look again."""
        if self._progress is not None:
            self._progress.unpark_all()

    def _check_alive(self) -> None:
        if self._lost is not None:
            raise StreamLostError(self._lost)

    def _check_sendable(self) -> None:
        self._check_alive()
        if not self._started or self.ending:
            raise StreamMisuseError("bytes before the start or after the end of a response")

    async def _wait_progress(self) -> None:
        if self._progress is None:
            self._progress = trio.lowlevel.ParkingLot()
        await self._progress.park()
