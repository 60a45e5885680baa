"""The routes of the REST interface, one module for each resource."""

from collections.abc import Callable
from typing import Any

from litestar import Litestar
from litestar.exceptions import HTTPException

from commucat_server.api import attachments, devices, friends, health, info, uploads
from commucat_server.api.answers import Handlers
from commucat_server.api.context import ApiContext
from commucat_server.api.problems import (
    ProblemError,
    on_http_exception,
    on_problem,
    on_storage_error,
    on_unexpected,
)
from commucat_server.listener import AsgiApp
from commucat_storage import StorageError

RESOURCES: tuple[Callable[[ApiContext], Handlers], ...] = (
    health.handlers,
    info.handlers,
    devices.handlers,
    friends.handlers,
    uploads.handlers,
    attachments.handlers,
)
"""Each gives the handlers of its resource over the given services."""


def build_application(context: ApiContext) -> AsgiApp:
    """An ASGI application over the given services."""
    application = Litestar(
        route_handlers=[handler for handlers in RESOURCES for handler in handlers(context)],
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
