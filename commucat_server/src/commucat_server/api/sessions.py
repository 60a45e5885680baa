"""The caller's own session."""

from litestar import Response, delete

from commucat_server.api.answers import NO_STORE, ApiRequest, Handlers
from commucat_server.api.authentication import authenticate
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import documented


def handlers(context: ApiContext) -> Handlers:
    """``/api/session``."""

    @delete(
        "/api/session",
        opt=documented(
            "Log out",
            tag="session",
            description="Deletes the token; the session that it came with ends within a second.",
            session=True,
            ok={204: None},
        ),
    )
    async def log_out(request: ApiRequest) -> Response[None]:
        caller = await authenticate(request, context)
        await context.storage.delete_session(caller.token_hash)
        return Response(None, status_code=204, headers=NO_STORE)

    return [log_out]
