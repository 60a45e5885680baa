"""The routes of the REST interface."""

from typing import Any

import attrs
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from commucat_proto import SUPPORTED_VERSIONS
from commucat_server.api.authentication import authenticate
from commucat_server.api.context import ApiContext
from commucat_server.api.problems import (
    ProblemError,
    on_http_exception,
    on_problem,
    on_storage_error,
    on_unexpected,
)
from commucat_server.connect.handshake import keepalive_interval
from commucat_server.listener import AsgiApp
from commucat_server.ops.times import rfc3339
from commucat_storage import DeviceStatus, StorageError

_NO_STORE = {"cache-control": "no-store"}
_Request = Request[Any, Any, State]


def build_application(context: ApiContext) -> AsgiApp:
    """An ASGI application over the given services."""

    @get("/healthz", sync_to_thread=False)
    def healthz() -> Response[dict[str, Any]]:
        counters, shared = context.counters, context.shared.counters
        extra = {} if shared is None else {"redis": attrs.asdict(shared)}
        return _json(
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
                "security": {
                    "noise_handshakes": counters.handshakes,
                    "clear_sessions": counters.clear_sessions,
                },
                "ledger": {
                    "degraded": context.ledger.trouble is not None,
                    "written": context.ledger.written,
                    "waiting": context.ledger.waiting,
                    "lost": context.ledger.lost,
                    "failures": context.ledger.failures,
                },
            }
        )

    @get("/readyz")
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
                return Response(text, media_type="text/plain", headers=_NO_STORE)
        except StorageError:
            pass
        return Response("degraded", status_code=503, media_type="text/plain", headers=_NO_STORE)

    @get(["/api/server-info", "/api/server/info"], sync_to_thread=False)
    def server_info() -> Response[dict[str, Any]]:
        policy = context.policy
        keys = [
            {
                "version": key.version,
                "public": key.keys.public.hex(),
                "valid_after": rfc3339(key.valid_after),
                "rotates_at": rfc3339(key.rotates_at),
                "expires_at": rfc3339(key.expires_at),
            }
            for key in context.noise_keys
        ]
        return _json(
            {
                "domain": policy.domain,
                "noise_public": keys[0]["public"],
                "noise_keys": keys,
                "device_ca_public": context.issuer.public_key.hex(),
                "supported_patterns": list(context.patterns),
                "supported_versions": list(SUPPORTED_VERSIONS),
                "session": {
                    "ttl_seconds": context.keepalive,
                    "keepalive_interval": keepalive_interval(context.keepalive),
                },
                "presence": {"ttl_seconds": context.presence_ttl},
                "pairing": {
                    "auto_approve": policy.auto_approve_devices,
                    "max_auto_devices": policy.max_auto_devices_per_user,
                },
            }
        )

    @get("/api/devices/{device_id:str}/certificate")
    async def device_certificate(request: _Request, device_id: FromPath[str]) -> Response[dict[str, Any]]:
        """The certificate that a sender needs to seal to a device."""
        await authenticate(request, context)
        device = await context.storage.load_device(device_id)
        if device is None or device.status is not DeviceStatus.ACTIVE:
            # A revoked device is nobody to write to; peers need not tell it from no device.
            raise ProblemError(404, "device not found")
        certificate = await context.issuer.current(device)
        return _json({"certificate": certificate.to_wire()})

    application = Litestar(
        route_handlers=[healthz, readyz, server_info, device_certificate],
        exception_handlers={
            ProblemError: on_problem,
            HTTPException: on_http_exception,
            StorageError: on_storage_error,
            Exception: on_unexpected,
        },
        openapi_config=None,
        logging_config=None,
    )

    async def answering_head(scope: Any, receive: Any, send: Any) -> None:
        """HEAD is GET without a body (RFC 9110, section 9.3.2), and the listener sends none."""
        await application(
            scope | {"method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send
        )

    return answering_head


def _json(document: dict[str, Any]) -> Response[dict[str, Any]]:
    return Response(document, media_type="application/json", headers=_NO_STORE)
