"""One request of an HTTP/1.1 connection under way: its handler, and the two tasks that move its bytes."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence

import h11
import structlog
import trio

from commucat_server.listener.errors import StreamLostError, StreamMisuseError
from commucat_server.listener.h1_progress import SendProgress
from commucat_server.listener.h1_stream import SWITCHING, H1Stream
from commucat_server.listener.problem import problem
from commucat_server.listener.request import RequestHead
from commucat_server.listener.settings import ListenerSettings

_log = structlog.get_logger("commucat.listener")

# RFC 9112, section 6: the framing of the response is ours to decide.
_OWN_FIELDS = frozenset({b"transfer-encoding", b"keep-alive", b"proxy-connection"})
_EVENTS_PER_TURN = 200
"""Events of the protocol library between two turns of other tasks: a peer may send chunks of one byte."""


async def receive_some(transport: trio.abc.Stream, limit: int) -> bytes:
    """What the peer sent; ``b""`` when it has left, in whatever way."""
    try:
        return bytes(await transport.receive_some(limit))
    except trio.BrokenResourceError:
        return b""


class H1Exchange:
    """From the request's head to the end of its response, or of the connection.

    Args:
        transport: bytes to and from the peer.
        protocol: the library's state; the request's head has been read from it.
        settings: limits and deadlines.
        progress: what the peer's kernel has acknowledged.
        head: the request.
        remote: address and port of the peer.
        is_last: asked when the response begins: whether the connection ends after it.
    """

    __slots__ = (
        "_h11",
        "_heads",
        "_is_last",
        "_nursery",
        "_transport",
        "broken",
        "lost",
        "progress",
        "settings",
        "stream",
    )

    def __init__(
        self,
        transport: trio.abc.Stream,
        protocol: h11.Connection,
        settings: ListenerSettings,
        *,
        progress: SendProgress,
        head: RequestHead,
        remote: tuple[str, int],
        is_last: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.progress = progress
        self.lost: str | None = None
        """Why the connection is of no more use."""
        self.broken: h11.RemoteProtocolError | None = None
        """What was wrong with the request's body."""
        self._transport = transport
        self._h11 = protocol
        self._is_last = is_last
        self._heads = bytearray()
        self._nursery: trio.Nursery | None = None
        self.stream = H1Stream(self, head, remote)

    async def run(self, handle: Callable[[], Awaitable[None]]) -> None:
        """Serve the request; returns when its response is out or its connection lost."""
        # What came with the head is known before the handler runs.
        self._pump()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._read)
            nursery.start_soon(self._write)
            await self._handle(handle)
            nursery.cancel_scope.cancel()
        self._nursery = None

    async def _handle(self, handle: Callable[[], Awaitable[None]]) -> None:
        stream = self.stream
        try:
            await handle()
            stream.check_answered()
        except* StreamLostError:
            stream.reset()
        except* Exception as failed:  # noqa: BLE001 - the top of this task
            cause = failed.exceptions[0] if len(failed.exceptions) == 1 else failed
            _log.error("handler failed", path=stream.path, exc_info=cause)
            if stream.started:
                stream.reset()
            elif not stream.lost:
                headers, body = problem(500, "InternalError", "internal server error")
                stream.send_head(500, headers, end=stream.method == "HEAD")
                if stream.method != "HEAD":
                    with contextlib.suppress(StreamLostError):
                        await stream.send(body)
        await stream.finish(self.settings.stall_timeout)

    # What the stream needs

    def send_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Queue a response head."""
        fields = [(name, value) for name, value in headers if name not in _OWN_FIELDS]
        try:
            if status == SWITCHING:
                head: h11.Event = h11.InformationalResponse(status_code=status, headers=fields)
                self._heads += self._h11.send(head) or b""
                self.stream.switch()
                self.stream.deliver(self._h11.trailing_data[0])
                return
            if self._is_last() and not any(name == b"connection" for name, _ in fields):
                fields.append((b"connection", b"close"))
            head = h11.Response(status_code=status, headers=fields)
            self._heads += self._h11.send(head) or b""
        except h11.LocalProtocolError as exc:
            raise StreamMisuseError(f"response head refused: {exc}") from exc

    def permit_body(self) -> None:
        """Tell a peer that waits for it (``Expect: 100-continue``) to send its body."""
        if self._h11.they_are_waiting_for_100_continue:
            self._heads += self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            self.stream.work.set()

    def lose(self, reason: str) -> None:
        """The connection is of no more use; the handler has ``drain_timeout`` to return."""
        if self.lost is None:
            self.lost = reason
            self.stream.lose(reason)
            if self._nursery is not None:
                self._nursery.cancel_scope.deadline = trio.current_time() + self.settings.drain_timeout

    # Reading

    async def _read(self) -> None:
        """Take what the peer sends, and notice when it leaves."""
        stream = self.stream
        ahead = 0
        while self.lost is None:
            while self._pump():
                await trio.lowlevel.checkpoint()
            if stream.peer_ended and ahead >= self.settings.read_size:
                return  # The requests behind this one wait for their turn.
            if stream.inbound_bytes >= self.settings.stream_window:
                await stream.taken.wait()
                continue
            data = await receive_some(self._transport, self.settings.read_size)
            if not data:
                self.lose("connection lost")
            elif stream.raw:
                stream.deliver(data)
            else:
                self._h11.receive_data(data)
                if stream.peer_ended:
                    ahead += len(data)

    def _pump(self) -> bool:
        """Pass on what is complete; whether there is more to do at once."""
        stream = self.stream
        if stream.raw or stream.peer_ended or self.lost is not None:
            return False
        try:
            for _ in range(_EVENTS_PER_TURN):
                match self._h11.next_event():
                    case h11.Data(data=data):
                        stream.deliver(bytes(data))
                    case h11.EndOfMessage():
                        stream.deliver_end()
                        return False
                    case _:
                        return False
        except h11.RemoteProtocolError as exc:
            self.broken = exc
            if not stream.started:
                # The answer says what is wrong; the handler sees a lost stream.
                stream.lose("malformed request body")
            else:
                self.lose("malformed request body")
            return False
        return True

    # Writing

    async def _write(self) -> None:
        stream = self.stream
        while self.lost is None:
            head, self._heads = bytes(self._heads), bytearray()
            body = stream.take(self.settings.write_size) if stream.started else b""
            ended = stream.started and stream.ending and not stream.outbox
            data = head + self._frame(body, ended=ended)
            if not (data or ended):
                await stream.work.wait()
                continue
            if self.lost is None and data:
                try:
                    with trio.move_on_after(self.settings.write_timeout) as writing:
                        await self._transport.send_all(data)
                except trio.BrokenResourceError:
                    self.lose("connection lost")
                    return
                if writing.cancelled_caught:
                    self.lose("peer stopped reading")
                    return
            if self.lost is None:
                stream.flushed_more(len(body), ended=ended)
            if ended:
                return

    def _frame(self, body: bytes, *, ended: bool) -> bytes:
        if self.stream.raw:
            return body
        try:
            data = (self._h11.send(h11.Data(data=body)) or b"") if body else b""
            if ended:
                data += self._h11.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as exc:
            _log.error("response does not fit its head", path=self.stream.path, reason=str(exc))
            self.lose("response does not fit its head")
            return b""
        return data
