"""The REST interface over the services of a server in memory, asked as the listener would."""

from collections.abc import Mapping
from typing import Any

import attrs
import trio

from commucat_server.api.application import build_application
from commucat_server.api.context import ApiContext
from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.provision import Shared
from server.connect_builders import DOMAIN, Server


@attrs.frozen
class Answer:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def api_context(server: Server, **changes: Any) -> ApiContext:
    """The context of these services; ``changes`` replaces members."""
    context = server.context
    members: dict[str, Any] = {
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
        # Of other resources; what is asked for in tests of these has them, see rest_builders.
        "pairing": None,
        "claim_failures": None,
        "devices": None,
        "rotations": None,
        "key_histories": None,
        "purge_soon": None,
    }
    return ApiContext(**(members | changes))


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

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost")]
            + [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "client": (client, 40000),
            "server": ("192.0.2.2", 8443),
        }
        await self._application(scope, receive, send)
        return Answer(
            sent[0]["status"],
            {bytes(name).decode().lower(): bytes(value).decode() for name, value in sent[0]["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )
