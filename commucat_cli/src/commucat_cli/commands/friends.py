"""``friends``: who may write without being a stranger, and see when one is here."""

import json as json_module
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from commucat_cli.client import Connection
from commucat_cli.client.friends import FRIENDS, REQUESTS, call, friend_path, request_path
from commucat_cli.commands.once import ask_once
from commucat_cli.commands.options import ProfileOption, ViaOption, encodable
from commucat_cli.errors import NotCommuCatError
from commucat_cli.terminal import one_line, printable_json

friends_app = typer.Typer(
    help="Friends of this profile's user, and requests to become one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _user(text: str) -> str:
    encodable(text)
    if not text.strip():
        raise typer.BadParameter("names nobody")
    return text


UserArgument = Annotated[str, typer.Argument(metavar="USER", help="A handle or a user id.", callback=_user)]
JsonOption = Annotated[bool, typer.Option("--json", help="The server's answer as one JSON object.")]


@friends_app.command("list")
def list_friends(profile: ProfileOption, json: JsonOption = False, via: ViaOption = None) -> None:
    """Print the list: user id, number of devices (0 for one who does not list you), alias."""

    async def ask(connection: Connection) -> str:
        answer = await call(connection, "GET", FRIENDS)
        if json:
            return _json(answer)
        devices = _object(answer, "devices")
        return "".join(
            f"{_text(friend, 'user_id')} devices={len(devices.get(_text(friend, 'user_id')) or ())}"
            f"{_alias(friend)}\n"
            for friend in _objects(answer, "friends")
        )

    ask_once(profile, via, ask)


@friends_app.command("request")
def request(
    user: UserArgument,
    profile: ProfileOption,
    message: Annotated[
        str | None, typer.Option("--message", metavar="TEXT", help="Words to go with it.", callback=encodable)
    ] = None,
    json: JsonOption = False,
    via: ViaOption = None,
) -> None:
    """Ask a user to become a friend. Its devices are told."""

    async def ask(connection: Connection) -> str:
        answer = await call(connection, "POST", request_path(user), {"message": message})
        return _json(answer) if json else _request_line(_object(answer, "request"))

    ask_once(profile, via, ask)


@friends_app.command("requests")
def requests(profile: ProfileOption, json: JsonOption = False, via: ViaOption = None) -> None:
    """Print the requests that wait for an answer, and those that were sent."""

    async def ask(connection: Connection) -> str:
        answer = await call(connection, "GET", REQUESTS)
        if json:
            return _json(answer)
        lines = [("in", each) for each in _objects(answer, "incoming")]
        lines += [("out", each) for each in _objects(answer, "outgoing")]
        return "".join(f"{direction} {_request_line(each)}" for direction, each in lines)

    ask_once(profile, via, ask)


@friends_app.command("accept")
def accept(
    user: UserArgument, profile: ProfileOption, json: JsonOption = False, via: ViaOption = None
) -> None:
    """Accept the request of a user: each is the other's friend from now on."""
    _answer(user, profile, "accept", json, via)


@friends_app.command("reject")
def reject(
    user: UserArgument, profile: ProfileOption, json: JsonOption = False, via: ViaOption = None
) -> None:
    """Reject the request of a user."""
    _answer(user, profile, "reject", json, via)


@friends_app.command("remove")
def remove(user: UserArgument, profile: ProfileOption, via: ViaOption = None) -> None:
    """Take a user out of the list. The other side's list stays as it is."""

    async def ask(connection: Connection) -> str:
        await call(connection, "DELETE", friend_path(user))
        return ""

    ask_once(profile, via, ask)


@friends_app.command("devices")
def devices(
    user: UserArgument, profile: ProfileOption, json: JsonOption = False, via: ViaOption = None
) -> None:
    """Print the devices of a friend, for `send --to`."""

    async def ask(connection: Connection) -> str:
        answer = await call(connection, "GET", f"{friend_path(user)}/devices")
        if json:
            return _json(answer)
        return "".join(
            f"{_text(device, 'device_id')} {_text(device, 'status')} key={_text(device, 'public_key')}\n"
            for device in _objects(answer, "devices")
        )

    ask_once(profile, via, ask)


def _answer(user: str, profile: ProfileOption, word: str, json: bool, via: ViaOption) -> None:
    async def ask(connection: Connection) -> str:
        answer = await call(connection, "POST", request_path(user, word))
        return _json(answer) if json else _request_line(_object(answer, "request"))

    ask_once(profile, via, ask)


def _json(answer: dict[str, Any]) -> str:
    return printable_json(json_module.dumps(answer, ensure_ascii=False)) + "\n"


def _request_line(value: dict[str, Any]) -> str:
    line = " ".join(
        f"{key}={_text(value, name)}"
        for key, name in (("id", "id"), ("from", "from_user_id"), ("to", "to_user_id"), ("status", "status"))
    )
    message = value.get("message")
    return line + (f" message={one_line(message)}\n" if isinstance(message, str) else "\n")


def _alias(friend: dict[str, Any]) -> str:
    alias = friend.get("alias")
    return f" {one_line(alias)}" if isinstance(alias, str) else ""


def _text(value: dict[str, Any], name: str) -> str:
    """A member as one harmless word."""
    text = value.get(name)
    if not isinstance(text, str):
        raise NotCommuCatError(f"the server's answer has no {name}")
    return one_line(text)


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise NotCommuCatError(f"the server's answer has no {name}")
    return found


def _objects(value: dict[str, Any], name: str) -> Iterable[dict[str, Any]]:
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise NotCommuCatError(f"the server's answer has no {name}")
    return found
