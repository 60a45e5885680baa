"""One request on an HTTP/1.1 connection of its own: a body that never ends out, the answer in.

A request may also switch protocols; then its bytes and those of the answer are the new protocol's.
"""

from collections.abc import Callable

import h11
import trio

from commucat_cli.errors import CliError, ConnectionLostError, NotCommuCatError
from commucat_cli.transport.stream import RequestHead, whole_body

READ_LEN = 65_536
_LAST_READ = 1.0  # seconds the reader gets to find the end of a connection that takes nothing more


def request_of(head: RequestHead, authority: str, *more: tuple[str, str]) -> h11.Request:
    """The library's form of a request's head."""
    fields = [("host", authority), ("user-agent", "commucat-cli"), *head.headers, *more]
    return h11.Request(method=head.method, target=head.path, headers=fields)


def text_headers(event: h11.Response | h11.InformationalResponse) -> dict[str, str]:
    """Names in lower case, values as text."""
    return {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}


class H1Stream:
    """One request and its answer. Made by ``H1Client.carrying``, which closes the connection."""

    def __init__(self, transport: trio.abc.Stream, authority: str, head: RequestHead) -> None:
        self.fill: Callable[[], bytes] | None = None
        self._transport = transport
        self._authority = authority
        self._h11 = h11.Connection(h11.CLIENT)
        self._outbox = bytearray()
        self._head = self._begin(head)
        self._upgrading = any(name.lower() == "upgrade" for name, _ in head.headers)
        self._switched = False
        self._end_requested = False
        self._end_sent = not head.body
        self._status = 0
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._ended = False
        self._failure: CliError | None = None
        self._wakeup: trio.Event | None = None
        self._aborted = trio.Event()

    def _begin(self, head: RequestHead) -> bytes:
        more = [("transfer-encoding", "chunked")] if head.body else []
        data = self._h11.send(request_of(head, self._authority, *more)) or b""
        if not head.body:
            data += self._h11.send(h11.EndOfMessage()) or b""
        return data

    @property
    def answers_after_end(self) -> bool:
        return True

    def wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()

    def send(self, data: bytes) -> None:
        self._outbox += data
        self.wake()

    def end(self) -> None:
        self._end_requested = True
        self.wake()

    def abort(self, failure: CliError | None) -> None:
        """Close the connection; whoever receives gets ``failure``, or the end if it is None."""
        if not self._ended and self._failure is None:
            self._failure = failure
            self._ended = failure is None
        self._aborted.set()

    async def response(self) -> tuple[int, dict[str, str]]:
        while not self._status:
            self._raise_failure()
            if self._ended:
                raise ConnectionLostError("the server ended the request without an answer")
            await self._read()
        return self._status, self._headers

    async def receive(self) -> bytes:
        while not self._chunks:
            self._raise_failure()
            if self._ended:
                return b""
            await self._read()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        return data

    async def whole_body(self) -> bytes:
        return await whole_body(self.receive)

    async def run(self) -> None:
        """Write until the connection ends; never raises for what the peer does."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_loop)
            await self._aborted.wait()
            nursery.cancel_scope.cancel()
        # This wakes the reader, who finds out why.
        await trio.aclose_forcefully(self._transport)

    # -- writing ----------------------------------------------------------------------------------

    async def _write_loop(self) -> None:
        while True:
            self._wakeup = None
            if data := self._next():
                try:
                    await self._transport.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    # What was sent to us before may say why, so the reader goes first.
                    await trio.sleep(_LAST_READ)
                    self.abort(ConnectionLostError("the connection to the server was lost"))
                    return
                continue
            # Between the last look and here nothing else has run, so no wake-up is missed.
            self._wakeup = trio.Event()
            await self._wakeup.wait()

    def _next(self) -> bytes:
        """What may be sent now."""
        if self._head:
            head, self._head = self._head, b""
            return head
        if (self._upgrading and not self._switched) or (self._end_sent and not self._switched):
            return b""
        if not self._outbox and self.fill is not None:
            self._outbox += self.fill()
        data = bytes(self._outbox)
        self._outbox.clear()
        if self._switched:
            return data  # it has no end of one side only: the new protocol says goodbye by itself
        if data:
            return self._h11.send(h11.Data(data=data)) or b""
        if self._end_requested:
            self._end_sent = True
            return self._h11.send(h11.EndOfMessage()) or b""
        return b""

    # -- reading ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Take what has come from the network; there is nothing else to give out."""
        try:
            data = bytes(await self._transport.receive_some(READ_LEN))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if not self._ended and self._failure is None:
                self._failure = ConnectionLostError("the connection to the server was lost")
            return
        if self._switched:
            self._take(data)
            return
        self._h11.receive_data(data)
        try:
            while self._understand(self._h11.next_event()):
                pass
        except h11.RemoteProtocolError as exc:
            self._failure = self._protocol_failure(data, exc)

    def _understand(self, event: object) -> bool:
        """Take one event; whether others may follow."""
        match event:
            case h11.Data():
                self._take(bytes(event.data))
            case h11.Response() | h11.InformationalResponse() if event.status_code >= 200:
                self._status, self._headers = event.status_code, text_headers(event)
            case h11.InformationalResponse() if event.status_code == 101:
                self._status, self._headers = event.status_code, text_headers(event)
                self._switched = True
                if early := self._h11.trailing_data[0]:
                    self._take(early)
                self.wake()
                return False
            case h11.InformationalResponse():
                pass
            case h11.EndOfMessage() | h11.ConnectionClosed():
                self._ended = True
                return False
            case _:
                return False
        return True

    def _take(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
        else:
            self._ended = True

    def _protocol_failure(self, data: bytes, exc: Exception) -> CliError:
        if not data:
            if self._status:
                return ConnectionLostError("the server closed the connection in the middle of its answer")
            return ConnectionLostError("the server closed the connection without an answer")
        if self._status:
            return ConnectionLostError(f"the server broke the rules of HTTP/1.1: {exc}")
        return NotCommuCatError(f"{self._authority} does not speak HTTP/1.1; it is no CommuCat server")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
