"""The client's bytes by short POSTs, each with the offset of its first byte (docs/protocol.md)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from commucat_cli.errors import CliError, ConnectionLostError, RetryableError
from commucat_cli.transport.framed_stream import FramedStream
from commucat_cli.transport.stream import HttpClient, RawStream, Response
from commucat_proto import json_text

POST_LEN = 256 * 1024
"""Bytes of one POST; servers take at most 1 MiB."""
_RETRY_WAIT = 0.1  # seconds before a POST that got no answer is sent again
_BUSY = frozenset({408, 429, 500, 502, 503, 504})


class PostedStream:
    """A response in text brings the server's bytes; :meth:`run` posts ours."""

    def __init__(self, raw: RawStream, down: FramedStream, client: HttpClient, patience: float) -> None:
        """``raw`` is below ``down``. ``patience``: seconds to get a POST answered, repeated or not."""
        self.fill: Callable[[], bytes] | None = None
        self._raw = raw
        self._down = down
        self._client = client
        self._patience = patience
        self._outbox = bytearray()
        self._ending = False
        self._upstream = ""
        self._offset = 0
        self._lot = trio.lowlevel.ParkingLot()

    def announced(self, upstream: str) -> None:
        """The server has told the id under which it takes our bytes."""
        self._upstream = upstream
        self.wake()

    @property
    def answers_after_end(self) -> bool:
        return False  # the end is that of the response

    def wake(self) -> None:
        self._lot.unpark_all()

    def send(self, data: bytes) -> None:
        self._outbox += data
        self.wake()

    def end(self) -> None:
        self._ending = True
        self.wake()

    async def response(self) -> tuple[int, dict[str, str]]:
        return await self._down.response()

    async def receive(self) -> bytes:
        return await self._down.receive()

    async def whole_body(self) -> bytes:
        return await self._down.whole_body()

    async def run(self) -> None:
        """Post until our side has ended; trouble ends the stream."""
        try:
            while True:
                while not self._upstream:
                    await self._lot.park()
                if not self._outbox and self.fill is not None:
                    self._outbox += self.fill()
                if self._outbox:
                    await self._post(bytes(self._outbox[:POST_LEN]))
                elif self._ending:
                    return self._raw.abort(None)
                else:
                    await self._lot.park()
        except CliError as exc:
            self._raw.abort(exc)

    async def _post(self, data: bytes) -> None:
        """Repeat until the server knows all of it; then it is forgotten here.

        Raises:
            CliError: the stream is over, or the server does not take it in time.
        """
        path = f"/connect?upstream={self._upstream}&offset={self._offset}"
        headers = [("content-type", "application/octet-stream")]
        with _within(self._patience):
            while True:
                try:
                    response = await self._client.request("POST", path, headers, data)
                except RetryableError:
                    await trio.sleep(_RETRY_WAIT)
                    continue
                if response.status == 204:
                    break
                if response.status == 409:
                    # Never ours to cause, as each waits for the one before; but the server knows best.
                    data = self._from(_expected(response), data)
                    path = f"/connect?upstream={self._upstream}&offset={self._offset}"
                elif response.status in _BUSY:
                    await trio.sleep(_RETRY_WAIT)
                elif response.status == 404:
                    raise ConnectionLostError("the server has ended the session")
                else:
                    raise ConnectionLostError(
                        f"the server answers {response.status} to a POST of the session"
                    )
        del self._outbox[: len(data)]
        self._offset += len(data)

    def _from(self, expected: int, data: bytes) -> bytes:
        """What is left of ``data`` from the offset that the server expects."""
        known = expected - self._offset
        if not 0 <= known <= len(data):
            raise ConnectionLostError(f"the server asks for byte {expected}, which is not on its way")
        del self._outbox[:known]
        self._offset = expected
        return data[known:]


def _expected(response: Response) -> int:
    try:
        value = json_text.loads(response.body)
    except json_text.JsonTextError:
        value = None
    expected = value.get("expected") if isinstance(value, dict) else None
    return expected if isinstance(expected, int) and not isinstance(expected, bool) else -1


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    with trio.move_on_after(seconds) as patience:
        yield
    if patience.cancelled_caught:
        raise ConnectionLostError(f"the server took no byte of the session's within {seconds:g} s")
