"""``listen``: print what is in the inbox, and what comes."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from commucat_cli.client import Connection, InboxReader, PeerDirectory, ReceivedMessage, keep_connected
from commucat_cli.commands.display import json_line, text_line
from commucat_cli.commands.options import ProfileOption, ViaOption, warn_if_insecure
from commucat_cli.commands.outcome import run_command
from commucat_cli.commands.transfers import Saver
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
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="DIR",
            file_okay=False,
            help="Save the files that messages bring there; none is overwritten.",
        ),
    ] = None,
    via: ViaOption = None,
) -> None:
    """Print messages as they come. Only what was printed is confirmed to the server."""
    run_command(partial(_listen, profile, count, timeout, json, save, via))


async def _listen(
    directory: Path,
    count: int | None,
    patience: float | None,
    as_json: bool,
    save: Path | None,
    via: Via | None,
) -> int:
    output = Output()
    line = json_line if as_json else text_line

    saver = None if save is None else Saver(save)

    async def show(messages: list[ReceivedMessage]) -> None:
        shown = messages if saver is None else await saver.save(messages)
        await output.write("".join(map(line, shown)))

    async def work(connection: Connection, peers: PeerDirectory) -> None:
        if saver is not None:
            saver.connection = connection
        await reader.run(connection, peers)

    with ExitStack() as stack, open_profile(directory) as profile, profile.reading_inbox():
        if saver is not None:
            stack.callback(saver.close)
        warn_if_insecure(profile.account().trust)
        reader = InboxReader(profile, show=show, notice=warn, limit=count)
        with trio.move_on_after(float("inf") if patience is None else patience) as deadline:
            await keep_connected(profile, work, receives=True, notice=warn, via=via)
        if deadline.cancelled_caught and (count is None or reader.shown < count):
            wanted = "" if count is None else f" of {count}"
            raise CliError(f"{reader.shown}{wanted} messages came within {patience:g} s")
    return 0
