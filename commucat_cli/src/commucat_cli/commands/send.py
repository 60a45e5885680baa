"""``send``: hand messages to the server, and leave when it has them all on disk."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from commucat_cli.client import (
    Connection,
    Deliveries,
    Outbox,
    OutgoingMessage,
    PeerDirectory,
    SentMessage,
    keep_connected,
    require_reports,
    watch_reports,
)
from commucat_cli.client.delivery import reason_text
from commucat_cli.client.tasks import Work, race
from commucat_cli.commands.options import (
    ChannelOption,
    JsonOption,
    PeerOption,
    ProfileOption,
    ViaOption,
    warn_if_insecure,
)
from commucat_cli.commands.outcome import run_command
from commucat_cli.commands.results import print_values
from commucat_cli.commands.transfers import upload
from commucat_cli.errors import CliError
from commucat_cli.profile import Profile, open_profile
from commucat_cli.terminal import LineReader, Output, warn
from commucat_cli.transport import Timeouts, Via
from commucat_proto import DeliveryReport, DeliveryStatus


def send(
    profile: ProfileOption,
    to: PeerOption,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The message.")] = None,
    channel: ChannelOption = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Send each line of standard input.")] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="PATH",
            dir_okay=False,
            help="Encrypt this file, upload it, and send what opens it.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the next acknowledgement.")
    ] = 30.0,
    wait_delivered: Annotated[
        float | None,
        typer.Option(
            "--wait-delivered",
            metavar="SECONDS",
            min=0.1,
            help="Then wait until the device has everything, print a line for each message, "
            "and fail when it has not in this time.",
        ),
    ] = None,
    as_json: JsonOption = False,
    via: ViaOption = None,
) -> None:
    """Send a message to a device; succeeds only when the server has acknowledged everything.

    An upload that was broken off goes on when the same file is sent to the same device again within a day.
    Runs beside a `listen` of the same profile, but not with --wait-delivered, which reads the inbox for the
    server's reports; messages in it stay there. Empty lines of standard input are left out.

    With --json prints, at the end: to, sent=N (acknowledged by the server), refused=N, and delivered, the ids
    of the messages that the device has confirmed (null without --wait-delivered).
    """
    if (text is not None) + stdin + (file is not None) != 1:
        raise typer.BadParameter("give either TEXT, --stdin or --file", param_hint="TEXT")
    run_command(partial(_send, profile, to, text, file, channel, timeout, wait_delivered, as_json, via))


async def _send(
    directory: Path,
    to: str,
    text: str | None,
    file: Path | None,
    channel: int | None,
    patience: float,
    wait: float | None,
    as_json: bool,
    via: Via | None,
) -> int:
    with open_profile(directory) as profile, ExitStack() as stack:
        if wait is not None:
            stack.enter_context(profile.reading_inbox())
        warn_if_insecure(profile.account().trust)
        mark = None
        if file is not None:
            # The message goes only when there is something to fetch.
            note, mark = await upload(profile, file, to, patience, via)
            text = note.to_text()
        await _Sending(profile, to, channel, patience, wait, as_json, via).run(text)
        if mark is not None:
            profile.state.forget_upload(mark)
    return 0


class _Sending:
    """One run of the command: lines in, acknowledgements back."""

    def __init__(
        self,
        profile: Profile,
        to: str,
        channel: int | None,
        patience: float,
        wait: float | None,
        as_json: bool,
        via: Via | None,
    ) -> None:
        self._profile = profile
        self._to = to
        self._patience = patience
        self._via = via
        self._refused: list[str] = []
        self._added = 0
        self._delivered: list[str] = []
        self._trouble = ""
        self._done = trio.Event()
        self._wait = wait
        self._as_json = as_json
        self._output = Output()
        self._deliveries = Deliveries(to)
        self._outbox = Outbox(
            profile, to, channel=channel, on_refused=self._on_refused, on_stored=self._deliveries.stored
        )

    async def run(self, text: str | None) -> None:
        """Send ``text``, or standard input when it is None."""
        reported = self._wait is not None
        deliver = partial(
            keep_connected,
            self._profile,
            self._work,
            receives=reported,
            reported=reported,
            notice=self._notice,
            via=self._via,
        )
        await race(deliver, partial(self._feed, text), self._watch)
        if self._as_json:
            values = {
                "to": self._to,
                "sent": self._added - len(self._refused),
                "refused": len(self._refused),
                "delivered": None if self._wait is None else self._delivered,
            }
            print_values(values, as_json=True)
        if self._refused:
            reasons = ", ".join(sorted(set(self._refused)))
            raise CliError(
                f"{len(self._refused)} of {self._added} messages to {self._to} were refused: {reasons}"
            )
        if self._wait is not None and len(self._delivered) < self._added:
            raise CliError(self._not_delivered())

    async def _feed(self, text: str | None) -> None:
        if text is not None:
            await self._add(text)
        else:
            reader = LineReader()
            while (line := await reader.next_line()) is not None:
                if line:
                    await self._add(line)
        await self._outbox.wait_settled()
        if self._wait is not None:
            with trio.move_on_after(self._wait):
                await self._deliveries.wait_known()
        self._done.set()
        # Normally the session ends in order within this time, and with it the command.
        await trio.sleep(2 * Timeouts().close)

    async def _add(self, text: str) -> None:
        await self._outbox.add(text)
        self._added += 1

    async def _work(self, connection: Connection, peers: PeerDirectory) -> None:
        works: list[Work] = [
            partial(self._outbox.run, connection, peers),
            connection.wait_ended,
            self._done.wait,
        ]
        if self._wait is not None:
            require_reports(connection)
            works.append(partial(watch_reports, connection, self._profile, self._report))
        await race(*works)

    async def _report(self, report: DeliveryReport) -> None:
        async def tell(messages: list[SentMessage]) -> None:
            if report.status is DeliveryStatus.DELIVERED:
                ids = [message.message_id.hex() for message in messages]
                if not self._as_json:
                    lines = (f"delivered device={self._to} id={each}\n" for each in ids)
                    await self._output.write("".join(lines))
                self._delivered += ids

        await self._deliveries.take(report, tell)

    def _not_delivered(self) -> str:
        expired = self._deliveries.expired
        missing = self._added - len(self._delivered)
        reasons = [f"{count} because {reason_text(reason)}" for reason, count in expired.items()]
        if silent := missing - sum(expired.values()):
            reasons.insert(0, f"{silent} not confirmed by it within {self._wait:g} s")
        return f"{missing} of {self._added} messages to {self._to} were not delivered: {', '.join(reasons)}"

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
