"""Friends: lists, devices of friends, and requests to become one."""

import secrets
from typing import Any

from litestar import Response, delete, get, post, put
from litestar.params import FromPath

from commucat_server.api import friend_schemas as schemas
from commucat_server.api import friends_afar as afar
from commucat_server.api.answers import NO_STORE, ApiRequest, Handlers, json_answer
from commucat_server.api.authentication import Caller, authenticate
from commucat_server.api.bodies import INVALID, read_object
from commucat_server.api.context import ApiContext
from commucat_server.api.friend_documents import (
    FRIENDS_BODY,
    NO_OBJECT,
    REFUSALS,
    friends_document,
    friends_of_document,
    message_of_document,
    request_document,
    snapshots,
)
from commucat_server.api.problems import ProblemError
from commucat_server.api.users import find_user, path_segment, split_domain, user_document
from commucat_server.federation.friends import remote_request_document
from commucat_storage import (
    FriendRefusedError,
    FriendRequest,
    User,
)

_FRIEND = 2
"""Where a path below ``/api/friends/`` names the user, counted in segments."""
_ASKED = 3
"""The same below ``/api/friends/requests/``."""


def handlers(context: ApiContext) -> Handlers:
    """Below ``/api/friends``."""
    storage = context.storage

    async def listed(caller: Caller) -> Response[dict[str, Any]]:
        user_id = caller.user.user_id
        friends = await storage.friends_of(user_id)
        devices = await storage.devices_of_friends(user_id, [friend.user_id for friend in friends])
        return json_answer(friends_document(friends, devices))

    @get("/api/friends", opt=schemas.LIST)
    async def list_friends(request: ApiRequest) -> Response[dict[str, Any]]:
        return await listed(await authenticate(request, context))

    @put("/api/friends", opt=schemas.REPLACE)
    async def replace_friends(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        reading = read_object(request, limit=FRIENDS_BODY, empty=INVALID, no_object=NO_OBJECT)
        friends = friends_of_document(await caller.gave(reading))
        await storage.replace_friends(caller.user.user_id, friends)
        return await listed(caller)

    @delete("/api/friends/{user_id:str}", status_code=204, opt=schemas.REMOVE)
    async def remove_friend(request: ApiRequest, user_id: FromPath[str]) -> Response[None]:
        caller = await authenticate(request, context)
        friend_id = await _friend_id(context, request)
        if not await storage.remove_friend(caller.user.user_id, friend_id):
            raise ProblemError(404, "friend not found")
        return Response(None, status_code=204, headers=NO_STORE)

    @delete("/api/friends", status_code=204, opt=schemas.REMOVE_NOBODY)
    async def remove_nobody(request: ApiRequest) -> Response[None]:
        """``/api/friends/`` names nobody."""
        await authenticate(request, context)
        path_segment(request, _FRIEND, missing="missing friend user id")
        raise ProblemError(404)

    @get("/api/friends/{user_id:str}/devices", opt=schemas.DEVICES)
    async def friend_devices(request: ApiRequest, user_id: FromPath[str]) -> Response[dict[str, Any]]:
        """Empty unless the friend lists the caller, too: without that it has agreed to nothing."""
        caller = await authenticate(request, context)
        friend_id = await _friend_id(context, request)
        own_id = caller.user.user_id
        if all(friend.user_id != friend_id for friend in await storage.friends_of(own_id)):
            raise ProblemError(404, "friend not found")
        if split_domain(context, friend_id)[1] is not None:
            return json_answer(
                {"friend": friend_id, "devices": await afar.devices(context, caller, friend_id)}
            )
        devices = await storage.devices_of_friends(own_id, [friend_id])
        return json_answer({"friend": friend_id, "devices": snapshots(devices.get(friend_id, ()))})

    @get("/api/friends/requests", opt=schemas.REQUESTS)
    async def list_requests(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        incoming, outgoing = await storage.friend_requests(caller.user.user_id)
        return json_answer(
            {
                "incoming": [request_document(each) for each in incoming],
                "outgoing": [request_document(each) for each in outgoing],
                "federated": [
                    remote_request_document(each)
                    for each in await storage.remote_requests(caller.user.user_id)
                ],
            }
        )

    @post("/api/friends/requests/{user_id:str}", opt=schemas.ASK)
    async def create_request(request: ApiRequest, user_id: FromPath[str]) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        name, domain = split_domain(context, path_segment(request, _ASKED, missing="missing user id"))
        message = message_of_document(await caller.gave(read_object(request, no_object=NO_OBJECT)))
        if domain is not None:
            return await afar.ask(context, caller, name, domain, message)
        asked = await find_user(context, name)
        if asked is None:
            raise ProblemError(404, "user not found")
        if asked.user_id == caller.user.user_id:
            raise ProblemError(400, "cannot send friend request to yourself")
        now = int(context.clock() * 1_000_000)
        wanted = FriendRequest(
            request_id=secrets.token_hex(32),
            from_user_id=caller.user.user_id,
            to_user_id=asked.user_id,
            message=message,
            created_at=now,
            updated_at=now,
        )
        try:
            stored = await storage.request_friend(wanted)
        except FriendRefusedError as exc:
            raise ProblemError(*REFUSALS[exc.refusal]) from exc
        if context.friend_notices is not None:
            await context.friend_notices.requested(stored, caller.user, asked)
        answer = json_answer({"request": request_document(stored), "to_user": user_document(asked)})
        answer.status_code = 201
        return answer

    @post(
        "/api/friends/requests/{user_id:str}/accept",
        status_code=200,
        opt=schemas.ACCEPT,
    )
    async def accept_request(request: ApiRequest, user_id: FromPath[str]) -> Response[dict[str, Any]]:
        return await answered(request, accept=True)

    @post(
        "/api/friends/requests/{user_id:str}/reject",
        status_code=200,
        opt=schemas.REJECT,
    )
    async def reject_request(request: ApiRequest, user_id: FromPath[str]) -> Response[dict[str, Any]]:
        return await answered(request, accept=False)

    async def answered(request: ApiRequest, *, accept: bool) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        named = path_segment(request, _ASKED, missing="missing user id")
        answered_afar = await afar.answer(context, caller, named, accept=accept)
        if answered_afar is not None:
            return answered_afar
        asker = await _asker(context, named)
        now = int(context.clock() * 1_000_000)
        try:
            stored = await storage.answer_friend_request(
                asker.user_id, caller.user.user_id, accept=accept, now=now
            )
        except FriendRefusedError as exc:
            raise ProblemError(*REFUSALS[exc.refusal]) from exc
        if context.friend_notices is not None:
            await context.friend_notices.answered(stored, asker, caller.user)
        if accept and context.introduce is not None:
            context.introduce(await storage.active_devices(asker.user_id))
            context.introduce(await storage.active_devices(caller.user.user_id))
        return json_answer({"request": request_document(stored), "from_user": user_document(asker)})

    return [
        list_friends,
        replace_friends,
        remove_friend,
        remove_nobody,
        friend_devices,
        list_requests,
        create_request,
        accept_request,
        reject_request,
    ]


async def _friend_id(context: ApiContext, request: ApiRequest) -> str:
    """The user id that the path means: a list may name users that do not exist."""
    name = path_segment(request, _FRIEND, missing="missing friend user id")
    user = await find_user(context, name)
    if user is None:
        local, foreign = split_domain(context, name)
        user = await find_user(context, local) if foreign is None else None
    if user is None and "\0" in name:
        raise ProblemError(404, "friend not found")
    return name if user is None else user.user_id


async def _asker(context: ApiContext, named: str) -> User:
    name, domain = split_domain(context, named)
    if domain is not None:
        raise ProblemError(400, f"unknown domain: {domain[:255]}")
    asker = await find_user(context, name)
    if asker is None:
        raise ProblemError(404, "user not found")
    return asker
