"""A client's end of one request in memory, in every mode: its bytes without their shells."""

import base64
import json
from collections.abc import Callable

from end_to_end.mode_transports import ws_frame
from server.connect_builders import MemoryConnectStream

MODES = ("binary", "sse", "long-poll", "websocket", "sse-posts", "long-poll-posts")


class ModeStream(MemoryConnectStream):
    """Reads and writes the session's own bytes, whatever carries them.

    Args:
        mode: one of ``MODES``; with ``-posts`` the client's bytes travel in requests of their own.
        post: serves such a request.

    It is the request itself for a handler in this process, or, with ``pending`` and ``arrived``, the place
    where tasks get and put the bytes of a request on a real connection.
    """

    def __init__(self, mode: str, *, post: Callable[[MemoryConnectStream], object] | None = None) -> None:
        super().__init__()
        self.mode = mode
        self.query = f"mode={mode.removesuffix('-posts')}"
        self._shells = b""
        self._post = post
        self._upstream = ""
        self._unsent = b""
        self._offset = 0
        if mode.endswith("-posts"):
            self.query += "&upstream=new"
            self.close()
        if mode == "websocket":
            self.method = "CONNECT"
            self.headers = {"sec-websocket-version": "13"}

    @property
    def protocol(self) -> str:
        return "websocket" if self.mode == "websocket" else ""

    def write(self, data: bytes) -> None:
        if self.mode.endswith("-posts"):
            self._unsent += data
            self._send_post()
        else:
            super().write(ws_frame(2, data) if self.mode == "websocket" else data)

    def _send_post(self) -> None:
        if self._upstream and self._unsent and self._post is not None:
            request = MemoryConnectStream()
            request.query = f"upstream={self._upstream}&offset={self._offset}"
            request.write(self._unsent)
            request.close()
            self._offset += len(self._unsent)
            self._unsent = b""
            self._post(request)

    async def pending(self) -> bytes:
        """What the client wants to send; waits for it."""
        while not self._up:
            await self._changed.park()
        data = bytes(self._up)
        self._up.clear()
        return data

    def arrived(self, data: bytes) -> None:
        """What a real connection has brought."""
        self._down += data
        self._changed.unpark_all()

    async def read(self) -> bytes:
        """The next bytes of the session; ``b""`` at its end."""
        while True:
            chunk = await super().read()
            if self.mode == "binary" or not chunk:
                return chunk
            self._shells += chunk
            unpack = self._unpack_websocket if self.mode == "websocket" else self._unpack_text
            if data := unpack():
                return data

    def _unpack_text(self) -> bytes:
        *whole, self._shells = self._shells.split(b"\n")
        data = b""
        for line in whole:
            if line.startswith(b'{"upstream"'):
                self._upstream = json.loads(line)["upstream"]
            elif line.startswith(b"data: ") and self.query.endswith("new") and not self._upstream:
                self._upstream = line[6:].decode()
            elif line.startswith(b"data: "):
                data += base64.b64decode(line[6:])
            elif line.startswith(b'{"channel"'):
                data += base64.b64decode(json.loads(line)["data"])
        self._send_post()
        return data

    def _unpack_websocket(self) -> bytes:
        data = b""
        while len(self._shells) >= 2:
            size, start = self._shells[1], 2
            if size == 126:
                size, start = int.from_bytes(self._shells[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(self._shells[2:10], "big"), 10
            if len(self._shells) < start + size:
                break
            if self._shells[0] & 0x0F == 2:
                data += self._shells[start : start + size]
            self._shells = self._shells[start + size :]
        return data
