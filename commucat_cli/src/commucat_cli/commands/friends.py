"""``friends``: who may write without being a stranger, and see when one is here."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from commucat_cli.client import Connection
from commucat_cli.client.friends import FRIENDS, REQUESTS, call, friend_path, request_path
from commucat_cli.commands.answers import (
    Answer,
    object_member,
    object_members,
    optional_member,
    print_answer,
    text_member,
)
from commucat_cli.commands.once import ask_once
from commucat_cli.commands.options import ProfileOption, ViaOption, encodable
from commucat_cli.commands.results import Row, Value, show_rows
from commucat_cli.profile import open_profile
from commucat_cli.terminal import print_now

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

    def show(answer: Answer) -> None:
        if json:
            print_answer(answer)
            return
        devices = object_member(answer, "devices")
        rows: list[Row] = []
        for friend in object_members(answer, "friends"):
            user = text_member(friend, "user_id")
            rows.append(
                {
                    "user": user,
                    "devices": len(devices.get(user) or ()),
                    "alias": optional_member(friend, "alias"),
                }
            )
        show_rows(rows, _friend_line)

    ask_once(profile, via, partial(call, method="GET", path=FRIENDS), show)


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

    async def ask(connection: Connection) -> Answer:
        return await call(connection, "POST", request_path(user), {"message": message})

    ask_once(profile, via, ask, partial(_show_request, as_json=json))


@friends_app.command("requests")
def requests(profile: ProfileOption, json: JsonOption = False, via: ViaOption = None) -> None:
    """Print the requests that wait for an answer, and those that were sent."""

    def show(answer: Answer) -> None:
        if json:
            print_answer(answer)
            return
        rows: list[Row] = [
            {"direction": "in", **_request_row(each)} for each in object_members(answer, "incoming")
        ]
        rows += [{"direction": "out", **_request_row(each)} for each in object_members(answer, "outgoing")]
        # Older servers have no users of other servers.
        for each in object_members(answer, "federated") if "federated" in answer else ():
            # Whose domain is ours: the profile's own user is one of the two.
            row = _request_row(each)
            rows.append({"direction": "out" if _is_own(profile, str(row["from"])) else "in", **row})
        show_rows(rows, _request_line)

    ask_once(profile, via, partial(call, method="GET", path=REQUESTS), show)


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
def remove(
    user: UserArgument,
    profile: ProfileOption,
    json: Annotated[bool, typer.Option("--json", help="Print who was removed as one JSON object.")] = False,
    via: ViaOption = None,
) -> None:
    """Take a user out of the list. The other side's list stays as it is."""

    def show(_: Answer) -> None:
        if json:
            print_answer({"removed": user})

    ask_once(profile, via, partial(call, method="DELETE", path=friend_path(user)), show)


@friends_app.command("devices")
def devices(
    user: UserArgument, profile: ProfileOption, json: JsonOption = False, via: ViaOption = None
) -> None:
    """Print the devices of a friend, for `send --to`."""

    def show(answer: Answer) -> None:
        if json:
            print_answer(answer)
            return
        rows: list[Row] = [
            {
                "device": text_member(device, "device_id"),
                "status": text_member(device, "status"),
                "key": text_member(device, "public_key"),
            }
            for device in object_members(answer, "devices")
        ]
        show_rows(rows, lambda row: f"{row['device']} {row['status']} key={row['key']}")

    ask_once(profile, via, partial(call, method="GET", path=f"{friend_path(user)}/devices"), show)


def _is_own(profile: Path, address: str) -> bool:
    """Whether ``handle@domain`` is of the profile's own server."""
    with open_profile(profile) as opened:
        return address.rpartition("@")[2].lower() == opened.account().domain.lower()


def _answer(user: str, profile: ProfileOption, word: str, json: bool, via: ViaOption) -> None:
    path = request_path(user, word)
    ask_once(profile, via, partial(call, method="POST", path=path), partial(_show_request, as_json=json))


def _show_request(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        print_answer(answer)
    else:
        print_now(_request_line(_request_row(object_member(answer, "request"))))


def _friend_line(row: Row) -> str:
    alias = "" if row["alias"] is None else f" {row['alias']}"
    return f"{row['user']} devices={row['devices']}{alias}"


def _request_row(value: dict[str, Any]) -> dict[str, Value]:
    return {
        "id": text_member(value, "id"),
        # Of users of other servers the address is what names them.
        "from": text_member(value, "from" if "from" in value else "from_user_id"),
        "to": text_member(value, "to" if "to" in value else "to_user_id"),
        "status": text_member(value, "status"),
        "message": optional_member(value, "message"),
    }


def _request_line(row: Row) -> str:
    """``in`` or ``out`` in a list; the words of the request come last, as they are."""
    named = " ".join(
        f"{name}={value}" for name, value in row.items() if name != "direction" and value is not None
    )
    return f"{row['direction']} {named}" if "direction" in row else named
