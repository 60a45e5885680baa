"""Reading bodies: bounded, and JSON with each member of the type that it must have.

Members that a handler does not know are ignored, and null counts as absent: the terminal client of 2025
sends both.
"""

import re
from typing import Any

from litestar.exceptions import ClientException

from commucat_proto import json_text
from commucat_server.api.answers import ApiRequest
from commucat_server.api.problems import ProblemError

MAX_JSON_BODY = 64 * 1024
"""Bytes, where a resource does not say otherwise. The largest honest body is a small part of that."""
INVALID = "invalid JSON payload"
_HEX = re.compile(r"([0-9a-fA-F]{2})*")


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


async def read_body(request: ApiRequest, limit: int, refusal: str) -> bytes:
    """The whole body.

    Raises:
        ProblemError: 400 with ``refusal``: it is longer than ``limit`` bytes.
        ClientException: see :meth:`RequestBody.take`.
    """
    incoming, body = RequestBody(request), bytearray()
    while piece := await incoming.take():
        body += piece
        if len(body) > limit:
            raise ProblemError(400, refusal)
    return bytes(body)


async def read_object(
    request: ApiRequest, *, limit: int = MAX_JSON_BODY, empty: str | None = None, no_object: str = INVALID
) -> dict[str, Any]:
    """The JSON object of a body; an empty body is an empty object unless ``empty`` says how to refuse it.

    ``no_object`` is the refusal of JSON that is something else.

    Raises:
        ProblemError: 400.
        ClientException: see :meth:`RequestBody.take`.
    """
    body = await read_body(request, limit, f"request body too large (max {limit // 1024} KB)")
    if not body:
        if empty is not None:
            raise ProblemError(400, empty)
        return {}
    try:
        value = json_text.loads(body)
    except json_text.JsonTextError as exc:
        raise ProblemError(400, INVALID) from exc
    if not isinstance(value, dict):
        raise ProblemError(400, no_object)
    return value


def text_of(value: dict[str, Any], name: str) -> str | None:
    """A text, None if it is null or absent.

    Raises:
        ProblemError: 400, it is something else.
    """
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise ProblemError(400, INVALID)
    return found


def integer_of(value: dict[str, Any], name: str) -> int | None:
    """A whole number of at most 64 bits, likewise."""
    found = value.get(name)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not -(2**63) <= found < 2**63:
        raise ProblemError(400, INVALID)
    return found


def hex_of(value: dict[str, Any], name: str, length: int | None, refusal: str) -> bytes | None:
    """Bytes in hexadecimal digits of either case, exactly ``length`` of them if it is given; likewise.

    Raises:
        ProblemError: 400 with ``refusal``: it is text, and not that.
    """
    text = text_of(value, name)
    if text is None:
        return None
    if not _HEX.fullmatch(text) or (length is not None and len(text) != 2 * length):
        raise ProblemError(400, refusal)
    return bytes.fromhex(text)
