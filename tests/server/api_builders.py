"""The REST interface over the services of a server in memory, asked as the listener would."""

from collections.abc import Mapping
from typing import Any

import attrs
import trio

from commucat_server.api.application import build_application
from commucat_server.api.context import ApiContext
from server.asgi_scopes import http_scope


@attrs.frozen
class Answer:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Api:
    """Answers requests; the handlers are built once."""

    def __init__(self, context: ApiContext) -> None:
        self._application = build_application(context)

    async def ask(
        self,
        method: str,
        path: str,
        *headers: tuple[str, str],
        body: bytes = b"",
        client: str = "192.0.2.1",
    ) -> Answer:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)

        scope = http_scope(
            method,
            path,
            [(b"host", b"localhost")] + [(name.encode(), value.encode("latin-1")) for name, value in headers],
            client=(client, 40000),
        )
        await self._application(scope, receive, send)
        return Answer(
            sent[0]["status"],
            {bytes(name).decode().lower(): bytes(value).decode() for name, value in sent[0]["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )
