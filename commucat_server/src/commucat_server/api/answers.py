"""What the modules of the REST interface share: the kinds of their handlers, and JSON answers."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from litestar import Request, Response
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

NO_STORE = {"cache-control": "no-store"}

ApiRequest: TypeAlias = Request[Any, Any, State]
Handlers: TypeAlias = Sequence[ControllerRouterHandler]


def json_answer(document: dict[str, Any]) -> Response[dict[str, Any]]:
    """A JSON object that no cache may keep."""
    return Response(document, media_type="application/json", headers=NO_STORE)
