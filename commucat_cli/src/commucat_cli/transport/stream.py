"""What a session needs from whatever carries it, and what that needs from an HTTP connection."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from commucat_cli.errors import CliError, NotCommuCatError
from commucat_cli.transport.via import Via

Headers = Sequence[tuple[str, str]]

MAX_BODY_LEN = 1024 * 1024
"""Bytes of an answer's body that are accepted where it is wanted as a whole."""


@attrs.frozen(kw_only=True)
class Response:
    """A complete answer."""

    status: int
    headers: dict[str, str]
    body: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class RequestHead:
    """The request that carries a session."""

    method: str
    path: str
    headers: Headers = ()
    protocol: str = ""
    """Of an extended CONNECT (RFC 8441); with HTTP/2 only."""
    body: bool = True
    """Whether a request body follows; bytes after a switch of protocols are none."""


class SessionStream(Protocol):
    """A duplex byte stream: one ``/connect`` request and its answer, in any form."""

    fill: Callable[[], bytes] | None
    """Asked by the writer for bytes whenever it wakes and has sent what it had."""

    @property
    def answers_after_end(self) -> bool:
        """Whether the server can still answer once our side has ended."""

    def wake(self) -> None:
        """Tell the writer that :attr:`fill` has something."""

    def send(self, data: bytes) -> None:
        """Queue bytes; they leave as the network permits."""

    def end(self) -> None:
        """End our side after everything that is queued, and that :attr:`fill` has."""

    async def response(self) -> tuple[int, dict[str, str]]:
        """Status and headers, once they are there.

        Raises:
            CliError: the connection or the stream ended before.
        """

    async def receive(self) -> bytes:
        """Bytes that have arrived since, at least one; ``b""`` at the end.

        Raises:
            CliError: the connection or the stream broke.
        """

    async def whole_body(self) -> bytes:
        """The answer to its end, when it is no stream.

        Raises:
            CliError: it is too long, or the connection broke.
        """


class RawStream(SessionStream, Protocol):
    """The request itself, before any form is put on it."""

    def abort(self, failure: CliError | None) -> None:
        """Give the request up; whoever receives gets ``failure``, or the end if it is None."""


class HttpClient(Protocol):
    """A server that answers requests. All methods raise a ``CliError`` when it is lost."""

    @property
    def via(self) -> Via:
        """The way in which sessions are opened here."""

    async def run(self) -> None:
        """Do the connection's work until it ends."""

    async def keep_alive(self, interval: float, patience: float) -> None:
        """Ask for signs of life, if nothing else does."""

    async def request(self, method: str, path: str, headers: Headers = (), body: bytes = b"") -> Response:
        """A whole request; POSTs with ``body`` may be repeated when they got no answer."""

    async def get(self, path: str, headers: Headers = ()) -> Response:
        """A whole GET."""

    def carrying(self, head: RequestHead) -> AbstractAsyncContextManager[RawStream]:
        """Send a request's head; its stream is for use within the block."""


async def whole_body(receive: Callable[[], Awaitable[bytes]]) -> bytes:
    """What ``receive`` returns until it returns nothing.

    Raises:
        NotCommuCatError: it is longer than ``MAX_BODY_LEN``.
        CliError: the connection or the stream broke.
    """
    body = bytearray()
    while data := await receive():
        body += data
        if len(body) > MAX_BODY_LEN:
            raise NotCommuCatError(f"the server's answer is longer than {MAX_BODY_LEN} bytes")
    return bytes(body)
