"""A session's bytes in a form of text or of WebSocket messages, over a request that carries them."""

import math
from collections.abc import Callable

import trio
from wsproto.utilities import generate_accept_token

from commucat_cli.errors import ConnectionLostError, NotCommuCatError
from commucat_cli.transport.framing import Framing, FramingError
from commucat_cli.transport.stream import RawStream
from commucat_cli.transport.via import Form

MODE_HEADER = "x-commucat-connect-mode"


class FramedStream:
    """Wraps a raw stream; the bytes that pass through it are those of the session."""

    def __init__(
        self, raw: RawStream, form: Form, framing: Framing, *, key: bytes = b"", silence: float = math.inf
    ) -> None:
        """``key``: of a WebSocket upgrade. ``silence``: seconds without a byte that end the session."""
        self.fill: Callable[[], bytes] | None = None
        self._raw = raw
        self._form = form
        self._framing = framing
        self._key = key
        self._silence = silence
        self._ending = False
        self._parted = False
        raw.fill = self._filled

    @property
    def answers_after_end(self) -> bool:
        return self._raw.answers_after_end

    def wake(self) -> None:
        self._raw.wake()

    def send(self, data: bytes) -> None:
        self._raw.send(self._framing.wrap(data))

    def end(self) -> None:
        self._ending = True
        self._raw.end()

    async def response(self) -> tuple[int, dict[str, str]]:
        """As any stream's; a switch to WebSocket counts as 200.

        Raises:
            NotCommuCatError: the answer is not in the form that was asked for.
            CliError: the connection or the stream ended before.
        """
        status, headers = await self._raw.response()
        if status == 101:
            accept = headers.get("sec-websocket-accept", "")
            if accept.encode() != generate_accept_token(self._key):
                raise NotCommuCatError("the server's answer to the WebSocket upgrade is not to our request")
            status = 200
        if status == 200 and headers.get(MODE_HEADER) != self._form.value:
            raise NotCommuCatError(
                f"the server does not speak {self._form.value}, or something in between changes it; "
                "try another --via"
            )
        return status, headers

    async def receive(self) -> bytes:
        while not self._framing.ended:
            with trio.move_on_after(self._silence) as patience:
                data = await self._raw.receive()
            if patience.cancelled_caught:
                raise ConnectionLostError("the server does not answer any more")
            if not data:
                break
            try:
                out, reply = self._framing.unwrap(data)
            except FramingError as exc:
                raise ConnectionLostError(f"the server broke the rules of {self._form.value}: {exc}") from exc
            if reply:
                self._raw.send(reply)
            if out:
                return out
        return b""

    async def whole_body(self) -> bytes:
        return await self._raw.whole_body()

    def _filled(self) -> bytes:
        if self.fill is not None and (data := self.fill()):
            return self._framing.wrap(data)
        if self._ending and not self._parted:
            self._parted = True
            return self._framing.farewell()
        return b""
