"""``listen``: print what is in the inbox, and what comes."""

from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from commucat_cli.client import InboxReader, ReceivedMessage, keep_connected
from commucat_cli.commands.display import json_line, text_line
from commucat_cli.commands.options import ProfileOption, ViaOption, warn_if_insecure
from commucat_cli.commands.outcome import run_command
from commucat_cli.errors import CliError
from commucat_cli.profile import open_profile
from commucat_cli.terminal import Output, warn
from commucat_cli.transport import Via


def listen(
    profile: ProfileOption,
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, help="Leave after so many messages; the rest stays on the server."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.1, help="Seconds to wait at all; fails when they are over."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    via: ViaOption = None,
) -> None:
    """Print messages as they come. Only what was printed is confirmed to the server."""
    run_command(partial(_listen, profile, count, timeout, json, via))


async def _listen(
    directory: Path, count: int | None, patience: float | None, as_json: bool, via: Via | None
) -> int:
    output = Output()
    line = json_line if as_json else text_line

    async def show(messages: list[ReceivedMessage]) -> None:
        await output.write("".join(map(line, messages)))

    with open_profile(directory) as profile, profile.reading_inbox():
        warn_if_insecure(profile.account().trust)
        reader = InboxReader(profile, show=show, notice=warn, limit=count)
        with trio.move_on_after(float("inf") if patience is None else patience) as deadline:
            await keep_connected(profile, reader.run, receives=True, notice=warn, via=via)
        if deadline.cancelled_caught and (count is None or reader.shown < count):
            wanted = "" if count is None else f" of {count}"
            raise CliError(f"{reader.shown}{wanted} messages came within {patience:g} s")
    return 0
