"""How a call is led from its beginning to its summary, for ``call`` and ``answer``."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs
import trio

from commucat_cli.calls.conversation import Conversation, SoundPlan
from commucat_cli.calls.line import FAREWELL, TEXTS, Line
from commucat_cli.calls.signalling import Cause
from commucat_cli.calls.talk import LinePlan
from commucat_cli.client.addresses import normalized
from commucat_cli.client.lasting import keep_connected
from commucat_cli.client.tasks import race
from commucat_cli.commands.options import warn_if_insecure
from commucat_cli.commands.outcome import INTERRUPTED
from commucat_cli.commands.results import print_values
from commucat_cli.errors import CliError
from commucat_cli.profile import Profile, open_profile
from commucat_cli.terminal import report_error, tell, warn
from commucat_cli.transport import Timeouts, Via
from commucat_proto import CALL_MEDIA

GRACE: Final = 30.0
"""Seconds without a connection after which a call is given up; a server keeps it for some time, too."""
_TROUBLE: Final = (Cause.LOST, Cause.IDLE, Cause.FAILED, Cause.UNSUPPORTED)
"""Ends of a running call that nobody wanted."""


@attrs.frozen(kw_only=True)
class CallWish:
    """Everything that one of the two commands was asked for."""

    profile: Path
    line: LinePlan
    sound: SoundPlan
    wait: float | None = None
    """Seconds to wait for a call to come."""
    as_json: bool = False
    via: Via | None = None


async def lead_call(wish: CallWish) -> int:
    """Lead the call to its end, tell how it went, and return the exit status.

    Raises:
        CliError: there can be no call, or it ended in trouble; the text says why.
    """
    conversation = Conversation(wish.sound)
    with open_profile(wish.profile) as profile, profile.reading_inbox():
        warn_if_insecure(profile.account().trust)
        plan = attrs.evolve(wish.line, to=_callable(profile, wish.line.to))
        await conversation.prepare()
        line = Line(profile, plan, conversation, tell=tell, warn=warn)
        conversation.connect(profile.keys.device_id, line.send_media)
        try:
            interrupted = await _Leading(wish, profile, line, conversation).run()
        finally:
            await conversation.close()
        if line.seconds is not None:
            print_values(summary(line, conversation), as_json=wish.as_json)
        return _judge(wish, line, interrupted=interrupted)


def _callable(profile: Profile, to: tuple[str, ...]) -> tuple[str, ...]:
    """The devices by the names that their server has for them.

    Raises:
        CliError: one of them is this device itself, or one that no call reaches.
    """
    names = tuple(dict.fromkeys(normalized(device, profile.account().domain) for device in to))
    for name in names:
        if name == profile.keys.device_id:
            raise CliError(f"{name} is this device: it cannot call itself; name another with --to")
        if "@" in name:
            raise CliError(f"device {name} is on another server, where calls do not go")
    return names


class _Leading:
    """Everything that goes on beside each other while a call is led."""

    def __init__(self, wish: CallWish, profile: Profile, line: Line, conversation: Conversation) -> None:
        self._wish = wish
        self._profile = profile
        self._line = line
        self._conversation = conversation
        self._interrupted = False

    async def run(self) -> bool:
        """Whether somebody pressed Ctrl-C (or the process was to end)."""
        await race(
            self._lead,
            self._talk,
            self._watch_signals,
            self._watch_patience,
            self._watch_connection,
            self._end,
        )
        return self._interrupted

    async def _lead(self) -> None:
        await keep_connected(
            self._profile,
            self._line.work,
            receives=True,
            capabilities=(CALL_MEDIA,),
            notice=warn,
            via=self._wish.via,
        )

    async def _talk(self) -> None:
        try:
            await self._conversation.run()
        except CliError:
            # The others are not to wait for a device that is gone.
            self._line.hang_up(Cause.FAILED)
            if self._line.away_since is None:
                with trio.move_on_after(2 * FAREWELL):
                    await self._line.wait_over()
            raise
        self._line.hang_up()
        await trio.sleep_forever()

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for _ in received:
                if self._interrupted:
                    raise KeyboardInterrupt
                self._interrupted = True
                if self._line.away_since is not None:
                    return  # There is nobody to be told.
                self._line.hang_up()

    async def _watch_patience(self) -> None:
        if self._wish.wait is not None:
            await trio.sleep(self._wish.wait)
            if self._line.call is None:
                raise CliError(f"nobody called within {self._wish.wait:g} s{_waiting(self._line)}")
        await trio.sleep_forever()

    async def _watch_connection(self) -> None:
        """A call does not wait for its server as long as a message would."""
        await self._line.wait_away(GRACE)
        if self._line.call is None:
            raise CliError(f"the server was not reached within {GRACE:g} s; nobody was called")
        raise CliError(f"the server was away for more than {GRACE:g} s; the call is over")

    async def _end(self) -> None:
        await self._line.wait_over()
        # Normally the session ends in order within this time, and with it the command.
        await trio.sleep(2 * Timeouts().close)


def summary(
    line: Line, conversation: Conversation
) -> Mapping[str, str | int | float | bool | list[str] | None]:
    """What is printed of a call that took place."""
    assert line.call is not None
    cause = line.call.cause
    return {
        "call_id": line.call.call_id,
        "ended": None if cause is None else cause.value,
        "seconds": None if line.seconds is None else round(line.seconds, 2),
        "encrypted": line.encrypted,
        **conversation.figures(line.seconds),
        "packets_not_sent": line.dropped,
    }


def _judge(wish: CallWish, line: Line, *, interrupted: bool) -> int:
    cause = None if line.call is None else line.call.cause
    if line.seconds is not None:
        if cause in _TROUBLE:
            raise CliError(f"the call ended: {TEXTS[cause]}")
        return 0
    if interrupted:
        report_error("interrupted")
        return INTERRUPTED
    if not wish.line.accept:
        return 0
    who = ", ".join(wish.line.to)
    told = TEXTS[cause or Cause.FAILED]
    raise CliError(f"{who}: {told}" if who else f"the call did not begin: {told}")


def _waiting(line: Line) -> str:
    if not line.waiting:
        return ""
    return f"; {line.waiting} messages wait in the inbox, and more would hide calls: read them with listen"
