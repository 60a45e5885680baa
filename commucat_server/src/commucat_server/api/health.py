"""Whether the server lives, and whether it takes work."""

from typing import Any

import attrs
from litestar import Response, get

from commucat_server.api.answers import NO_STORE, ApiRequest, Handlers, json_answer
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import Answer, documented
from commucat_server.api.schemas import boolean, constant, integer, number, record, text
from commucat_server.api.statistics import SECURITY, is_administrator
from commucat_server.ops.statistics import security_statistics, websocket_statistics
from commucat_storage import StorageError

HEALTH = record(
    {
        "status": constant("healthy"),
        "uptime_seconds": integer(),
        "version": text(),
        "node": text("Another one at each start of the process."),
        "worker": integer(),
        "connections": integer("Sessions."),
        "traffic_ingress": integer("Frames."),
        "traffic_egress": integer("Frames."),
        "security": SECURITY,
        "websocket": record(
            {
                "active_connections": integer(),
                "pings_received": integer(),
                "pongs_sent": integer(),
                "pongs_received": integer(),
                "connection_errors": integer(),
                "ping_pong_ratio": number(),
            }
        ),
        "ledger": record(
            {
                "degraded": boolean(),
                "written": integer(),
                "waiting": integer(),
                "lost": integer(),
                "failures": integer(),
            }
        ),
        "redis": {"type": "object"},
    },
    optional=["redis", "security"],
)


def handlers(context: ApiContext) -> Handlers:
    """``/healthz`` and ``/readyz``."""

    @get(
        "/healthz",
        sync_to_thread=False,
        opt=documented("Whether the process lives, and what it counts", tag="server", ok={200: HEALTH}),
    )
    def healthz(request: ApiRequest) -> Response[dict[str, Any]]:
        """Who may not see the security statistics gets the rest."""
        counters, shared = context.counters, context.shared.counters
        extra: dict[str, Any] = {} if shared is None else {"redis": attrs.asdict(shared)}
        if not context.admin.authority.configured or is_administrator(request, context):
            extra["security"] = security_statistics(counters)
        return json_answer(
            extra
            | {
                "status": "healthy",
                "uptime_seconds": int(context.clock() - context.started_at),
                "version": context.version,
                "node": context.node,
                "worker": context.worker,
                "connections": len(context.registry),
                "traffic_ingress": counters.frames_ingress,
                "traffic_egress": counters.frames_egress,
                "websocket": websocket_statistics(counters),
                "ledger": {
                    "degraded": context.ledger.trouble is not None,
                    "written": context.ledger.written,
                    "waiting": context.ledger.waiting,
                    "lost": context.ledger.lost,
                    "failures": context.ledger.failures,
                },
            }
        )

    @get(
        "/readyz",
        opt=documented(
            "Whether the server takes work",
            tag="server",
            ok={
                200: Answer(media_type="text/plain", description="`ready`, and what is degraded."),
                503: Answer(media_type="text/plain", description="`degraded`."),
            },
        ),
    )
    async def readyz() -> Response[str]:
        """Ready means: the store can write, and the server takes new work.

        What is degraded, the ledger or Redis, is named in a line of its own, and sends no client elsewhere.
        """
        try:
            if not context.draining():
                await context.storage.check()
                troubles = ["ledger"] if context.ledger.trouble is not None else []
                if (bus := context.shared.bus.healthy()) is not None:
                    troubles.append(bus)
                text = "\n".join(["ready", *(f"degraded: {trouble}" for trouble in troubles)])
                text += "\n" if troubles else ""
                return Response(text, media_type="text/plain", headers=NO_STORE)
        except StorageError:
            pass
        return Response("degraded", status_code=503, media_type="text/plain", headers=NO_STORE)

    return [healthz, readyz]
