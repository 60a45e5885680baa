"""``links``: accounts on other servers that belong to the same person."""

from functools import partial
from typing import Annotated

import typer

from commucat_cli.client import Connection
from commucat_cli.client.account_links import ACCOUNT_LINKS, link_path
from commucat_cli.client.friends import call
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
from commucat_cli.commands.results import Row, show_rows

links_app = typer.Typer(
    help="Accounts on other servers that are yours, too. Both have to say so; then each sees how far the "
    "other's devices have read (devices offsets).",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _account(text: str) -> str:
    encodable(text)
    handle, at, domain = text.strip().partition("@")
    if not (handle and at and domain):
        raise typer.BadParameter("an account on another server is named handle@domain")
    return text.strip()


AccountArgument = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="handle@domain of the other server.", callback=_account)
]
JsonOption = Annotated[bool, typer.Option("--json", help="The server's answer as one JSON object.")]


@links_app.command("list")
def list_links(profile: ProfileOption, json: JsonOption = False, via: ViaOption = None) -> None:
    """Print the links: linked, declared (the other account has not confirmed), offered (confirm with add)."""

    def show(answer: Answer) -> None:
        if json:
            print_answer(answer)
        else:
            show_rows([_row(each) for each in object_members(answer, "links")])

    ask_once(profile, via, partial(call, method="GET", path=ACCOUNT_LINKS), show)


@links_app.command("add")
def add(
    account: AccountArgument, profile: ProfileOption, json: JsonOption = False, via: ViaOption = None
) -> None:
    """Say that an account is yours, too, or confirm what it has said. Do the same from the other account."""

    async def declare(connection: Connection) -> Answer:
        return await call(connection, "POST", ACCOUNT_LINKS, {"account": account})

    def show(answer: Answer) -> None:
        if json:
            print_answer(answer)
        else:
            show_rows([_row(object_member(answer, "link"))])

    ask_once(profile, via, declare, show)


@links_app.command("remove")
def remove(
    account: AccountArgument,
    profile: ProfileOption,
    json: Annotated[bool, typer.Option("--json", help="Print what was removed as one JSON object.")] = False,
    via: ViaOption = None,
) -> None:
    """End a link at both servers, or refuse one that was offered."""

    def show(_: Answer) -> None:
        if json:
            print_answer({"removed": account})

    ask_once(profile, via, partial(call, method="DELETE", path=link_path(account)), show)


def _row(link: Answer) -> Row:
    return {
        "account": text_member(link, "account"),
        "status": text_member(link, "status"),
        "expires_at": optional_member(link, "expires_at"),
    }
