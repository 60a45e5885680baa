"""``devices offsets``: how far each device has read, on this server and on linked accounts."""

from functools import partial
from typing import Annotated

import typer

from commucat_cli.client.account_links import INBOX_OFFSETS
from commucat_cli.client.friends import call
from commucat_cli.commands.answers import Answer, object_members, print_answer, text_member, whole_member
from commucat_cli.commands.once import ask_once
from commucat_cli.commands.options import ProfileOption, ViaOption
from commucat_cli.commands.results import Row, Value, show_rows


def offsets(
    profile: ProfileOption,
    json: Annotated[bool, typer.Option("--json", help="The server's answer as one JSON object.")] = False,
    via: ViaOption = None,
) -> None:
    """Print what each device has confirmed, and how many messages wait for it. Those of linked accounts are
    as their servers told at told_at."""

    def show(answer: Answer) -> None:
        if json:
            print_answer(answer)
            return
        rows: list[Row] = [_row(each) for each in object_members(answer, "devices")]
        for linked in object_members(answer, "linked"):
            told: dict[str, Value] = {
                "account": text_member(linked, "account"),
                "told_at": text_member(linked, "told_at"),
            }
            rows += [_row(each) | told for each in object_members(linked, "devices")]
        show_rows(rows)

    ask_once(profile, via, partial(call, method="GET", path=INBOX_OFFSETS), show)


def _row(offset: Answer) -> dict[str, Value]:
    return {
        "device": text_member(offset, "device"),
        "confirmed": whole_member(offset, "confirmed"),
        "next": whole_member(offset, "next"),
        "waiting": whole_member(offset, "waiting"),
        "account": None,
        "told_at": None,
    }
