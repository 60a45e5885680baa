"""Opens a session's stream in the way that a connection is meant for."""

import base64
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from commucat_cli.transport.framed_stream import FramedStream
from commucat_cli.transport.framing import EventFraming, LineFraming, WebSocketFraming
from commucat_cli.transport.posts import PostedStream
from commucat_cli.transport.stream import HttpClient, RequestHead, SessionStream
from commucat_cli.transport.tasks import alongside
from commucat_cli.transport.via import Form, Via

_BODY = ("content-type", "application/octet-stream")


@asynccontextmanager
async def session_stream(
    client: HttpClient, *, silence: float = math.inf, patience: float = 15.0
) -> AsyncIterator[SessionStream]:
    """Request ``/connect`` in the way of ``client``; the stream is for use within the block.

    ``silence``: seconds without any byte after which a server over HTTP/1.1 counts as gone, where it gives
    signs of life. ``patience``: seconds in which a POST must be answered.

    Raises:
        CliError: the connection is lost.
    """
    via = client.via
    key = base64.b64encode(secrets.token_bytes(16))
    async with client.carrying(_head(via, key)) as raw:
        if via.form is Form.BINARY:
            yield raw
            return
        # Over HTTP/2 our PINGs find a dead server.
        quiet = silence if via.http1 else math.inf
        if via.form is Form.WEBSOCKET:
            yield FramedStream(raw, via.form, WebSocketFraming(), key=key, silence=quiet)
            return
        text = EventFraming() if via.form is Form.SSE else LineFraming()
        down = FramedStream(raw, via.form, text, silence=quiet)
        if not via.posts:
            yield down
            return
        posted = PostedStream(raw, down, client, patience)
        text.on_upstream = posted.announced
        async with alongside(posted.run):
            yield posted


def _head(via: Via, key: bytes) -> RequestHead:
    if via.form is Form.WEBSOCKET:
        version = ("sec-websocket-version", "13")
        if not via.http1:
            return RequestHead(method="CONNECT", path="/connect", headers=[version], protocol="websocket")
        upgrade = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-key", key.decode())]
        return RequestHead(method="GET", path="/connect", headers=[*upgrade, version], body=False)
    if via.form is Form.BINARY:
        return RequestHead(method="POST", path="/connect", headers=[_BODY])
    path = f"/connect?mode={via.form.value}"
    if via.posts:
        return RequestHead(method="GET", path=f"{path}&upstream=new", body=False)
    return RequestHead(method="POST", path=path, headers=[_BODY])
