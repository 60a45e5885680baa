"""Every way to carry a session, for the client that knows only the protocol description.

A raw transport moves the bytes of one request and its response; a shell finds the frames in them.
"""

import base64
import contextlib
import json
import os
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Mapping

import h11

from end_to_end.spec_client import (
    DEADLINE,
    Device,
    Endpoint,
    Http2,
    ServerInfo,
    Session,
    SpecError,
    StreamEndedError,
    Wire,
)


def secured(endpoint: Endpoint, alpn: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(endpoint.certificate))
    context.set_alpn_protocols([alpn])
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout=DEADLINE)
    tls = context.wrap_socket(plain, server_hostname=endpoint.domain)
    assert tls.selected_alpn_protocol() == alpn
    return tls


class RawH1:
    """One HTTP/1.1 request with a chunked body, or one that switches protocols."""

    def __init__(
        self,
        endpoint: Endpoint,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        body: bool = True,
        content: bytes = b"",
    ) -> None:
        self._socket = secured(endpoint, "http/1.1")
        self._h11 = h11.Connection(h11.CLIENT)
        self._ended = self._switched = False
        fields = [("host", endpoint.domain), *headers.items()]
        if body:
            fields.append(("transfer-encoding", "chunked"))
        self._send(h11.Request(method=method, target=target, headers=fields))
        if content:
            self._send(h11.Data(data=content))
        if content or not body:
            self._send(h11.EndOfMessage())
        head = self._event(time.monotonic() + DEADLINE)
        assert isinstance(head, h11.Response | h11.InformationalResponse)
        self.status = head.status_code
        self.headers = {name.decode(): value.decode() for name, value in head.headers}
        if self.status == 101:
            self._switched = True
            self._early = self._h11.trailing_data[0]

    def _send(self, event: h11.Event) -> None:
        self._socket.settimeout(DEADLINE)
        self._socket.sendall(self._h11.send(event) or b"")

    def _receive(self, deadline: float) -> bytes:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        return self._socket.recv(65_536)

    def _event(self, deadline: float) -> h11.Event:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(self._receive(deadline))
        assert isinstance(event, h11.Event), event
        return event

    def send(self, data: bytes) -> None:
        if self._switched:
            self._socket.settimeout(DEADLINE)
            self._socket.sendall(data)
        else:
            self._send(h11.Data(data=data))

    def read(self, deadline: float) -> bytes:
        if self._switched:
            data, self._early = self._early, b""
            if not (data := data or self._receive(deadline)):
                raise StreamEndedError
            return data
        if self._ended:
            raise StreamEndedError
        event = self._event(deadline)
        if isinstance(event, h11.EndOfMessage):
            self._ended = True
            raise StreamEndedError
        assert isinstance(event, h11.Data)
        return bytes(event.data)

    def finish(self) -> None:
        if self._h11.our_state is h11.SEND_BODY:
            self._send(h11.EndOfMessage())

    def ended_well(self) -> bool:
        return self._ended or self._switched

    def wait_confirmed(self) -> None:
        """The kernel has acknowledged what arrived."""

    def close(self) -> None:
        self._socket.close()


class RawH2:
    """One request over HTTP/2."""

    def __init__(
        self,
        endpoint: Endpoint,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        body: bool = True,
        content: bytes = b"",
    ) -> None:
        self.http = Http2(endpoint)
        self._stream = self.http.start(method, target, headers, end=not body)
        if content:
            self.http.send(self._stream, content)
            self.http.finish(self._stream)
        self.headers = self.http.headers(self._stream)
        self.status = int(self.headers[":status"])

    def send(self, data: bytes) -> None:
        self.http.send(self._stream, data)

    def read(self, deadline: float) -> bytes:
        return self.http.read(self._stream, deadline)

    def finish(self) -> None:
        self.http.finish(self._stream)

    def ended_well(self) -> bool:
        return not self.http.was_reset(self._stream)

    def wait_confirmed(self) -> None:
        self.http.wait_for_ping()

    def close(self) -> None:
        self.http.close()


Raw = RawH1 | RawH2


