"""The beginning of a stream in each form: the response's head, or why there is none."""

import base64
import binascii

import trio
from wsproto.utilities import generate_accept_token

from commucat_server.connect.modes.detect import Mode, detect_mode, wants_websocket
from commucat_server.connect.modes.refusal import Refusal
from commucat_server.connect.modes.text import EventStream, LineStream, TextStream
from commucat_server.connect.modes.upstream import Upstream
from commucat_server.connect.modes.websocket import WebSocketStream
from commucat_server.listener import ConnectStream
from commucat_server.ops.counters import SocketCounters

_CONTENT_TYPES = {
    Mode.BINARY: "application/octet-stream",
    Mode.SSE: "text/event-stream",
    Mode.LONG_POLL: "application/x-ndjson",
}
_MODE_HEADER = "x-commucat-connect-mode"
_WRONG_VERSION = Refusal(400, "BadRequest", "sec-websocket-version must be 13")


_EMPTY_BODY_TIMEOUT = 5.0
"""Seconds for the end of a request body that must be empty."""


async def open_mode(
    stream: ConnectStream,
    interval: float,
    upstream: Upstream | None,
    counters: SocketCounters | None = None,
) -> ConnectStream | Refusal:
    """Send the response's head; return the stream in the form that the client asked for.

    The head goes out before the request's body is read: a failed handshake is an Error frame in a
    successful response, never an HTTP status.

    Args:
        stream: the request.
        interval: seconds of silence before a sign of life.
        upstream: brings the client's bytes, if the request has asked for that.
        counters: of all WebSocket streams together.
    """
    mode = detect_mode(stream)
    if mode is Mode.WEBSOCKET and upstream is None:
        return await _open_websocket(stream, counters)
    if stream.method not in ("POST", "GET"):
        return Refusal(404, "Not Found", "/connect takes POST and GET")
    if upstream is not None and (refusal := await _refuse_upstream(stream, mode)) is not None:
        return refusal
    head = [
        ("content-type", _CONTENT_TYPES[mode]),
        ("cache-control", "no-store"),
        (_MODE_HEADER, mode.value),
    ]
    if mode is Mode.SSE:
        head.append(("connection", "keep-alive"))  # dropped where it is not legal
    # With the answer to a Hello that is there already; a client that waits for the head gets it at once.
    await stream.start(200, head, with_body=mode is Mode.BINARY)
    if mode is Mode.BINARY:
        return stream
    if mode is Mode.SSE:
        await stream.send(b":ready\n\n")
    kind: type[TextStream] = EventStream if mode is Mode.SSE else LineStream
    text = kind(stream, interval, upstream)
    if upstream is not None:
        await text.announce(upstream.id)
    return text


async def _refuse_upstream(stream: ConnectStream, mode: Mode) -> Refusal | None:
    """Two sources of the client's bytes could not be put in order: its own body must be empty."""
    if mode not in (Mode.SSE, Mode.LONG_POLL):
        return Refusal(400, "BadRequest", "upstream=new goes with the modes sse and long-poll")
    with trio.move_on_after(_EMPTY_BODY_TIMEOUT):
        if not await stream.receive():
            return None
    return Refusal(400, "BadRequest", "with upstream=new the request's body must be empty")


def mode_of(stream: ConnectStream) -> Mode:
    """The form in which :func:`open_mode` has opened a stream."""
    match stream:
        case WebSocketStream():
            return Mode.WEBSOCKET
        case EventStream():
            return Mode.SSE
        case LineStream():
            return Mode.LONG_POLL
        case _:
            return Mode.BINARY


async def _open_websocket(
    stream: ConnectStream, counters: SocketCounters | None
) -> WebSocketStream | Refusal:
    """The opening handshake (RFC 6455, section 4.2.2; over HTTP/2 RFC 8441, section 5)."""
    if stream.http_version == "2":
        if stream.protocol != "websocket":
            return Refusal(400, "BadRequest", "WebSocket over HTTP/2 begins with an extended CONNECT")
        if stream.headers.get("sec-websocket-version", "").strip() != "13":
            return _WRONG_VERSION
        await stream.start(200, [(_MODE_HEADER, Mode.WEBSOCKET.value)])
        return WebSocketStream(stream, counters)
    refusal = websocket_refusal(stream)
    if refusal is not None:
        return refusal
    await open_websocket(stream)
    return WebSocketStream(stream, counters)


def websocket_refusal(stream: ConnectStream) -> Refusal | None:
    """Why an HTTP/1.1 request does not open a WebSocket (RFC 6455, section 4.2.1); ``None``: it does."""
    headers = stream.headers
    if stream.method != "GET":
        return Refusal(405, "MethodNotAllowed", "WebSocket begins with GET", allow="GET")
    if not wants_websocket(stream):
        return Refusal(400, "BadRequest", "the request asks for no upgrade to websocket")
    if headers.get("sec-websocket-version", "").strip() != "13":
        return _WRONG_VERSION
    try:
        size = len(base64.b64decode(_key_of(stream), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 16:
        return Refusal(400, "BadRequest", "sec-websocket-key must be 16 bytes in base64")
    if "content-length" in headers or "transfer-encoding" in headers:
        return Refusal(400, "BadRequest", "an upgrade carries no body")
    return None


async def open_websocket(stream: ConnectStream) -> None:
    """Accept an HTTP/1.1 request that :func:`websocket_refusal` lets pass."""
    head = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-accept", generate_accept_token(_key_of(stream).encode()).decode()),
        (_MODE_HEADER, Mode.WEBSOCKET.value),
    ]
    await stream.start(101, head)


def _key_of(stream: ConnectStream) -> str:
    return stream.headers.get("sec-websocket-key", "").strip()
