"""The forms in which a session's bytes travel (docs/protocol.md, "Modes"). No I/O.

What the server sends comes in shells: an event, a line of JSON, a WebSocket message. What the client
sends goes as it is, but for WebSocket.
"""

import abc
import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Protocol

from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from commucat_proto import json_text

MAX_SHELL_LEN = 24 * 1024 * 1024
"""Bytes of one event or line: a frame of 16 MiB in base64, and what is around it."""
MAX_MESSAGE_LEN = 256 * 1024
"""Bytes of one WebSocket message of ours; servers take at most 1 MiB."""

_UPSTREAM = re.compile(r"[0-9A-Za-z_-]{1,256}")


class FramingError(Exception):
    """The server's bytes do not have the form that was asked for."""


class Framing(Protocol):
    """One form. ``unwrap`` and ``wrap`` may be called with any pieces of the stream."""

    ended: bool
    """The server has said that nothing follows."""

    def wrap(self, data: bytes) -> bytes:
        """Our bytes as they travel."""

    def unwrap(self, data: bytes) -> tuple[bytes, bytes]:
        """The server's bytes out of their shells, and what is to be answered at once.

        Raises:
            FramingError: they are out of form.
        """

    def farewell(self) -> bytes:
        """The last words of our side."""


class TextFraming(abc.ABC):
    """Shells of text; our side is plain."""

    SEPARATOR = b""
    NAME = ""

    def __init__(self) -> None:
        self.ended = False
        self.on_upstream: Callable[[str], None] | None = None
        """Called with the id under which the server takes our bytes in POSTs."""
        self._buffer = bytearray()

    def wrap(self, data: bytes) -> bytes:
        return data

    def farewell(self) -> bytes:
        return b""

    def unwrap(self, data: bytes) -> tuple[bytes, bytes]:
        out = b"".join(self._open(shell) for shell in self._shells(data))
        return out, b""

    def _shells(self, data: bytes) -> Iterator[bytes]:
        searched = max(0, len(self._buffer) - len(self.SEPARATOR) + 1)
        self._buffer += data
        start = 0
        while (end := self._buffer.find(self.SEPARATOR, max(start, searched))) >= 0:
            shell = bytes(self._buffer[start:end])
            start = end + len(self.SEPARATOR)
            yield shell
        del self._buffer[:start]
        if len(self._buffer) > MAX_SHELL_LEN:
            raise FramingError(f"one {self.NAME} has more than {MAX_SHELL_LEN} bytes")

    @abc.abstractmethod
    def _open(self, shell: bytes) -> bytes:
        """The bytes in one shell."""

    def _announce(self, upstream: str) -> None:
        if not _UPSTREAM.fullmatch(upstream):  # it will stand in the target of a request
            raise FramingError("the id for POSTs is none")
        if self.on_upstream is not None:
            self.on_upstream(upstream)

    def _decode(self, text: bytes | str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise FramingError(f"the data of one {self.NAME} are no base64") from exc


class EventFraming(TextFraming):
    """Server-sent events (HTML standard, section 9.2): ``frame`` with base64, ``upstream`` with an id."""

    SEPARATOR = b"\n\n"
    NAME = "event"

    def _open(self, shell: bytes) -> bytes:
        name, data = b"message", b""
        for line in shell.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                name = value
            elif field == b"data":
                data += value
        if name == b"frame":
            return self._decode(data)
        if name == b"upstream":
            self._announce(data.decode("ascii", "replace"))
        return b""  # comments are signs of life; events nobody knows are left alone


class LineFraming(TextFraming):
    """JSON objects, one a line: with ``data``, ``upstream`` or neither."""

    SEPARATOR = b"\n"
    NAME = "line"

    def _open(self, shell: bytes) -> bytes:
        try:
            value = json_text.loads(shell)
        except json_text.JsonTextError as exc:
            raise FramingError("a line is no JSON") from exc
        if not isinstance(value, dict):
            raise FramingError("a line is no JSON object")
        data, upstream = value.get("data"), value.get("upstream")
        if isinstance(upstream, str):
            self._announce(upstream)
        return self._decode(data) if isinstance(data, str) else b""


class WebSocketFraming:
    """Binary messages (RFC 6455) both ways; Pings are answered."""

    def __init__(self) -> None:
        self.ended = False
        self._frames = FrameProtocol(client=True, extensions=[])

    def wrap(self, data: bytes) -> bytes:
        pieces = (data[start : start + MAX_MESSAGE_LEN] for start in range(0, len(data), MAX_MESSAGE_LEN))
        return b"".join(bytes(self._frames.send_data(piece, fin=True)) for piece in pieces)

    def unwrap(self, data: bytes) -> tuple[bytes, bytes]:
        out, reply = bytearray(), bytearray()
        self._frames.receive_bytes(data)
        try:
            for frame in self._frames.received_frames():
                if self.ended:
                    break
                match frame.opcode:
                    case Opcode.PING:
                        assert isinstance(frame.payload, bytes | bytearray)
                        reply += self._frames.pong(bytes(frame.payload))
                    case Opcode.CLOSE:
                        self.ended = True
                    case Opcode.PONG:
                        pass
                    case _ if isinstance(frame.payload, str):
                        raise FramingError("a message is text")
                    case _:
                        assert isinstance(frame.payload, bytes | bytearray)
                        out += frame.payload
        except ParseFailed as exc:
            raise FramingError(str(exc)) from exc
        return bytes(out), bytes(reply)

    def farewell(self) -> bytes:
        return bytes(self._frames.close())
