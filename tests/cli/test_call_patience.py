"""How long a call waits for its server."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cli.cli_builders import ScriptedServer, profile_of
from commucat_cli.calls.conversation import Conversation, SoundPlan
from commucat_cli.calls.line import Line
from commucat_cli.calls.signalling import Call
from commucat_cli.calls.talk import LinePlan
from commucat_cli.commands.call_options import media_profile

GRACE = 30.0


@pytest.mark.parametrize(
    ("connections", "given_up_at"),
    [
        ((), 30),
        # (seconds from which there is a connection, seconds until which there is)
        (((10, 15),), 45),
        (((29.5, 30),), 60),
        (((29, 31), (60, 90)), 120),
    ],
)
async def test_a_call_is_given_up_when_its_server_was_away_for_so_long_in_one_piece(
    tmp_path: Path,
    autojump_clock: MockClock,
    connections: tuple[tuple[float, float], ...],
    given_up_at: float,
) -> None:
    began = trio.current_time()
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        plan = LinePlan(to=("bob",), media=media_profile(24_000))
        line = Line(profile, plan, Conversation(SoundPlan()), tell=print, warn=print)
        line.call = Call.outgoing("c", "me", ["bob"], deadline=began + 30)

        async def come_and_go() -> None:
            for since, until in connections:
                await trio.sleep_until(began + since)
                line.away_since = None
                await trio.sleep_until(began + until)
                line.away_since = trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_and_go)
            await line.wait_away(GRACE)
    assert trio.current_time() - began == given_up_at


async def test_who_waits_for_a_call_waits_for_its_server_as_long_as_it_takes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        plan = LinePlan(media=media_profile(24_000))
        line = Line(profile, plan, Conversation(SoundPlan()), tell=print, warn=print)
        with trio.move_on_after(86_400) as scope:
            await line.wait_away(GRACE)
        assert scope.cancelled_caught
