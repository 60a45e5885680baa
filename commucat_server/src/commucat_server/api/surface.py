"""What every answer of the REST interface has in common, around the application: headers and methods."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from commucat_server.listener import AsgiApp
from commucat_server.listener.problem import SECURITY_HEADERS

METHOD_BLIND: Final = frozenset({"/", "/index.html", "/healthz", "/readyz", "/metrics"})
"""Paths that answer any method as they answer GET."""
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_NO_METHOD: Final = "NONE"

Send = Callable[[Any], Awaitable[None]]


def surfaced(application: AsgiApp) -> AsgiApp:
    """The application with security headers on every answer, and methods as the protocol has them."""

    async def around(scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                named = {bytes(name).lower() for name, _ in headers}
                headers += [each for each in SECURITY_HEADERS if each[0] not in named]
                message = {**message, "headers": headers}
            await send(message)

        await application(scope | {"method": _method(scope)}, receive, send_with_headers)

    return around


def _method(scope: Any) -> str:
    method: str = scope["method"]
    if method == "HEAD" or scope["path"] in METHOD_BLIND:
        # HEAD is GET without a body (RFC 9110, section 9.3.2), and the listener sends none.
        return "GET"
    # The framework would answer OPTIONS by itself, and take two slashes for one.
    return method if method in _METHODS and "//" not in scope["path"] else _NO_METHOD
