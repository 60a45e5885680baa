"""A server whose clock is set back and forth while it runs: nothing is lost, and nobody is locked out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from commucat_cli.client import Connection
from commucat_ledger import verify
from commucat_proto import FrameType
from end_to_end.faked_clock import DAY, Clock
from end_to_end.raw_people import CHANNEL, Reach, reach, receiver, sender
from end_to_end.server_process import DEADLINE, ServerProcess, server_process

RELAY_TTL = 30 * DAY


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    clock = Clock(tmp_path / "clock")
    clock.set(0)
    return clock


@pytest.fixture
def server(tmp_path: Path, clock: Clock) -> Iterator[ServerProcess]:
    config = f"[server]\nauto_approve_devices = true\n[limits]\nrelay_ttl = {RELAY_TTL}\n"
    with server_process(tmp_path, config, clock.prefix) as server:
        yield server


async def say(where: Reach, text: bytes) -> None:
    """From alice to bob, acknowledged."""
    async with sender(where, "alice", "bob") as alice:
        answer = await alice.request(FrameType.MSG, CHANNEL, text)
        assert (answer.error, answer.refused) == (None, ())


async def hear(bob: Connection, count: int) -> list[tuple[int, bytes]]:
    got: list[tuple[int, bytes]] = []
    with trio.fail_after(DEADLINE):
        while len(got) < count:
            frames = await bob.deliveries()
            got += [(each.sequence, each.payload) for each in frames if each.type is FrameType.MSG]
    bob.confirm(got[-1][0])
    return got


async def test_messages_and_devices_survive_a_clock_that_jumps(server: ServerProcess, clock: Clock) -> None:
    where = await reach(server)
    async with receiver(where, "bob", "alice"):
        pass
    jumps = (0, -2, 20, -20, 1)  # all within the time that messages are kept
    for days in jumps:
        clock.set(days)
        await say(where, b"%d" % days)

    async with receiver(where, "bob", "alice") as bob:
        got = await hear(bob, len(jumps))

    assert got == [(number, b"%d" % days) for number, days in enumerate(jumps, 1)]
    assert server.stop() == 0
    assert verify(server.data_dir / "ledger.jsonl").size > 0


async def test_a_session_lives_through_a_jump_and_only_what_has_expired_goes(
    server: ServerProcess, clock: Clock
) -> None:
    where = await reach(server)
    async with receiver(where, "bob", "alice"):
        pass
    await say(where, b"too old by then")
    clock.set(31)
    await say(where, b"fresh")

    async with receiver(where, "bob", "alice") as bob:
        assert await hear(bob, 1) == [(2, b"fresh")]
        clock.set(-31)
        await say(where, b"live, two months earlier")
        assert await hear(bob, 1) == [(3, b"live, two months earlier")]
        clock.set(400)
        # Its token is of last year: the device is let in anew, by its key.
    await say(where, b"after a year")
    async with receiver(where, "bob", "alice") as bob:
        assert await hear(bob, 1) == [(4, b"after a year")]
    assert server.running
