"""What other servers ask of this one: to take their events, to answer their questions, and what it is."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
from litestar import Response, get, post

from commucat_server.api.answers import ApiRequest, Handlers, json_answer
from commucat_server.api.bodies import read_body
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import documented
from commucat_server.api.problems import problem, too_many_requests
from commucat_server.api.schemas import (
    KEY,
    Schema,
    array,
    boolean,
    constant,
    hexadecimal,
    integer,
    nullable,
    record,
    ref,
    text,
    time,
)
from commucat_server.api.statistics import is_administrator, refused_administrator
from commucat_server.federation.addresses import EVENTS_PATH, FRIENDS_PATH, QUERY_PATH, WELL_KNOWN
from commucat_server.federation.figures import PeerFigures
from commucat_server.federation.inbound import RateLimitedError
from commucat_server.federation.problems import RefusedEventError
from commucat_server.ops.times import rfc3339

_TAG: Final = "federation"
MAX_BATCH_BODY: Final = 4 * 1024 * 1024
"""Bytes of a body; more where a single frame may be so long, see :func:`body_limit`."""
MAX_FRIEND_BODY: Final = 64 * 1024

_BYTES: Final = array(integer(minimum=0, maximum=255))
_EVENT: Final = record(
    {
        "event": record(
            {
                "event_id": text(),
                "origin": text("The domain of the peer."),
                "created_at": time("Up to nanoseconds."),
                "payload": {"description": "See docs/federation.md."},
                "scope": text("This server's domain."),
            }
        ),
        "signature": {**_BYTES, "description": "Ed25519 over digest; 64 numbers."},
        "digest": {**_BYTES, "description": "BLAKE3; 32 numbers."},
    },
    description="A signed event, docs/federation.md.",
)
_RESULT: Final = record(
    {
        "status": constant("accepted", "duplicate", "refused", "later"),
        "code": integer(),
        "title": text(),
        "detail": text(),
    },
    optional=["code", "title", "detail"],
)
_TAKEN: Final[Schema] = record(
    {
        "status": constant("accepted", "duplicate", "processed"),
        "results": array(_RESULT, "Of a batch: one for each message."),
    },
    optional=["results"],
)
_FRIEND_EVENT: Final = record(
    {
        "type": constant("friend_request", "friend_response"),
        "request_id": text(),
        "from": text("handle@domain"),
        "to": text("handle@domain"),
        "message": nullable(text()),
        "accept": boolean(),
        "timestamp": time(),
        "signature": hexadecimal(64),
    },
    optional=["message", "accept"],
)
_PEER: Final = record(
    {
        "domain": text(),
        "status": constant("active", "pending", "blocked"),
        "source": constant("configuration", "store"),
        "state": constant("unknown", "online", "offline", "unreachable"),
        "waiting": integer("Messages in its outbox."),
        "waiting_bytes": integer(),
        "oldest_seconds": nullable(integer("Age of the message that expires first.")),
        "dead_letters": integer("Messages that it has refused for good."),
        "failures": integer("Attempts in a row that failed."),
        "last_seen_at": nullable(time()),
        "last_error": nullable(text()),
        "endpoint": text(),
        "public_key": KEY,
        "next_key": nullable(KEY),
    }
)
_REFUSALS: Final = {
    400: "The event is not what is described.",
    403: "No known peer, not signed by it, not for this server, or not of this time. It may try again.",
    404: "There is no such device or user.",
    409: "The receiver refuses it.",
    429: "The peer sends too much.",
    500: "It was not stored; the peer tries again.",
}


def body_limit(max_frame: int) -> int:
    """Bytes of the largest event that is taken: a frame of the largest size in hexadecimal digits."""
    return max(MAX_BATCH_BODY, 2 * max_frame + 1024 * 1024)


def handlers(context: ApiContext) -> Handlers:
    """``/federation`` and what describes it; nothing where federation is switched off."""
    federation = context.federation
    if federation is None:
        return []

    @post(
        EVENTS_PATH,
        status_code=202,
        opt=documented(
            "Take an event of another server",
            tag=_TAG,
            description="The message in it is stored before the answer. An event that was taken before is "
            "answered with `duplicate`.",
            store=True,
            body=_EVENT,
            ok={200: _TAKEN, 202: _TAKEN},
            problems=_REFUSALS,
        ),
    )
    async def take_event(request: ApiRequest) -> Response[Any]:
        async def take() -> Response[Any]:
            taken = await federation.inbound.take(body)
            answer: Response[Any] = json_answer(taken.document)
            answer.status_code = taken.status
            return answer

        body = await read_body(request, body_limit(context.max_frame), "request body too large")
        return await _told_why_not(take)

    @post(
        FRIENDS_PATH,
        status_code=200,
        opt=documented(
            "Take a friend request of a user of another server, or the answer to one",
            tag=_TAG,
            store=True,
            body=_FRIEND_EVENT,
            ok={200: record({"status": constant("accepted"), "request_id": text()})},
            problems=_REFUSALS,
        ),
    )
    async def take_friend_event(request: ApiRequest) -> Response[Any]:
        async def take() -> Response[Any]:
            return json_answer(await federation.friends.take(body))

        body = await read_body(request, MAX_FRIEND_BODY, "request body too large")
        return await _told_why_not(take)

    @post(
        QUERY_PATH,
        status_code=200,
        opt=documented(
            "Answer a question of another server",
            tag=_TAG,
            description="A signed event whose payload asks for the certificate of a device, or for the "
            "devices of a user who lists the asking user as a friend.",
            store=True,
            body=_EVENT,
            ok={
                200: record(
                    {"certificate": ref("Certificate"), "devices": array({"type": "object"})},
                    optional=["certificate", "devices"],
                )
            },
            problems=_REFUSALS,
        ),
    )
    async def answer_question(request: ApiRequest) -> Response[Any]:
        async def answer() -> Response[Any]:
            peer, event = federation.inbound.believed(body)
            federation.inbound.count(peer.domain)
            return json_answer(await federation.answers.answer(peer, event.payload))

        body = await read_body(request, MAX_FRIEND_BODY, "request body too large")
        return await _told_why_not(answer)

    @get(
        WELL_KNOWN,
        opt=documented(
            "What this server is to others",
            tag=_TAG,
            ok={
                200: record(
                    {
                        "domain": text(),
                        "endpoint": text("Where it takes events."),
                        "public_key": KEY,
                        "batches": boolean("Whether it takes many messages in one event."),
                        "version": text(),
                    }
                )
            },
        ),
    )
    async def describe(request: ApiRequest) -> Response[Any]:
        return json_answer(federation.description)

    @get(
        "/api/federation/peers",
        opt=documented(
            "The other servers that are known, and what waits for them",
            tag=_TAG,
            admin=True,
            ok={200: record({"peers": array(_PEER)})},
            problems={403: "No token is configured, and the request is not of this machine."},
        ),
    )
    async def peers(request: ApiRequest) -> Response[Any]:
        if not is_administrator(request, context):
            return refused_administrator(context)
        return json_answer({"peers": [_peer_document(each) for each in await federation.figures()]})

    return [take_event, take_friend_event, answer_question, describe, peers]


def _peer_document(peer: PeerFigures) -> dict[str, Any]:
    return attrs.asdict(peer) | {
        "last_seen_at": None if peer.last_seen_at is None else rfc3339(peer.last_seen_at),
        "public_key": peer.public_key.hex(),
        "next_key": None if peer.next_key is None else peer.next_key.hex(),
    }


async def _told_why_not(take: Callable[[], Awaitable[Response[Any]]]) -> Response[Any]:
    """The answer to a peer, or why there is none."""
    try:
        return await take()
    except RefusedEventError as exc:
        return problem(exc.refusal.status, title=exc.refusal.title, detail=exc.refusal.detail)
    except RateLimitedError as exc:
        raise too_many_requests(exc.wait) from exc
