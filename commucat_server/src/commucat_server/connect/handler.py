"""A `/connect` request from its first byte to its device's admission, or to the answer that refuses it."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from commucat_crypto import StaticKeyPair
from commucat_proto import ServerSession, json_text
from commucat_server.connect.context import ConnectContext
from commucat_server.connect.handshake import Handshake, keepalive_interval
from commucat_server.connect.modes import (
    GONE,
    NEW,
    Refusal,
    Upstream,
    Upstreams,
    feed_upstream,
    open_mode,
    upstream_of,
)
from commucat_server.connect.session import EstablishedSession
from commucat_server.listener import ConnectStream, StreamLostError
from commucat_server.security.rate import identity_of

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class ConnectHandler:
    """Serves `/connect` streams; the listener calls it once for each."""

    def __init__(self, context: ConnectContext) -> None:
        self._context = context
        self._handshakes = 0
        relay = context.relay
        self.upstreams = Upstreams("" if relay is None else relay.prefix)

    async def __call__(self, stream: ConnectStream) -> None:
        asked = upstream_of(stream.query)
        name = asked.get("upstream")
        patience = self._context.settings.write_stall
        relay = self._context.relay
        if name is not None and relay is not None and relay.is_elsewhere(name) and stream.method == "POST":
            await _answer(stream, await relay.forward(name, asked.get("offset", ""), stream, patience))
            return
        if name is not None and (known := self.upstreams.find(name)) is not None:
            refusal = await feed_upstream(known, asked.get("offset", ""), stream, patience)
            await _answer(stream, refusal)
            return
        identity = identity_of(stream.remote_host)
        wait = await self._context.connect_limit.take(identity)
        if wait > 0.0 or self._handshakes >= self._context.settings.max_handshakes:
            self._context.counters.rate_limited += 1
            await _problem(stream, 429, "Too Many Requests", retry_after=max(1, math.ceil(wait)))
            return
        if name not in (None, NEW):
            await _answer(stream, GONE)
            return
        upstream = self.upstreams.open() if name == NEW else None
        try:
            await self._serve(stream, upstream, identity)
        except StreamLostError:
            pass  # the peer went away first: an ordinary end
        finally:
            if upstream is not None:
                self.upstreams.close(upstream)

    async def _serve(self, stream: ConnectStream, upstream: Upstream | None, identity: str) -> None:
        self._handshakes += 1
        try:
            opened = await open_mode(stream, keepalive_interval(self._context.settings.keepalive), upstream)
            if isinstance(opened, Refusal):
                await _answer(stream, opened)
                return
            session = ServerSession(self._context.noise_keys.parameters, ephemeral=StaticKeyPair.generate())
            welcome = await Handshake(self._context, opened, session).run()
        finally:
            self._handshakes -= 1
        if welcome is not None:
            self._context.connect_limit.give_back(identity)
            self._context.counters.handshakes += 1
            established = EstablishedSession(self._context, opened, session, welcome)
            # What is needed for the beginning only must not stay for hours.
            opened.headers = stream.headers = _NO_HEADERS
            del session, welcome
            await established.run()


async def _answer(stream: ConnectStream, refusal: Refusal | None) -> None:
    """Answer a request that begins no stream: 204 if nothing is wrong with it."""
    if refusal is None:
        await stream.start(204, [("cache-control", "no-store")])
        await stream.end()
        return
    await _problem(
        stream,
        refusal.status,
        refusal.title,
        detail=refusal.detail,
        expected=refusal.expected,
        allow=refusal.allow,
    )


async def _problem(
    stream: ConnectStream,
    status: int,
    title: str,
    *,
    detail: str | None = None,
    retry_after: int | None = None,
    expected: int | None = None,
    allow: str = "",
) -> None:
    document: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if detail is not None:
        document["detail"] = detail
    if expected is not None:
        document["expected"] = expected
    headers = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if retry_after is not None:
        headers.append(("retry-after", str(retry_after)))
    if allow:
        headers.append(("allow", allow))
    await stream.start(status, headers)
    if stream.method != "HEAD":
        await stream.send(json_text.dumps(document))
    await stream.end()
