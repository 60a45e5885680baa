"""Reading the bodies of requests: in bounded size, and with one way to say no."""

from typing import Any

from litestar.exceptions import ClientException

from commucat_proto import json_text
from commucat_server.api.answers import ApiRequest
from commucat_server.api.problems import ProblemError

JSON_BODY = 64 * 1024
"""Bytes of a JSON body, where a resource does not say otherwise."""


class RequestBody:
    """A body as it comes; whoever does not take the next piece holds the sender up."""

    def __init__(self, request: ApiRequest) -> None:
        self._request = request
        self._ended = False

    async def take(self) -> bytes:
        """The next piece; ``b""`` behind the last.

        Raises:
            ClientException: the client has left before its end. Nobody will read an answer.
        """
        while not self._ended:
            message = await self._request.receive()
            if message["type"] != "http.request":
                raise ClientException("the client left before the end of its request")
            self._ended = not message.get("more_body", False)
            if message["body"]:
                return message["body"]
        return b""


async def read_body(request: ApiRequest, limit: int, too_large: str) -> bytes:
    """A whole body of at most ``limit`` bytes.

    Raises:
        ProblemError: 400, ``too_large``.
    """
    incoming, body = RequestBody(request), bytearray()
    while piece := await incoming.take():
        body += piece
        if len(body) > limit:
            raise ProblemError(400, too_large)
    return bytes(body)


async def read_object(
    request: ApiRequest, *, limit: int = JSON_BODY, optional: bool = False
) -> dict[str, Any]:
    """A JSON object; an empty one for no body at all where that is ``optional``.

    Raises:
        ProblemError: 400, saying why.
    """
    body = await read_body(request, limit, f"request body too large (max {limit // 1024} KiB)")
    if not body and optional:
        return {}
    try:
        value = json_text.loads(body)
    except json_text.JsonTextError as exc:
        raise ProblemError(400, "invalid JSON payload") from exc
    if not isinstance(value, dict):
        raise ProblemError(400, "payload must be a JSON object")
    return value
