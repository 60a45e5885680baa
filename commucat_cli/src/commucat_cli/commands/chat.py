"""``chat``: a person types, messages appear as they come."""

import os
from functools import partial
from pathlib import Path

import trio

from commucat_cli.client import (
    Connection,
    Deliveries,
    InboxReader,
    Outbox,
    OutgoingMessage,
    PeerDirectory,
    ReceivedMessage,
    SentMessage,
)
from commucat_cli.client.delivery import status_text
from commucat_cli.client.lasting import keep_connected
from commucat_cli.client.tasks import race
from commucat_cli.commands.display import text_line
from commucat_cli.commands.options import (
    ChannelOption,
    PeerOption,
    ProfileOption,
    ViaOption,
    warn_if_insecure,
)
from commucat_cli.commands.outcome import run_command
from commucat_cli.profile import Profile, open_profile
from commucat_cli.terminal import LineReader, Output, one_line, warn
from commucat_cli.transport import Timeouts, Via
from commucat_proto import DeliveryReport

PROMPT = "> "
_CLEAR_LINE = "\r\x1b[K"


def chat(
    profile: ProfileOption, to: PeerOption, channel: ChannelOption = None, via: ViaOption = None
) -> None:
    """Talk to a device. End of input (Ctrl-D) leaves as soon as the server has everything."""
    run_command(partial(_chat, profile, to, channel, via))


async def _chat(directory: Path, to: str, channel: int | None, via: Via | None) -> int:
    with open_profile(directory) as profile, profile.reading_inbox():
        warn_if_insecure(profile.account().trust)
        return await _Chat(profile, to, channel, via).run()


class _Chat:
    def __init__(self, profile: Profile, to: str, channel: int | None, via: Via | None) -> None:
        self._profile = profile
        self._via = via
        self._output = Output()
        # A prompt is for a person who sees both what is typed and what comes.
        self._interactive = os.isatty(0) and os.isatty(1)
        self._deliveries = Deliveries(to)
        self._outbox = Outbox(
            profile, to, channel=channel, on_refused=self._on_refused, on_stored=self._deliveries.stored
        )
        self._refused = 0
        self._reader = InboxReader(profile, show=self._show, notice=self._notice, on_report=self._report)
        self._done = trio.Event()

    async def run(self) -> int:
        """Returns the exit status: 1 when a message was refused."""
        talk = partial(
            keep_connected,
            self._profile,
            self._work,
            receives=True,
            # Marks are for a person; a script reads messages only.
            reported=self._interactive,
            notice=self._notice,
            via=self._via,
        )
        await race(talk, self._type)
        return 1 if self._refused else 0

    async def _work(self, connection: Connection, peers: PeerDirectory) -> None:
        await race(
            partial(self._outbox.run, connection, peers),
            partial(self._reader.run, connection, peers),
            connection.wait_ended,
            self._done.wait,
        )

    async def _type(self) -> None:
        lines = LineReader()
        await self._prompt()
        while (line := await lines.next_line()) is not None:
            if line:
                await self._outbox.add(line)
            await self._prompt()
        await self._outbox.wait_settled()
        self._done.set()
        # Normally the session ends in order within this time, and with it the command.
        await trio.sleep(2 * Timeouts().close)

    async def _prompt(self) -> None:
        if self._interactive:
            await self._output.write(PROMPT)

    async def _show(self, messages: list[ReceivedMessage]) -> None:
        lines = "".join(map(text_line, messages))
        # What is being typed stays with the terminal; only its line on the screen is replaced.
        await self._output.write(f"{_CLEAR_LINE}{lines}{PROMPT}" if self._interactive else lines)

    async def _report(self, report: DeliveryReport) -> None:
        async def tell(messages: list[SentMessage]) -> None:
            status = status_text(report)
            marks = "".join(f"[{status}] {one_line(message.start)}\n" for message in messages)
            await self._output.write(f"{_CLEAR_LINE}{marks}{PROMPT}")

        await self._deliveries.take(report, tell)

    def _notice(self, line: str) -> None:
        warn(line)

    def _on_refused(self, message: OutgoingMessage, reason: str) -> None:
        self._refused += 1
        start = message.text[:40]
        warn(f"not delivered: {start!r}: {reason}")
