"""Reading the answers of the REST interface."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from commucat_cli.errors import CliError, NotCommuCatError, RestError, ServerBusyError, UnreachableError
from commucat_cli.transport import Response
from commucat_proto import json_text

# 401: the session behind the token has run out; a new connection brings a new one.
_RETRYABLE = frozenset({401, 429, 500, 502, 503, 504})


@contextmanager
def answer_within(seconds: float, failure: str) -> Iterator[None]:
    """Give the block a deadline; missing it is an :class:`UnreachableError` with the text ``failure``."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise UnreachableError(f"{failure} within {seconds:g} s")


def read_json(response: Response, path: str) -> dict[str, Any]:
    """The JSON object of a successful answer.

    Raises:
        CliError: another status than 200, or no JSON object.
    """
    if response.status != 200:
        raise read_problem(response.status, response.headers, response.body, path)
    try:
        value = json_text.loads(response.body)
    except json_text.JsonTextError:
        value = None
    if not isinstance(value, dict):
        raise NotCommuCatError(f"the answer to {path} is no JSON object; is this a CommuCat server?")
    return value


def read_problem(status: int, headers: Mapping[str, str], body: bytes, path: str) -> CliError:
    """A problem document (RFC 9457), or whatever came with an error status, as an exception."""
    told = ""
    if headers.get("content-type", "").startswith("application/problem+json"):
        try:
            value = json_text.loads(body)
        except json_text.JsonTextError:
            value = None
        if isinstance(value, dict):
            parts = [value.get("title"), value.get("detail")]
            told = ": ".join(part for part in parts if isinstance(part, str))
    text = f"the server answers {path} with {status}" + (f" ({told})" if told else "")
    if status in _RETRYABLE:
        return ServerBusyError(text)
    if not told and status in (404, 405):
        return NotCommuCatError(f"{text}; is this a CommuCat server?")
    return RestError(text, status=status)
