"""A server that is registered as a peer, and does what it likes. HTTP/1.1 over TLS, written by hand."""

import datetime
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commucat_crypto import DeviceKeyPair
from commucat_proto.federation import Event
from commucat_proto.federation.instants import NANOSECONDS
from commucat_server.provision import self_signed

DOMAIN = "hostile.test"
_MOST = 16 * 1024 * 1024
_DRIPS = 1000


@attrs.define(eq=False)
class HostilePeer:
    """Listens as long as :meth:`listening` lasts; ``behaviour`` says what it does with a request."""

    home: Path
    keys: DeviceKeyPair = attrs.field(factory=DeviceKeyPair.generate)
    behaviour: str = "accept"
    port: int = 0
    bodies: list[bytes] = attrs.field(factory=list)
    """Of the requests with one, as they came."""

    def __attrs_post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        self.certificate.write_bytes(
            self_signed(key=key, domain=DOMAIN, bind_host="127.0.0.1", now=now)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    @property
    def certificate(self) -> Path:
        """With its key; PEM."""
        return self.home / "hostile.pem"

    @property
    def trusted(self) -> str:
        """The certificate alone."""
        end = "-----END CERTIFICATE-----\n"
        return self.certificate.read_text().partition(end)[0] + end

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def event(self, payload: Any, scope: str, at: float, **changes: Any) -> bytes:
        """A signed event of this peer."""
        members = {
            "event_id": "evt-1",
            "origin": DOMAIN,
            "created_at": int(at * NANOSECONDS),
            "payload": payload,
            "scope": scope,
        } | changes
        return Event(**members).sign(self.keys).encode()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        context.set_alpn_protocols(["http/1.1"])
        listeners = await trio.open_ssl_over_tcp_listeners(
            self.port, context, host="127.0.0.1", https_compatible=True
        )
        self.port = listeners[0].transport_listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._serve, listeners)
            yield
            nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        # It is left alone in the middle of what it does, as it deserves.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while (request := await _request(stream)) is not None:
                path, body = request
                if body:
                    self.bodies.append(body)
                await BEHAVIOURS[self.behaviour](stream, path)
                if self.behaviour != "accept":
                    return


async def _request(stream: trio.SSLStream[trio.SocketStream]) -> tuple[str, bytes] | None:
    """Path and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65_536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    length = int(headers.get("content-length", "0"))
    assert length <= _MOST
    while len(body) < length:
        more = await stream.receive_some(65_536)
        if not more:
            return None
        body += more
    return lines[0].split(" ")[1], body


def _answer(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


_Stream = trio.SSLStream[trio.SocketStream]


def _fixed(data: bytes) -> Callable[[_Stream, str], Awaitable[None]]:
    async def answer(stream: _Stream, path: str) -> None:
        await stream.send_all(data)

    return answer


async def _accept(stream: _Stream, path: str) -> None:
    if path.startswith("/.well-known"):
        await stream.send_all(_answer("404 Not Found", b"{}"))
    else:
        await stream.send_all(_answer("202 Accepted", b'{"status":"accepted"}'))


async def _endless(stream: _Stream, path: str) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")


async def _drip(stream: _Stream, path: str) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    for _ in range(_DRIPS):
        await stream.send_all(b" ")
        await trio.sleep(0.2)  # the slowness itself: each piece comes in time, the whole never


async def _silence(stream: _Stream, path: str) -> None:
    await stream.receive_some(1)


_EVIL_WORDS = json.dumps({"title": "x\u0000\r\n\u2028and", "detail": "\u001b[31m" + "y" * 5000}).encode()
BEHAVIOURS: dict[str, Callable[[_Stream, str], Awaitable[None]]] = {
    "accept": _accept,
    "nonsense": _fixed(b"\x00\x01SSH-2.0-nonsense\r\n\r\n"),
    "a page": _fixed(_answer("200 OK", b"<h1>It works!</h1>", "content-type: text/html")),
    "deep JSON": _fixed(_answer("200 OK", b"[" * 100_000)),
    "500": _fixed(_answer("500 Internal Server Error", _EVIL_WORDS)),
    "429": _fixed(_answer("429 Too Many Requests", b"{}", "retry-after: 99999999999999999999")),
    "a redirect": _fixed(_answer("302 Found", b"", "location: http://127.0.0.1:1/")),
    "an unknown status": _fixed(_answer("799 Whatever", b"{}")),
    "huge headers": _fixed(_answer("200 OK", b"{}", "x-big: " + "b" * 2_000_000)),
    "many headers": _fixed(_answer("200 OK", b"{}", *(f"x-{number}: b" for number in range(50_000)))),
    "a wrong length": _fixed(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n"),
    "a broken code": _fixed(_answer("200 OK", b"\xff\xfe", "content-encoding: gzip")),
    "an endless body": _endless,
    "slow drips": _drip,
    "silence": _silence,
}
