"""A `/connect` request from its first byte to its device's admission, or to the answer that refuses it."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import structlog
from structlog.contextvars import bind_contextvars, unbind_contextvars

from commucat_crypto import StaticKeyPair
from commucat_proto import ServerSession
from commucat_server.connect.answering import answer_refusal, send_problem
from commucat_server.connect.context import ConnectContext
from commucat_server.connect.handshake import Handshake, keepalive_interval
from commucat_server.connect.modes import (
    GONE,
    NEW,
    Refusal,
    Upstream,
    Upstreams,
    feed_upstream,
    mode_of,
    open_mode,
    upstream_of,
)
from commucat_server.connect.session import EstablishedSession
from commucat_server.listener import ConnectStream, StreamLostError
from commucat_server.ops.tracing import TraceContext, log_members, trace_of
from commucat_server.security.rate import identity_of

log = structlog.get_logger("commucat.connect")

SHOWN_HASH = 16
"""Digits of a session's hash in its log lines: the begin of what the ledger calls ``session``."""
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
            await answer_refusal(stream, await relay.forward(name, asked.get("offset", ""), stream, patience))
            return
        if name is not None and (known := self.upstreams.find(name)) is not None:
            refusal = await feed_upstream(known, asked.get("offset", ""), stream, patience)
            await answer_refusal(stream, refusal)
            return
        self._find_client(stream)
        identity = identity_of(stream.remote_host)
        wait = await self._context.connect_limit.take(identity)
        if wait > 0.0 or self._handshakes >= self._context.settings.max_handshakes:
            self._context.counters.rate_limited += 1
            await send_problem(stream, 429, "Too Many Requests", retry_after=max(1, math.ceil(wait)))
            return
        if name not in (None, NEW):
            await answer_refusal(stream, GONE)
            return
        upstream = self.upstreams.open() if name == NEW else None
        trace = trace_of(stream.headers.get("traceparent"))
        bind_contextvars(**log_members(trace))
        try:
            await self._serve(stream, upstream, identity, trace)
        except StreamLostError:
            pass  # the peer went away first: an ordinary end
        finally:
            # Not a context manager around it all: it would stay in memory as long as the session.
            unbind_contextvars("session_hash", "trace_id", "parent_id")
            if upstream is not None:
                self.upstreams.close(upstream)

    def _find_client(self, stream: ConnectStream) -> None:
        """Put the client's address in the place of its proxy's."""
        clients = self._context.clients
        name = clients.header_name
        if name is not None:
            host = clients.resolve(stream.remote_host, stream.headers.get(name, ""))
            if host != stream.remote_host:
                stream.remote_host, stream.remote_port = host, 0

    async def _serve(
        self, stream: ConnectStream, upstream: Upstream | None, identity: str, trace: TraceContext | None
    ) -> None:
        self._handshakes += 1
        try:
            interval = keepalive_interval(self._context.settings.keepalive)
            with self._context.spans.span("connect handshake", trace) as span:
                opened = await open_mode(stream, interval, upstream, self._context.counters.websocket)
                if isinstance(opened, Refusal):
                    span.fail(opened.title)
                    await answer_refusal(stream, opened)
                    return
                span.note("commucat.mode", mode_of(opened).value)
                session = ServerSession(
                    self._context.noise_keys.parameters, ephemeral=StaticKeyPair.generate()
                )
                welcome = await Handshake(self._context, opened, session).run()
                if welcome is None:
                    span.fail("refused")
                else:
                    span.note("commucat.session_hash", welcome.token_hash[:SHOWN_HASH])
            del span
        finally:
            self._handshakes -= 1
        if welcome is not None:
            self._context.connect_limit.give_back(identity)
            self._context.counters.handshakes += 1
            established = EstablishedSession(self._context, opened, session, welcome)
            # What is needed for the beginning only must not stay for hours.
            opened.headers = stream.headers = _NO_HEADERS
            del session, welcome
            mode, sessions = mode_of(opened).value, self._context.counters.sessions
            sessions[mode] = sessions.get(mode, 0) + 1
            # Tasks that are started for the session inherit it.
            bind_contextvars(session_hash=established.token_hash[:SHOWN_HASH])
            try:
                log.debug("handshake established", device=established.device_id, mode=mode)
                await established.run()
                log.debug("connection closed", device=established.device_id)
            finally:
                sessions[mode] -= 1
