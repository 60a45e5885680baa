"""Answers to requests that begin no stream."""

from typing import Any

from commucat_proto import json_text
from commucat_server.connect.modes import Refusal
from commucat_server.listener import ConnectStream


async def answer_refusal(stream: ConnectStream, refusal: Refusal | None) -> None:
    """Answer a request that begins no stream: 204 if nothing is wrong with it."""
    if refusal is None:
        await stream.start(204, [("cache-control", "no-store")])
        await stream.end()
        return
    await send_problem(
        stream,
        refusal.status,
        refusal.title,
        detail=refusal.detail,
        expected=refusal.expected,
        allow=refusal.allow,
    )


async def send_problem(
    stream: ConnectStream,
    status: int,
    title: str,
    *,
    detail: str | None = None,
    retry_after: int | None = None,
    expected: int | None = None,
    allow: str = "",
    authenticate: bool = False,
) -> None:
    """A problem document (RFC 9457); ``authenticate`` asks for a bearer token."""
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
    if authenticate:
        headers.append(("www-authenticate", "Bearer"))
    await stream.start(status, headers)
    if stream.method != "HEAD":
        await stream.send(json_text.dumps(document))
    await stream.end()
