"""What a handler sees of a request, whatever transport carries it."""

import abc
from collections.abc import Awaitable, Callable, Mapping, Sequence

CONNECT_PATH = b"/connect"
STREAM_PATHS = frozenset({CONNECT_PATH, b"/p2p"})
"""Whose requests are streams; all others are the ASGI application's."""


class ConnectStream(abc.ABC):
    """One request with a body that flows in both directions at once.

    One task may receive while others send. Bytes of one sender arrive in order; between concurrent
    senders there is none. The stream belongs to the listener: it is ended (or reset, if no response was
    begun) when its handler returns.
    """

    __slots__ = ("headers", "method", "path", "query", "remote_host", "remote_port")

    method: str
    """Request method as sent, such as ``POST``."""
    path: str
    """Path as sent, without the query and without percent-decoding."""
    query: str
    """What follows the first ``?`` of the target, ``""`` without one."""
    headers: Mapping[str, str]
    """Request headers: lower-case names, the first instance of each; values decoded as Latin-1."""
    remote_host: str
    """Address of the peer in text; an IPv4 address that came through an IPv6 socket is plain IPv4."""
    remote_port: int

    @property
    def http_version(self) -> str:
        """What carries the stream: ``2`` or ``1.1`` (also for a client that says 1.0)."""
        return "2"

    @property
    def protocol(self) -> str:
        """Of an extended CONNECT over HTTP/2 (RFC 8441), what the stream is to carry; else ``""``."""
        return ""

    @abc.abstractmethod
    async def start(
        self, status: int, headers: Sequence[tuple[str, str]], *, with_body: bool = False
    ) -> None:
        """Queue the head of the response.

        ``with_body`` lets it wait for the first bytes of the body, to share their packet; at the latest it
        goes out when the handler waits for the peer (``receive``, ``flushed``) or ends.

        Over HTTP/2 headers of an HTTP/1.1 connection are dropped. Over HTTP/1.1 the status 101 makes what
        follows in both directions plain bytes, if the request asked for it by ``Upgrade``.

        Raises:
            StreamLostError: nobody is there to get it.
            StreamMisuseError: it was sent already, or a header is not valid.
        """

    @abc.abstractmethod
    async def receive(self) -> bytes:
        """Return everything that arrived since the last call; wait for at least one byte.

        ``b""`` means that the peer ended its side. Taking bytes gives the peer credit for as many more,
        so a handler that does not call this stops the peer.

        Raises:
            StreamLostError: reset, or connection lost, and everything that arrived before was taken.
        """

    async def receive_by(self, take: Callable[[bytes], bool]) -> bool:
        """Hand everything that arrives to ``take``, until that returns ``False``.

        ``take`` must not wait; where the transport can, it is called by the task that reads the connection,
        which saves a turn of the scheduler for each read. Returns ``False`` when the peer ended its side,
        else ``True``.

        Raises:
            StreamLostError: reset, or connection lost, and everything that arrived before was taken.
            Exception: what ``take`` raised.
        """
        while data := await self.receive():
            if not take(data):
                return True
        return False

    @abc.abstractmethod
    async def send(self, data: bytes) -> None:
        """Queue bytes of the response body.

        Returns at once while less than the outbox's high-water mark is queued, else waits for room; a
        call cancelled in that wait has queued nothing.

        Raises:
            StreamLostError: reset, or connection lost.
            StreamMisuseError: before ``start`` or after ``end``.
        """

    def send_now(self, data: bytes) -> bool:
        """``send`` without waiting, and onto the wire at once if nothing is before it.

        ``False``: not done, there is no room or the transport cannot. ``send`` waits for it then.
        For callers that have collected what they have: each call may be a packet.

        Raises:
            StreamLostError: reset, or connection lost.
            StreamMisuseError: before ``start`` or after ``end``.
        """
        return False

    @abc.abstractmethod
    async def flushed(self) -> None:
        """Return when everything sent before was passed to the kernel.

        Raises:
            StreamLostError: that will not happen any more.
        """

    @property
    @abc.abstractmethod
    def sent_bytes(self) -> int:
        """The position behind everything that was given to ``send``, counted from the start of the body."""

    @abc.abstractmethod
    async def confirm(self, beyond: int | None = None) -> int:
        """Return when the peer's transport has answered for every byte sent before this call.

        With ``beyond`` (a position, see ``sent_bytes``) return as soon as it has answered for some bytes
        beyond it. Returns the position up to which it has answered. Bytes that the peer's window has not
        let out are not answered for, whatever else the peer answers.

        Over HTTP/2: a PING sent after these bytes was acknowledged. Callers share PINGs; at most one is
        in flight. Over HTTP/1.1: the peer's kernel has acknowledged them. A peer that does not read at all
        keeps this waiting until the stream is lost.

        Raises:
            StreamLostError: reset, connection lost, or the PING was not answered in time.
        """

    @abc.abstractmethod
    async def end(self) -> None:
        """End the response after what is queued; returns at once. Again has no effect.

        Raises:
            StreamMisuseError: before ``start``.
        """

    @abc.abstractmethod
    def reset(self) -> None:
        """Break the stream off: what is queued is dropped and the peer is told. Again has no effect."""

    def cut_off(self) -> None:
        """Drop what is queued and not on its way, and end the response properly where the transport can do so
        without room for the rest; else the same as ``reset``."""
        self.reset()

    @abc.abstractmethod
    async def wait_closed(self) -> None:
        """Return when the response has been passed to the kernel to its end, or the stream is lost."""

    @property
    @abc.abstractmethod
    def outbox_bytes(self) -> int:
        """Bytes that ``send`` queued and that are not yet on their way to the kernel."""


ConnectHandler = Callable[[ConnectStream], Awaitable[None]]


class HttpStream(ConnectStream):
    """A stream as the ASGI bridge needs it: with the raw parts of the request."""

    __slots__ = ()

    @abc.abstractmethod
    def send_head(self, status: int, headers: Sequence[tuple[bytes, bytes]], *, end: bool) -> None:
        """``start`` in bytes; with ``end`` the response has no body. Raises as ``start`` does."""

    @property
    @abc.abstractmethod
    def started(self) -> bool:
        """Whether the head of the response was queued."""
