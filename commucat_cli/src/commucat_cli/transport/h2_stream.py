"""One request on an HTTP/2 connection: body bytes out as flow control permits, answer in."""

import re
from collections.abc import Callable
from typing import Protocol

import h2.connection
import trio

from commucat_cli.errors import CliError, ConnectionLostError
from commucat_cli.transport.stream import Headers, whole_body

WRITE_LEN = 262_144
"""Bytes taken from one stream for one ``send_all``."""

_STATUS = re.compile("[1-9][0-9]{2}")


class StreamOwner(Protocol):
    """What a stream needs from its connection."""

    def wake(self) -> None:
        """There is something to send."""

    def release(self, stream_id: int, credit: int) -> None:
        """So many bytes of the body were taken."""

    def cancel(self, stream_id: int) -> None:
        """The request is given up."""


class H2Stream:
    """One request and its answer. Made by ``H2Client.open_stream``."""

    def __init__(self, client: StreamOwner, stream_id: int, *, end_sent: bool) -> None:
        self._client = client
        self.stream_id = stream_id
        self.fill: Callable[[], bytes] | None = None
        """Asked by the writer for bytes whenever it wakes and has sent what it had."""
        self._outbox = bytearray()
        self._end_requested = False
        self._end_sent = end_sent
        self._status = 0
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._credit = 0
        self._ended = False
        self._failure: CliError | None = None
        self._news = trio.Event()

    @property
    def answers_after_end(self) -> bool:
        return True

    def wake(self) -> None:
        """Tell the writer that :attr:`fill` has something."""
        self._client.wake()

    def send(self, data: bytes) -> None:
        """Queue request body bytes; they leave as flow control permits."""
        self._outbox += data
        self._client.wake()

    def end(self) -> None:
        """End the request body after what is queued."""
        self._end_requested = True
        self._client.wake()

    def abort(self, failure: CliError | None) -> None:
        """Give the request up; whoever receives gets ``failure``, or the end if it is None."""
        # What came can still be received; it takes no room on the connection any more.
        credit, self._credit = self._credit, 0
        self._client.release(self.stream_id, credit)
        if not self._ended:
            self._client.cancel(self.stream_id)
            self.on_end(failure)

    async def response(self) -> tuple[int, dict[str, str]]:
        """Status and headers, once they are there.

        Raises:
            CliError: the connection or the stream ended before.
        """
        while not self._status:
            self._raise_failure()
            if self._ended:
                raise ConnectionLostError("the server ended the request without an answer")
            await self._wait()
        return self._status, self._headers

    async def receive(self) -> bytes:
        """Body bytes that have arrived since, at least one; ``b""`` at the end of the body.

        Taking them lets the server send more.

        Raises:
            CliError: the connection or the stream broke.
        """
        while not self._chunks:
            self._raise_failure()
            if self._ended:
                return b""
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        credit, self._credit = self._credit, 0
        self._client.release(self.stream_id, credit)
        return data

    async def whole_body(self) -> bytes:
        """The body to its end.

        Raises:
            NotCommuCatError: it is longer than ``MAX_BODY_LEN``.
            CliError: the connection or the stream broke.
        """
        return await whole_body(self.receive)

    async def _wait(self) -> None:
        self._news = trio.Event()
        await self._news.wait()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- called by the client -------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Both sides have ended it."""
        return self._ended and self._end_sent

    def on_headers(self, headers: Headers) -> None:
        fields = dict(headers)
        status = fields.pop(":status", "")
        # 502, the code for an answer that makes no sense, in place of what is not a status.
        self._status = int(status) if _STATUS.fullmatch(status) else 502
        self._headers = fields
        self._news.set()

    def on_data(self, data: bytes, credit: int) -> None:
        if data:
            self._chunks.append(data)
        self._credit += credit
        self._news.set()

    def on_end(self, failure: CliError | None) -> None:
        if not self._ended:
            self._ended = True
            self._failure = failure
            self._news.set()

    def write_into(self, connection: h2.connection.H2Connection) -> None:
        """Move what may be sent now into the connection's buffer."""
        if self._end_sent:
            return
        outbox = self._outbox
        budget = WRITE_LEN
        while budget > 0:
            if not outbox and self.fill is not None:
                outbox += self.fill()
            if not outbox:
                break
            room = min(
                budget,
                connection.local_flow_control_window(self.stream_id),
                connection.max_outbound_frame_size,
                len(outbox),
            )
            if room <= 0:
                return
            connection.send_data(self.stream_id, bytes(outbox[:room]))
            del outbox[:room]
            budget -= room
        if self._end_requested and not outbox:
            connection.end_stream(self.stream_id)
            self._end_sent = True
