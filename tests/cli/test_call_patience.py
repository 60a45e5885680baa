"""How long a call waits for its server."""

import os
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cli.cli_builders import Attached, ScriptedServer, device, in_memory, parameters, profile_of
from commucat_cli.calls.conversation import Conversation, SoundPlan
from commucat_cli.calls.line import SILENCE, Line
from commucat_cli.calls.party_keys import PartyKeys
from commucat_cli.calls.signalling import Call
from commucat_cli.calls.talk import LinePlan
from commucat_cli.client import PeerDirectory, attach
from commucat_cli.commands.call_options import media_profile
from commucat_cli.profile import ProfileKeys
from commucat_proto import CALL_MEDIA, Frame, FrameType, encode_frame, json_text
from commucat_proto.calls import CallAnswer, CallOffer

GRACE = 30.0
BOB = attrs.evolve(ProfileKeys.generate(), device_id="bob", device=device(2))


@pytest.mark.parametrize("begun", [True, False])
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
    begun: bool,
) -> None:
    began = trio.current_time()
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        plan = LinePlan(to=("bob",), media=media_profile(24_000))
        line = Line(profile, plan, Conversation(SoundPlan()), tell=print, warn=print)
        if begun:
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


@pytest.mark.parametrize("option", ["play", "record"])
async def test_a_pipe_that_nobody_opens_at_its_other_end_is_given_up(tmp_path: Path, option: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Opens the other end of it, so that a test that fails comes to its end.
    rescue = threading.Timer(30, os.open, (pipe, os.O_RDWR))
    async with trio.open_nursery() as nursery:
        conversation = Conversation(SoundPlan(play=pipe) if option == "play" else SoundPlan(record=pipe))
        nursery.start_soon(conversation.prepare)
        await trio.testing.wait_all_tasks_blocked()
        rescue.start()
        nursery.cancel_scope.cancel()
    in_time = rescue.is_alive()
    rescue.cancel()
    # The thread that waits for it has nothing to wait for any more.
    os.close(os.open(pipe, os.O_RDWR))
    assert in_time


@pytest.fixture
def unhurried_clock() -> MockClock:
    """Jumps when nobody has had anything to do for a while: threads do some of the work."""
    return MockClock(autojump_threshold=0.05)


@pytest.mark.parametrize(("reports", "ended"), [(6, "ended"), (0, "lost"), (6, "lost")])
async def test_who_hears_nothing_of_the_others_hangs_up(
    tmp_path: Path, unhurried_clock: MockClock, reports: int, ended: str
) -> None:
    """The other's program has crashed, while its device has a session: nobody else would end the call."""
    offers: list[Frame] = []
    offered, running = trio.Event(), trio.Event()
    sessions: list[Attached] = []

    def answer(frame: Frame) -> dict[str, Any]:
        if frame.type is FrameType.CALL_OFFER:
            offers.append(frame)
            offered.set()
        return {}

    def tell(notice: str) -> None:
        if notice == "device bob is in the call":
            running.set()

    async def attached_to(attached: Attached) -> None:
        sessions.append(attached)

    server = ScriptedServer(answer=answer, ack={"capabilities": [CALL_MEDIA]}, on_attached=attached_to)
    server.add_device("bob", BOB.device.public)
    plan, conversation = LinePlan(to=("bob",), media=media_profile(24_000)), Conversation(SoundPlan())
    await conversation.prepare()
    with profile_of(tmp_path / "me", server) as profile:
        line = Line(profile, plan, conversation, tell=tell, warn=print)
        conversation.connect(profile.keys.device_id, line.send_media)
        async with (
            in_memory(server) as client,
            attach(client, parameters(profile.keys, server)) as connection,
            trio.open_nursery() as nursery,
        ):
            directory = PeerDirectory(profile.state, server.authority.public, connection)
            nursery.start_soon(line.work, connection, directory)
            await offered.wait()
            [offer], [bob] = offers, sessions
            call_id, channel = CallOffer.from_wire(offer.control).call_id, offer.channel
            keys = await PartyKeys(call_id, channel, BOB).sealed_for(directory, [profile.keys.device_id])
            said = CallAnswer(call_id=call_id, accept=True, metadata={"device": "bob", "keys": dict(keys)})
            await bob.push(encode_frame(FrameType.CALL_ANSWER, channel, 1, json_text.dumps(said.to_wire())))
            await running.wait()
            for _ in range(reports):
                await trio.sleep(SILENCE / 4)
                stats = {"call_id": call_id, "direction": "send", "audio": {"bitrate": 1}}
                await bob.tell(FrameType.CALL_STATS, channel, stats)
            assert line.running
            if ended == "ended":
                end = {"call_id": call_id, "reason": "hangup", "metadata": {"device": "bob"}}
                await bob.push(encode_frame(FrameType.CALL_END, channel, 2, json_text.dumps(end)))
            await line.wait_over()
            nursery.cancel_scope.cancel()
    await conversation.close()
    assert line.call is not None
    assert line.call.cause is not None
    assert line.call.cause.value == ended
