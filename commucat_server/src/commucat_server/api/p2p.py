"""Advice on paths between two devices."""

from typing import Any

import trio
from litestar import Response, get, post

from commucat_server.api.answers import ApiRequest, Handlers, json_answer
from commucat_server.api.assistance import Assistance
from commucat_server.api.authentication import authenticate
from commucat_server.api.bodies import read_object
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import Body, documented
from commucat_server.api.p2p_schemas import ADVICE, HINTS
from commucat_server.api.problems import ProblemError, too_many_requests
from commucat_server.nat.assist import (
    KEEPALIVE,
    RECONNECT,
    UNMEASURED,
    HintError,
    Hints,
    hints_of,
    trial,
)
from commucat_server.ops.statistics import security_statistics
from commucat_server.ops.times import rfc3339

PATH = "/api/p2p/assist"
RELAY_PATH = "/p2p"
_PROBLEMS = {
    400: "The body is not what is described.",
    404: "The server gives no advice.",
    429: "Too many requests of this address, device or user, or too many for advice.",
}
_DESCRIPTION = (
    "Nothing that the request names is contacted. Only the transport that exists, WebSocket, is offered; its "
    "`network_quality` is a fixed assumption (`probe_method` is `fallback`), as nobody has measured the path."
)


def handlers(context: ApiContext) -> Handlers:
    """``/api/p2p/assist``."""

    @get(
        PATH,
        opt=documented(
            "Advice on paths to another device, without hints",
            tag="calls",
            session=True,
            description=_DESCRIPTION,
            ok={200: ADVICE},
            problems=_PROBLEMS,
        ),
    )
    async def assist(request: ApiRequest) -> Response[dict[str, Any]]:
        return await answer(request, with_body=False)

    @post(
        PATH,
        status_code=200,
        opt=documented(
            "Advice on paths to another device",
            tag="calls",
            session=True,
            description=_DESCRIPTION,
            body=Body(schema=HINTS, required=False),
            ok={200: ADVICE},
            problems=_PROBLEMS,
        ),
    )
    async def assist_with_hints(request: ApiRequest) -> Response[dict[str, Any]]:
        return await answer(request, with_body=True)

    async def answer(request: ApiRequest, *, with_body: bool) -> Response[dict[str, Any]]:
        assistance = context.assistance
        if assistance is None:
            raise ProblemError(404)
        caller = await authenticate(request, context)
        wait = assistance.rate.take(caller.device.device_id)
        if wait > 0.0:
            context.counters.rate_limited_http += 1
            raise too_many_requests(wait)
        body = await caller.gave(read_object(request)) if with_body else {}
        try:
            hints = hints_of(body)
        except HintError as exc:
            raise ProblemError(400, str(exc)) from exc
        segments = await trio.to_thread.run_sync(trial, hints.fec, hints.paths, limiter=assistance.trials)
        context.counters.p2p_assists += 1
        document = _advice(context, assistance, hints) | {"ice": assistance.ice.document()}
        document["multipath"]["sample_segments"] = segments
        if assistance.tickets is not None:
            ticket, expires_at = assistance.tickets.issue(caller.user.user_id, assistance.ice.ttl)
            document["relay"] = {"path": RELAY_PATH, "ticket": ticket, "expires_at": rfc3339(expires_at)}
        return json_answer(document)

    return [assist, assist_with_hints]


def _advice(context: ApiContext, assistance: Assistance, hints: Hints) -> dict[str, Any]:
    offered = hints.paths if assistance.tickets is not None else ()
    return {
        "noise": {
            "pattern": context.patterns[0].capitalize(),
            "prologue_hex": assistance.prologue.hex(),
            # The reference server makes up a device and sends its seed. A device has keys of its own.
            "device_seed_hex": "",
            "static_public_hex": context.noise_keys.entries()[0]["public"],
        },
        "pq": {
            "identity_public_hex": "",
            "signed_prekey_public_hex": "",
            "kem_public_hex": "",
            "signature_public_hex": "",
        },
        "transports": [
            {
                "path_id": path.id,
                "transport": "WebSocket",
                "resistance": "Basic",
                "latency": "Medium",
                "throughput": "Medium",
                "network_quality": UNMEASURED,
            }
            for path in offered
        ],
        "multipath": {
            "fec_mtu": hints.fec.mtu,
            "fec_overhead": hints.fec.repair_overhead,
            "primary_path": offered[0].id if offered else None,
        },
        "obfuscation": {
            "reality_fingerprint_hex": None,
            "domain_fronting": bool(offered),
            "protocol_mimicry": False,
            "tor_bridge": False,
        },
        "security": security_statistics(context.counters),
        "keepalive": KEEPALIVE,
        "reconnect": RECONNECT,
    }
