"""Friends that are users of other servers, named ``handle@domain``."""

from typing import Any

from litestar import Response

from commucat_server.api.answers import json_answer
from commucat_server.api.authentication import Caller
from commucat_server.api.context import ApiContext
from commucat_server.api.friend_documents import REFUSALS, snapshots
from commucat_server.api.problems import ProblemError
from commucat_server.api.questions import question_problem
from commucat_server.federation.addresses import split_address
from commucat_server.federation.friends import remote_request_document
from commucat_server.federation.queries import PeerQuestionError
from commucat_server.federation.queueing import NotQueuedError
from commucat_storage import FriendRefusedError


async def ask(
    context: ApiContext, caller: Caller, handle: str, domain: str, message: str | None
) -> Response[dict[str, Any]]:
    """Ask a user of another server to become a friend.

    Raises:
        ProblemError: that was not done.
    """
    federation = context.federation
    if federation is None or not federation.friends.knows(domain):
        raise ProblemError(400, f"unknown domain: {domain[:255]}")
    address = split_address(f"{handle}@{domain}")
    if address is None:
        raise ProblemError(400, "a user of another server is named handle@domain")
    try:
        stored = await federation.friends.ask(caller.user, "@".join(address), message)
    except FriendRefusedError as exc:
        raise ProblemError(*REFUSALS[exc.refusal]) from exc
    except NotQueuedError as exc:
        raise ProblemError(503, str(exc)) from exc
    queued = {"domain": address[1], "status": "queued"}
    answered = json_answer({"request": remote_request_document(stored), "federation": queued})
    answered.status_code = 202
    return answered


async def answer(
    context: ApiContext, caller: Caller, named: str, *, accept: bool
) -> Response[dict[str, Any]] | None:
    """Answer a request of a user of another server, named by its id or by who asks; None if there is none.

    Raises:
        ProblemError: that was not done.
    """
    federation = context.federation
    request_id = None if federation is None else await _request_id(context, caller, named)
    if federation is None or request_id is None:
        return None
    try:
        stored = await federation.friends.answer(caller.user, request_id, accept=accept)
    except FriendRefusedError as exc:
        raise ProblemError(*REFUSALS[exc.refusal]) from exc
    except NotQueuedError as exc:
        raise ProblemError(503, str(exc)) from exc
    return json_answer({"request": remote_request_document(stored), "federation": {"status": "queued"}})


async def devices(context: ApiContext, caller: Caller, friend: str) -> list[dict[str, Any]]:
    """The devices of a friend on another server, which is asked.

    Raises:
        ProblemError: it does not answer.
    """
    if context.federation is None:
        return []
    own = f"{caller.user.handle}@{context.policy.domain}"
    try:
        return snapshots(await context.federation.questions.friend_devices(friend, own))
    except PeerQuestionError as exc:
        raise question_problem(exc) from exc


async def _request_id(context: ApiContext, caller: Caller, named: str) -> str | None:
    if "\0" in named:
        return None
    user_id = caller.user.user_id
    found = await context.storage.load_remote_request(named)
    if found is not None and found.incoming and found.user_id == user_id:
        return named
    for request in await context.storage.remote_requests(user_id):
        if request.incoming and request.from_address == named:
            return request.request_id
    return None
