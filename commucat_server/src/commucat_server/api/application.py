"""The routes of the REST interface, one module for each resource."""

from collections.abc import Callable

from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from commucat_server.api import (
    account_links,
    attachments,
    devices,
    federation,
    friends,
    health,
    info,
    landing,
    openapi,
    p2p,
    pairing,
    rotation,
    sessions,
    statistics,
    uploads,
)
from commucat_server.api.answers import Handlers
from commucat_server.api.context import ApiContext
from commucat_server.api.gate import Gate
from commucat_server.api.problems import (
    ProblemError,
    on_http_exception,
    on_problem,
    on_storage_error,
    on_unexpected,
)
from commucat_server.api.surface import surfaced
from commucat_server.listener import AsgiApp
from commucat_storage import StorageError

RESOURCES: tuple[Callable[[ApiContext], Handlers], ...] = (
    landing.handlers,
    health.handlers,
    info.handlers,
    sessions.handlers,
    pairing.handlers,
    devices.handlers,
    rotation.handlers,
    statistics.handlers,
    friends.handlers,
    account_links.handlers,
    uploads.handlers,
    attachments.handlers,
    p2p.handlers,
    federation.handlers,
)
"""Each gives the handlers of its resource over the given services, and documents them, see ``openapi``."""


def all_handlers(context: ApiContext) -> Handlers:
    """Every handler of the interface."""
    handlers = [handler for handlers in RESOURCES for handler in handlers(context)]
    return [*handlers, *openapi.handlers(handlers, context.version)]


class _Application(Litestar):
    """Without the models of other libraries: bodies are read by hand here.

    Where pydantic is installed, for whatever reason, its import alone would be a fifth of the server's start.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def build_application(context: ApiContext) -> AsgiApp:
    """An ASGI application over the given services."""
    application = _Application(
        route_handlers=all_handlers(context),
        exception_handlers={
            ProblemError: on_problem,
            HTTPException: on_http_exception,
            StorageError: on_storage_error,
            Exception: on_unexpected,
        },
        openapi_config=None,
        logging_config=None,
        # Handlers read their bodies by themselves, each up to its own limit.
        request_max_body_size=None,
    )
    gate = Gate(
        application=application,
        counters=context.counters,
        clients=context.clients,
        limits=context.limits,
        spans=context.spans,
    )
    return surfaced(gate)