class BinaryShell:
    """The bytes themselves."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.marks = 0
        self.upstream = ""
        self.closed = False

    def wrap(self, data: bytes) -> bytes:
        return data

    def unwrap(self, chunk: bytes, raw: Raw) -> bytes:
        return chunk


class EventShell(BinaryShell):
    """Server-sent events; whatever is out of form is an error."""

    def unwrap(self, chunk: bytes, raw: Raw) -> bytes:
        self.buffer += chunk
        out = b""
        while b"\n\n" in self.buffer:
            text, _, rest = bytes(self.buffer).partition(b"\n\n")
            self.buffer = bytearray(rest)
            if text.startswith(b":"):
                assert text in (b":ready", b":keepalive")
                continue
            if text.startswith(b"event: upstream\ndata: "):
                self.upstream = text.rpartition(b" ")[2].decode()
                continue
            name, number, data = text.split(b"\n")
            if name != b"event: frame" or not number.startswith(b"id: ") or not data.startswith(b"data: "):
                raise SpecError(f"event {text!r}")
            out += base64.b64decode(data[6:], validate=True)
        return out


class LineShell(BinaryShell):
    """Lines of JSON."""

    def unwrap(self, chunk: bytes, raw: Raw) -> bytes:
        self.buffer += chunk
        *lines, rest = bytes(self.buffer).split(b"\n")
        self.buffer = bytearray(rest)
        out = b""
        for line in lines:
            value = json.loads(line)
            if value == {"keepalive": True}:
                continue
            if list(value) == ["upstream"]:
                self.upstream = value["upstream"]
                continue
            if list(value) != ["channel", "data", "sequence", "type"]:
                raise SpecError(f"line {line!r}")
            out += base64.b64decode(value["data"], validate=True)
        return out


def ws_frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A masked frame of a client (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", opcode | fin << 7, size | 0x80)
    elif size < 65_536:
        head = struct.pack("!BBH", opcode | fin << 7, 126 | 0x80, size)
    else:
        head = struct.pack("!BBQ", opcode | fin << 7, 127 | 0x80, size)
    mask = os.urandom(4)
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return head + mask + masked


class WebSocketShell(BinaryShell):
    """Binary messages; Pings are answered."""

    def wrap(self, data: bytes) -> bytes:
        return ws_frame(2, data)

    def unwrap(self, chunk: bytes, raw: Raw) -> bytes:
        self.buffer += chunk
        out = b""
        while (frame := self._next()) is not None:
            opcode, payload = frame
            if opcode == 9:
                raw.send(ws_frame(10, payload))
                self.marks += 1
            elif opcode == 8:
                self.closed = True
            elif opcode == 0x2:
                out += payload
            else:
                raise SpecError(f"opcode {opcode}")
        return out

    def _next(self) -> tuple[int, bytes] | None:
        data = self.buffer
        if len(data) < 2:
            return None
        assert data[0] & 0x80
        assert not data[1] & 0x80, "the server masks"
        size, start = data[1], 2
        if size == 126:
            start = 4
        elif size == 127:
            start = 10
        if len(data) < start:
            return None
        if start > 2:
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return None
        opcode, payload = data[0] & 0x0F, bytes(data[start : start + size])
        del data[: start + size]
        return opcode, payload


class Carried:
    """A raw transport in its shell, as `Wire` wants its HTTP connection."""

    def __init__(self, raw: Raw, shell: BinaryShell) -> None:
        self.raw = raw
        self.shell = shell

    def send(self, stream_id: int, data: bytes, chunk: int | None = None) -> None:
        self.raw.send(self.shell.wrap(data))

    def read(self, stream_id: int, deadline: float) -> bytes:
        data = b""
        while not data:
            if self.shell.closed:
                raise StreamEndedError
            data = self.shell.unwrap(self.raw.read(deadline), self.raw)
        return data

    def finish(self, stream_id: int) -> None:
        self.raw.finish()

    def was_reset(self, stream_id: int) -> bool:
        return not self.raw.ended_well()

    def wait_confirmed(self) -> None:
        """Until this client has answered what the server confirms by."""
        if isinstance(self.shell, WebSocketShell):
            deadline = time.monotonic() + DEADLINE
            while not self.shell.marks:
                rest = self.shell.unwrap(self.raw.read(deadline), self.raw)
                assert not rest
        else:
            self.raw.wait_confirmed()

    def close(self) -> None:
        self.raw.close()


class FedByPosts(Carried):
    """What the client sends goes by separate POSTs, each sent twice."""

    def __init__(self, endpoint: Endpoint, raw: Raw, shell: BinaryShell) -> None:
        super().__init__(raw, shell)
        self._endpoint = endpoint
        self._offset = 0
        deadline = time.monotonic() + DEADLINE
        while not shell.upstream:
            assert shell.unwrap(raw.read(deadline), raw) == b""

    def send(self, stream_id: int, data: bytes, chunk: int | None = None) -> None:
        for start in range(0, len(data), 400_000):
            piece = data[start : start + 400_000]
            assert self.post(self._offset, piece) == 204
            assert self.post(self._offset, piece) == 204
            self._offset += len(piece)

    def post(self, offset: int | str, data: bytes, name: str = "") -> int:
        """Status of one POST."""
        target = f"/connect?upstream={name or self.shell.upstream}&offset={offset}"
        raw = type(self.raw)(self._endpoint, "POST", target, {}, content=data)
        raw.close()
        return raw.status

    def finish(self, stream_id: int) -> None:
        self.raw.close()


MODES = {
    "h1-binary": (RawH1, BinaryShell, "/connect", "binary"),
    "h1-sse": (RawH1, EventShell, "/connect?mode=sse", "sse"),
    "h1-long-poll": (RawH1, LineShell, "/connect?mode=long-poll", "long-poll"),
    "h1-websocket": (RawH1, WebSocketShell, "/connect", "websocket"),
    "h2-binary": (RawH2, BinaryShell, "/connect", "binary"),
    "h2-sse": (RawH2, EventShell, "/connect?transport=event-stream", "sse"),
    "h2-long-poll": (RawH2, LineShell, "/connect?mode=poll", "long-poll"),
    "h1-sse-posts": (RawH1, EventShell, "/connect?mode=sse&upstream=new", "sse"),
    "h2-long-poll-posts": (RawH2, LineShell, "/connect?mode=poll&upstream=new", "long-poll"),
    "h2-websocket": (RawH2, WebSocketShell, "/connect", "websocket"),
}


EXTENDED_CONNECT = {":protocol": "websocket", "sec-websocket-version": "13"}
"""RFC 8441, section 4; the first is a pseudo-header."""


def websocket_headers() -> dict[str, str]:
    return {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": base64.b64encode(secrets.token_bytes(16)).decode(),
    }


def carried(endpoint: Endpoint, mode: str) -> Carried:
    raw_type, shell_type, target, label = MODES[mode]
    if (raw_type, shell_type) == (RawH2, WebSocketShell):
        raw = raw_type(endpoint, "CONNECT", target, EXTENDED_CONNECT)
        assert raw.status == 200
    elif shell_type is WebSocketShell:
        raw = raw_type(endpoint, "GET", target, websocket_headers(), body=False)
        assert raw.status == 101
    else:
        raw = raw_type(endpoint, "POST", target, {}, body="upstream=new" not in target)
        assert raw.status == 200
    assert raw.headers["x-commucat-connect-mode"] == label
    if "upstream=new" in target:
        return FedByPosts(endpoint, raw, shell_type())
    return Carried(raw, shell_type())


class ModeWire(Wire):
    """The byte stream of one session in any mode."""

    def __init__(self, transport: Carried) -> None:
        self.transport = transport
        self.http = transport  # type: ignore[assignment]  # the part of it that is used
        self.data_chunk = None
        self.noise_sizes = []
        self.encrypted_bytes = bytearray()
        self._noise = None
        self._buffer = bytearray()
        self._plain = bytearray()
        self._stream = 0


class ModeSession(Session):
    """One device's session in any mode."""

    wire: ModeWire

    def __init__(self, transport: Carried, info: ServerInfo, device: Device) -> None:
        self.device = device
        self.wire = ModeWire(transport)
        self.waiting = []
        self._info = info
        self.last_sequence = 0

    def close(self) -> None:
        with contextlib.suppress(OSError, h11.LocalProtocolError):
            self.wire.close()


def connect_by(
    endpoint: Endpoint,
    info: ServerInfo,
    device: Device,
    mode: str,
    capabilities: tuple[str, ...] = ("delivery-ack",),
) -> ModeSession:
    session = ModeSession(carried(endpoint, mode), info, device)
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        session.shake_hands("XK", capabilities)
        undo.pop_all()
    return session
