"""What every request to the REST interface passes first: whose it is, its trace, and the rate limits.

``/connect`` does not pass here; its handler has a limit of its own.
"""

from collections.abc import Iterable
from typing import Any

import attrs
from structlog.contextvars import bound_contextvars

from commucat_server.api.problems import retry_after
from commucat_server.listener import AsgiApp
from commucat_server.listener.problem import problem
from commucat_server.ops.counters import Counters
from commucat_server.ops.spans import Spans
from commucat_server.ops.tracing import log_members, trace_of
from commucat_server.security.clients import ClientAddresses
from commucat_server.security.limits import RateLimits
from commucat_server.security.rate import SharedRateLimit, identity_of

PAIRING_CLAIMS = frozenset({"/api/pair/claim", "/api/pairing/claim"})
FEDERATION = "/federation/"

_Headers = Iterable[tuple[bytes, bytes]]


@attrs.frozen(kw_only=True)
class Gate:
    """Stands before the application. Without ``limits`` nothing is limited."""

    application: AsgiApp
    counters: Counters
    clients: ClientAddresses
    limits: RateLimits | None
    spans: Spans = attrs.field(factory=Spans)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        self.counters.http_requests += 1
        headers = scope["headers"]
        host, _ = scope["client"]
        name = self.clients.header_name
        if name is not None:
            resolved = self.clients.resolve(host, joined(headers, name.encode()))
            if resolved != host:
                # Its port is known to the proxy only.
                scope = {**scope, "client": (resolved, 0)}
                host = resolved
        wait = await self._wait(scope, identity_of(host))
        if wait > 0.0:
            self.counters.rate_limited_http += 1
            self.counters.http_answers[429] = self.counters.http_answers.get(429, 0) + 1
            await _refuse(wait, send)
            return
        answers = self.counters.http_answers
        trace = trace_of(joined(headers, b"traceparent") or None)
        with bound_contextvars(**log_members(trace)), self.spans.span(scope["method"], trace) as span:

            async def counted(message: Any) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    answers[status] = answers.get(status, 0) + 1
                    span.note("http.response.status_code", status)
                    if status < 300 and self.limits is not None and scope["path"].startswith(FEDERATION):
                        # Of an event that is taken its peer's own limit counts.
                        self.limits.http.give_back(identity_of(host))
                    if status >= 500:
                        span.fail(f"status {status}")
                await send(message)

            span.note("http.request.method", scope["method"])
            try:
                await self.application(scope, receive, counted)
            finally:
                # Not the path: names of people and of blobs are in it.
                if (template := scope.get("path_template")) is not None:
                    span.name(f"{scope['method']} {template}")
                    span.note("http.route", template)

    async def _wait(self, scope: Any, identity: str) -> float:
        """Seconds for which the address is refused; 0.0 if it is not."""
        if self.limits is None:
            return 0.0
        wait = await self.limits.http.take(identity)
        if wait == 0.0 and scope["method"] == "POST":
            # As the router finds it: a slash at the end makes no other path. Two in a row never get here.
            path = scope["path"].rstrip("/")
            if path in PAIRING_CLAIMS:
                wait = await self.limits.pairing_claim.take(identity)
        return wait


async def wait_of_caller(limit: SharedRateLimit, device_id: str, user_id: str) -> float:
    """Count a request for its device and its user, wherever it came from; seconds as of ``take``."""
    wait = await limit.take(f"device:{device_id}")
    if wait == 0.0:
        wait = await limit.take(f"user:{user_id}")
        if wait > 0.0:
            limit.give_back(f"device:{device_id}")
    return wait


def joined(headers: _Headers, name: bytes) -> str:
    """All headers of this lower-case name, in their order, with commas between."""
    return ",".join(value.decode("latin-1") for each, value in headers if each.lower() == name)


async def _refuse(wait: float, send: Any) -> None:
    headers, body = problem(429, "Too Many Requests")
    headers += [(name.encode(), value.encode()) for name, value in retry_after(wait).items()]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
