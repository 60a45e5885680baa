"""Friends and the profile over the REST interface."""

from typing import Any
from urllib.parse import quote

from commucat_cli.client.connection import Connection
from commucat_cli.client.rest import read_json, read_problem
from commucat_cli.errors import RestError
from commucat_proto import json_text

FRIENDS = "/api/friends"
REQUESTS = "/api/friends/requests"
AVATAR = "/api/users/me/avatar"
UPLOAD_PATIENCE = 60.0


def friend_path(user: str) -> str:
    """Of one friend, by user id or handle."""
    return f"{FRIENDS}/{quote(user, safe='')}"


def request_path(user: str, *answer: str) -> str:
    """Of the request to or from a user; ``answer``: accept or reject."""
    return "/".join((REQUESTS, quote(user, safe=""), *answer))


async def call(
    connection: Connection, method: str, path: str, document: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One request; the JSON object that answers it, an empty one for none.

    Raises:
        RestError: the server refuses it.
        CliError: it could not be asked.
    """
    headers = [("accept", "application/json")]
    body = b""
    if document is not None:
        headers.append(("content-type", "application/json"))
        body = json_text.dumps(document)
    response = await connection.exchange(method, path, headers, body)
    if response.status == 204:
        return {}
    if response.status in (201, 202):
        return read_json(type(response)(status=200, headers=response.headers, body=response.body), path)
    return read_json(response, path)


async def set_avatar(connection: Connection, picture: bytes, media_type: str) -> str:
    """Where the picture is shown from now on.

    Raises:
        RestError: the server refuses it.
        CliError: it could not be asked.
    """
    response = await connection.exchange(
        "POST", AVATAR, [("content-type", media_type)], picture, patience=UPLOAD_PATIENCE
    )
    if response.status != 200:
        raise read_problem(response.status, response.headers, response.body, AVATAR)
    address = read_json(response, AVATAR).get("avatar_url")
    if not isinstance(address, str):
        raise RestError("the server does not tell where the picture is", status=response.status)
    return address
