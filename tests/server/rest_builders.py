"""The REST interface over a real store, asked in memory."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from commucat_ledger import LedgerRecord
from commucat_server.api.application import build_application
from commucat_server.api.context import ApiContext
from commucat_server.connect.context import ConnectContext
from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.identity.devices import Devices
from commucat_server.identity.key_history import KeyHistories
from commucat_server.identity.pairing import Pairing, PairingPolicy
from commucat_server.identity.pairing_codes import PairingCodeHashes
from commucat_server.identity.rotation import RotationPolicy, Rotations
from commucat_server.listener import AsgiApp
from commucat_server.ops.audit import Audit
from commucat_server.provision import Shared
from commucat_server.security.rate import RateLimit, SharedRateLimit
from server.asgi_scopes import http_scope
from server.connect_builders import AUTHORITY, DOMAIN, Client, Person, Server, running_server, upkeep_of


class Records:
    """A ledger that only remembers."""

    def __init__(self) -> None:
        self.all: list[LedgerRecord] = []

    def offer(self, record: LedgerRecord) -> None:
        self.all.append(record)

    def of(self, **wanted: Any) -> list[dict[str, Any]]:
        """The metadata of records that have all these members."""
        found = [dict(record.metadata) for record in self.all]
        return [each for each in found if wanted.items() <= each.items()]


@attrs.frozen(kw_only=True)
class Reply:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str | None:
        """Of a problem document."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        document = self.json
        assert document["type"] == "about:blank"
        assert document["status"] == self.status
        detail: str | None = document.get("detail")
        return detail


@attrs.frozen(kw_only=True)
class Rest:
    """The services, the interface over them, and what its audit said."""

    server: Server
    context: ApiContext
    application: AsgiApp
    records: Records

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        token: str | None = None,
        address: str = "192.0.2.9",
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Reply:
        """One request; ``body`` is bytes or something that becomes JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)

        if token is not None:
            headers = (*headers, (b"authorization", f"Bearer {token}".encode()))
        scope = http_scope(method, path, headers, client=(address, 1))
        await self.application(scope, receive, send)
        start, *parts = sent
        return Reply(
            status=start["status"],
            headers={name.decode().lower(): value.decode() for name, value in start["headers"]},
            body=b"".join(part.get("body", b"") for part in parts),
        )

    async def connect(self, person: Person, **changes: Any) -> Client:
        return await self.server.connect(person, **changes)


def api_context(server: Server, records: Records | None = None, **changes: Any) -> ApiContext:
    """What the interface needs, over the services of a ``/connect`` driver."""
    context: ConnectContext = server.context
    storage, issuer, clock = context.storage, context.issuer, context.clock
    audit = Audit(records or Records())
    pairing, rotation = changes.pop("pairing_policy", {}), changes.pop("rotation_policy", {})
    values: dict[str, Any] = {
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
        "storage": storage,
        "issuer": issuer,
        "registry": context.registry,
        "counters": context.counters,
        "node": "n",
        "worker": 0,
        "shared": Shared(),
        "started_at": 0.0,
        "clock": clock,
        "draining": lambda: False,
        "ledger": context.ledger,
        "pairing": Pairing(
            storage,
            issuer,
            PairingCodeHashes(AUTHORITY),
            PairingPolicy(domain=DOMAIN, **pairing),
            audit,
            clock,
        ),
        "new_device_limit": limit("new_device", 1000, 3600.0),
        "claim_failures": limit("pairing_failures", 1000, 3600.0),
        "devices": Devices(
            storage, issuer, audit, clock, devices_per_user=pairing.get("devices_per_user", 100)
        ),
        "rotations": Rotations(
            storage,
            issuer,
            context.inbox,
            context.registry,
            RotationPolicy(**rotation),
            audit,
            context.counters,
            clock,
            relay_ttl=86_400,
        ),
        "key_histories": KeyHistories(storage, AUTHORITY, clock),
        "purge_soon": lambda: None,
    }
    return ApiContext(**(values | changes))


def limit(
    scope: str, burst: int, period: float, clock: Callable[[], float] = trio.current_time
) -> SharedRateLimit:
    """``burst`` at once, refilled over ``period`` seconds."""
    return SharedRateLimit(scope, RateLimit(burst=burst, period=period, clock=clock))


@asynccontextmanager
async def running_rest(
    path: Path, *, clock: Callable[[], float] | None = None, **changes: Any
) -> AsyncIterator[Rest]:
    """The interface over a fresh store, with upkeep; ``changes`` are those of :func:`api_context`."""
    timing = {} if clock is None else {"clock": clock}
    records = Records()
    async with running_server(path, **timing) as server:
        upkeep = upkeep_of(server)
        context = api_context(server, records, **({"purge_soon": upkeep.purge_soon} | changes))
        server.nursery.start_soon(upkeep.run)
        yield Rest(server=server, context=context, application=build_application(context), records=records)
