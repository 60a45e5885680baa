"""``send``: hand messages to the server, and leave when it has them all on disk."""

from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from commucat_cli.client import Connection, Outbox, OutgoingMessage, PeerDirectory, keep_connected
from commucat_cli.client.tasks import race
from commucat_cli.commands.options import ChannelOption, PeerOption, ProfileOption, warn_if_insecure
from commucat_cli.commands.outcome import run_command
from commucat_cli.errors import CliError
from commucat_cli.profile import Profile, open_profile
from commucat_cli.terminal import LineReader, warn
from commucat_cli.transport import Timeouts


def send(
    profile: ProfileOption,
    to: PeerOption,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The message.")] = None,
    channel: ChannelOption = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Send each line of standard input.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the next acknowledgement.")
    ] = 30.0,
) -> None:
    """Send a message to a device; succeeds only when the server has acknowledged everything.

    Runs beside a `listen` of the same profile. Empty lines of standard input are left out.
    """
    if (text is None) == (not stdin):
        raise typer.BadParameter("give either TEXT or --stdin", param_hint="TEXT")
    run_command(partial(_send, profile, to, text, channel, timeout))


async def _send(directory: Path, to: str, text: str | None, channel: int | None, patience: float) -> int:
    with open_profile(directory) as profile:
        warn_if_insecure(profile.account().trust)
        await _Sending(profile, to, channel, patience).run(text)
    return 0


class _Sending:
    """One run of the command: lines in, acknowledgements back."""

    def __init__(self, profile: Profile, to: str, channel: int | None, patience: float) -> None:
        self._profile = profile
        self._to = to
        self._patience = patience
        self._refused: list[str] = []
        self._added = 0
        self._trouble = ""
        self._done = trio.Event()
        self._outbox = Outbox(profile, to, channel=channel, on_refused=self._on_refused)

    async def run(self, text: str | None) -> None:
        """Send ``text``, or standard input when it is None."""
        deliver = partial(keep_connected, self._profile, self._work, receives=False, notice=self._notice)
        await race(deliver, partial(self._feed, text), self._watch)
        if self._refused:
            reasons = ", ".join(sorted(set(self._refused)))
            raise CliError(
                f"{len(self._refused)} of {self._added} messages to {self._to} were refused: {reasons}"
            )

    async def _feed(self, text: str | None) -> None:
        if text is not None:
            await self._add(text)
        else:
            reader = LineReader()
            while (line := await reader.next_line()) is not None:
                if line:
                    await self._add(line)
        await self._outbox.wait_settled()
        self._done.set()
        # Normally the session ends in order within this time, and with it the command.
        await trio.sleep(2 * Timeouts().close)

    async def _add(self, text: str) -> None:
        await self._outbox.add(text)
        self._added += 1

    async def _work(self, connection: Connection, peers: PeerDirectory) -> None:
        await race(partial(self._outbox.run, connection, peers), connection.wait_ended, self._done.wait)

    async def _watch(self) -> None:
        """Fail when nothing is acknowledged for too long although something is waiting for it."""
        outbox = self._outbox
        while True:
            settled = outbox.settled
            with trio.move_on_after(self._patience) as waiting:
                while outbox.pending and outbox.settled == settled:
                    await outbox.changed()
            if waiting.cancelled_caught:
                because = f": {self._trouble}" if self._trouble else ""
                raise CliError(
                    f"{outbox.pending} of {self._added} messages were not acknowledged "
                    f"within {self._patience:g} s{because}"
                )
            if not outbox.pending:
                await outbox.changed()

    def _on_refused(self, _: OutgoingMessage, reason: str) -> None:
        self._refused.append(reason)

    def _notice(self, line: str) -> None:
        self._trouble = line.removesuffix("; trying again")
        warn(line)
