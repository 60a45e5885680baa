"""Commands that ask the server one thing and leave."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from commucat_cli.client import Connection, open_session
from commucat_cli.commands.options import warn_if_insecure
from commucat_cli.commands.outcome import run_command
from commucat_cli.profile import open_profile
from commucat_cli.transport import Via

T = TypeVar("T")


def ask_once(
    directory: Path, via: Via | None, ask: Callable[[Connection], Awaitable[T]], show: Callable[[T], None]
) -> NoReturn:
    """Connect beside whatever else the profile does, leave, and ``show`` what ``ask`` has returned."""
    run_command(partial(_ask, directory, via, ask, show))


async def _ask(
    directory: Path, via: Via | None, ask: Callable[[Connection], Awaitable[T]], show: Callable[[T], None]
) -> int:
    with open_profile(directory) as profile:
        warn_if_insecure(profile.account().trust)
        async with open_session(profile, receives=False, via=via) as connection:
            answer = await ask(connection)
        show(answer)
    return 0
