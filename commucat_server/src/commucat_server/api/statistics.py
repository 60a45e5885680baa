"""What is for the administrator only: metrics and security statistics."""

from typing import Any

from litestar import Response, get

from commucat_server.api.answers import NO_STORE, ApiRequest, Handlers, json_answer
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import Answer, documented
from commucat_server.api.problems import problem
from commucat_server.api.schemas import integer, number, record
from commucat_server.ops.exposition import CONTENT_TYPE
from commucat_server.ops.statistics import security_statistics

SECURITY = record(
    {
        "noise_handshakes": integer(),
        "pq_handshakes": integer("Of these, with a post-quantum key agreement beside."),
        "fec_packets": integer(),
        "multipath_sessions": integer(),
        "average_paths": number(),
        "censorship_deflections": integer(),
        "clear_sessions": integer("Sessions without encryption of their own."),
    }
)
_LOCAL_ONLY = "No token is configured, and the request is not of this machine."
_NO_TOKEN = "no admin.token is configured: metrics are for this machine only"  # noqa: S105 - no secret


def is_administrator(request: ApiRequest, context: ApiContext) -> bool:
    """Whether the request may see what is for the administrator."""
    return context.admin.allows(
        request.headers.get("authorization"),
        context.clock(),
        client=request.client.host if request.client else "",
        headers=request.scope["headers"],
    )


def refused_administrator(context: ApiContext) -> Response[bytes]:
    """How somebody else is refused."""
    if context.admin.authority.configured:
        return problem(401)
    return problem(403, detail=_NO_TOKEN)


def handlers(context: ApiContext) -> Handlers:
    """``/metrics`` and ``/api/security-stats``."""

    @get(
        "/metrics",
        opt=documented(
            "Metrics of this process",
            tag="operation",
            admin=True,
            ok={200: Answer(media_type="text/plain", description="Prometheus text, version 0.0.4.")},
            problems={403: _LOCAL_ONLY},
        ),
    )
    async def metrics(request: ApiRequest) -> Response[bytes]:
        """Prometheus text of this process."""
        if not is_administrator(request, context):
            return refused_administrator(context)
        if context.exposition is None:
            return problem(404, title="Not Found")
        text = await context.exposition()
        return Response(text, media_type=CONTENT_TYPE, headers=NO_STORE)

    @get(
        "/api/security-stats",
        sync_to_thread=False,
        opt=documented(
            "Handshakes and means against censorship",
            tag="operation",
            admin=True,
            ok={200: SECURITY},
            problems={403: _LOCAL_ONLY},
        ),
    )
    def security_stats(request: ApiRequest) -> Response[dict[str, Any]] | Response[bytes]:
        if not is_administrator(request, context):
            return refused_administrator(context)
        return json_answer(security_statistics(context.counters))

    return [metrics, security_stats]
