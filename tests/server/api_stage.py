"""The REST interface over real services in memory, asked through ASGI as the listener does."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
import orjson
import trio

from commucat_server.api.application import build_application
from commucat_server.api.context import ApiContext
from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.listener import AsgiApp
from commucat_server.provision import Shared
from commucat_server.routing.friend_notices import FriendNotices
from server.connect_builders import DOMAIN, Client, Person, Server, running_server


@attrs.frozen
class Answer:
    """What the application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def refused(self, status: int) -> str | None:
        """The detail of a problem document."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["cache-control"] == "no-store"
        document = self.json
        assert document["status"] == status
        detail: str | None = document.get("detail")
        return detail


@attrs.define(eq=False)
class Api:
    """The application, and the services behind it."""

    server: Server
    application: AsgiApp
    tokens: dict[str, str] = attrs.Factory(dict)
    clients: dict[str, Client] = attrs.Factory(dict)

    async def enter(self, *handles: str) -> None:
        """A user with a connected device for each handle."""
        for handle in handles:
            client = await self.server.connect(Person(handle=handle))
            self.clients[handle] = client
            self.tokens[handle] = client.token

    def user_id(self, handle: str) -> str:
        return str(self.clients[handle].ack["user_id"])

    async def ask(
        self,
        method: str,
        path: str,
        who: str | None = None,
        *,
        body: bytes | Iterable[bytes] = b"",
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        leaves: bool = False,
    ) -> Answer:
        """One request. ``body`` comes in the given pieces; ``leaves``: the client goes away behind them."""
        if json is not None:
            body = orjson.dumps(json)
        pieces = [body] if isinstance(body, bytes) else list(body)
        sent: list[dict[str, Any]] = []
        answered = trio.Event()

        async def receive() -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            if pieces:
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces) or leaves}
            if not leaves:
                await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered.set()

        fields = dict(headers or {}) | ({"authorization": f"Bearer {self.tokens[who]}"} if who else {})
        raw_path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "method": method,
            "scheme": "https",
            "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
            "client": ("192.0.2.1", 1),
            "server": ("192.0.2.2", 2),
        }
        await self.application(scope, receive, send)
        if not sent:
            return Answer(0, {}, b"")
        start, *rest = sent
        return Answer(
            start["status"],
            {bytes(name).decode(): bytes(value).decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in rest),
        )


@asynccontextmanager
async def running_api(path: Path, **changes: Any) -> AsyncIterator[Api]:
    """``changes``: fields of the context, or of the server where their names begin with ``server_``."""
    of_server = {
        name.removeprefix("server_"): changes.pop(name) for name in list(changes) if "server_" in name
    }
    async with running_server(path, **of_server) as server:
        context = server.context
        fields: dict[str, Any] = {
            "version": "1",
            "policy": AdmissionPolicy(
                domain=DOMAIN,
                auto_approve_devices=True,
                join_by_handle=False,
                max_auto_devices_per_user=1,
                session_ttl=3600,
            ),
            "patterns": ("XK",),
            "keepalive": 3600,
            "presence_ttl": 30,
            "noise_keys": context.noise_keys,
            "storage": context.storage,
            "issuer": context.issuer,
            "registry": context.registry,
            "counters": context.counters,
            "node": "n",
            "worker": 0,
            "shared": Shared(),
            "started_at": 0.0,
            "clock": context.clock,
            "draining": lambda: False,
            "ledger": context.ledger,
            "introduce": context.presence.introduce,
            "friend_notices": FriendNotices(
                context.inbox,
                context.storage,
                domain=DOMAIN,
                channel=5,
                lifetime=3600,
                clock=context.clock,
            ),
        }
        for name, value in changes.items():
            fields[name] = value(server) if callable(value) and name in ("avatars", "attachments") else value
        yield Api(server, build_application(ApiContext(**fields)))
