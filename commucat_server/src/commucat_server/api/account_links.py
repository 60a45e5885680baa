"""Accounts on other servers that are the caller's, too, and how far the devices of both have read."""

from typing import Any

from litestar import Response, delete, get, post
from litestar.params import FromPath

from commucat_server.api import account_link_schemas as schemas
from commucat_server.api.answers import NO_STORE, ApiRequest, Handlers, json_answer
from commucat_server.api.authentication import Caller, authenticate
from commucat_server.api.bodies import INVALID, read_object, text_of
from commucat_server.api.context import ApiContext
from commucat_server.api.paths import segment_of
from commucat_server.api.problems import ProblemError
from commucat_server.federation.account_links import AccountLinks
from commucat_server.federation.addresses import split_address
from commucat_server.federation.queueing import NotQueuedError
from commucat_server.ops.times import rfc3339, rfc3339_micros
from commucat_storage import MAX_LINKS, AccountLink, InboxOffset, LinkedOffsets, LinkRefusedError

_ACCOUNT = 2
"""Where a path below ``/api/account-links/`` names the account, counted in segments."""


def handlers(context: ApiContext) -> Handlers:
    """``/api/account-links`` and ``/api/inbox-offsets``."""
    storage = context.storage

    @get("/api/account-links", opt=schemas.LIST)
    async def list_links(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        links = await storage.account_links(caller.user.user_id, int(context.clock() * 1_000_000))
        return json_answer({"links": [_link_document(each) for each in links]})

    @post("/api/account-links", opt=schemas.DECLARE)
    async def declare_link(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        named = text_of(await caller.gave(read_object(request, empty=INVALID)), "account")
        if named is None:
            raise ProblemError(400, "missing account")
        account, domain = _account(context, caller, named.strip())
        try:
            link = await _links(context, domain).declare(caller.user, account)
        except LinkRefusedError as exc:
            raise ProblemError(409, f"an account has at most {MAX_LINKS} links: end one of them") from exc
        except NotQueuedError as exc:
            raise ProblemError(503, str(exc)) from exc
        queued = {"domain": domain, "status": "queued"}
        answer = json_answer({"link": _link_document(link), "federation": queued})
        answer.status_code = 202
        return answer

    @delete("/api/account-links/{account:str}", status_code=204, opt=schemas.END)
    async def end_link(request: ApiRequest, account: FromPath[str]) -> Response[None]:
        caller = await authenticate(request, context)
        address = split_address(segment_of(request, _ACCOUNT, "account").strip())
        if (
            address is None
            or context.federation is None
            or not await context.federation.links.end(caller.user, "@".join(address))
        ):
            raise ProblemError(404, "there is no link to this account")
        return Response(None, status_code=204, headers=NO_STORE)

    @get("/api/inbox-offsets", opt=schemas.OFFSETS)
    async def inbox_offsets(request: ApiRequest) -> Response[dict[str, Any]]:
        user_id = (await authenticate(request, context)).user.user_id
        return json_answer(
            {
                "devices": [_offset_document(each) for each in await storage.inbox_offsets(user_id)],
                "linked": [_linked_document(each) for each in await storage.linked_offsets(user_id)],
            }
        )

    return [list_links, declare_link, end_link, inbox_offsets]


def _account(context: ApiContext, caller: Caller, named: str) -> tuple[str, str]:
    """The account as it is stored, and its domain.

    Raises:
        ProblemError: it is none that the caller can link.
    """
    address = split_address(named)
    if address is None:
        raise ProblemError(400, "an account on another server is named handle@domain")
    ours = context.policy.domain.lower()
    if address[1] == ours:
        raise ProblemError(400, "the account is on this server: link one of another server")
    if split_address(f"{caller.user.handle}@{ours}") is None:
        raise ProblemError(400, "other servers cannot name this account: its handle has an @, or is too long")
    return "@".join(address), address[1]


def _links(context: ApiContext, domain: str) -> AccountLinks:
    """Raises :class:`ProblemError` if accounts of the domain cannot be linked."""
    federation = context.federation
    if federation is None or federation.directory.get(domain) is None:
        raise ProblemError(400, f"unknown domain: {domain}")
    if not federation.links.takes(domain):
        raise ProblemError(400, f"the server of {domain} is not active yet: nothing has gone there")
    return federation.links


def _link_document(link: AccountLink) -> dict[str, Any]:
    return {
        "account": link.account,
        "status": link.status.value,
        "created_at": rfc3339(link.created_at),
        "expires_at": None if link.expires_at is None else rfc3339(link.expires_at),
    }


def _offset_document(offset: InboxOffset, domain: str | None = None) -> dict[str, Any]:
    return {
        "device": offset.device_id if domain is None else f"{offset.device_id}@{domain}",
        "epoch": offset.epoch,
        "next": offset.next_number,
        "confirmed": offset.confirmed,
        "waiting": offset.waiting,
    }


def _linked_document(linked: LinkedOffsets) -> dict[str, Any]:
    domain = linked.account.partition("@")[2]
    return {
        "account": linked.account,
        "told_at": rfc3339_micros(linked.version),
        "devices": [_offset_document(each, domain) for each in linked.offsets],
    }
