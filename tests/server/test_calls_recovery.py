"""A server that finds calls of an earlier process in its store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from commucat_proto import FrameType
from commucat_server.calls.limits import CallLimits
from commucat_server.calls.rows import TRACKS_INTERVAL
from commucat_server.calls.service import CLAIM_INTERVAL
from commucat_storage import CallRow, SqliteStorage, StorageError
from server.connect_builders import NOW, Client, Person, Server, running_server

CHANNEL = 7
CALL = "call-1"
ALICE, BOB, CAROL = (Person(handle=name) for name in ("alice", "bob", "carol"))
LIMITS = CallLimits()


@asynccontextmanager
async def serving(path: Path, clock: float = NOW) -> AsyncIterator[Server]:
    async with running_server(path, clock=lambda: clock, calls=attrs.evolve(LIMITS)) as server:
        yield server


async def ask(client: Client, frame_type: FrameType, value: Any) -> dict[str, Any]:
    return await client.answer(client.send(frame_type, CHANNEL, value))


async def interrupted(path: Path, *, answered: bool) -> None:
    """A server ends while alice calls bob and carol; if ``answered``, bob is in the call."""
    async with serving(path) as server:
        everybody = (ALICE, BOB, CAROL)
        clients = [await server.connect(person) for person in everybody]
        for client, person in zip(clients, everybody, strict=True):
            await client.join(CHANNEL, *(each.device_id for each in everybody if each is not person))
        offer = {"call_id": CALL, "from": ALICE.device_id, "to": []}
        assert "ack" in await ask(clients[0], FrameType.CALL_OFFER, offer)
        if answered:
            answer = {"call_id": CALL, "accept": True}
            assert "ack" in await ask(clients[1], FrameType.CALL_ANSWER, answer)


async def end_of(client: Client) -> dict[str, Any]:
    frame = await client.next_of(FrameType.CALL_END)
    assert isinstance(frame.control, dict)
    return dict(frame.control["metadata"])  # type: ignore[arg-type]


async def row_of(server: Server) -> CallRow:
    rows = server.context.calls.rows
    while rows.waiting:
        await trio.lowlevel.checkpoint()
    [row] = await server.storage.list_calls(limit=9, ended=True)
    return row


async def after(seconds: float, clock: trio.testing.MockClock) -> None:
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def test_who_comes_back_in_time_is_in_the_call_and_who_was_called_may_still_answer(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await interrupted(tmp_path, answered=True)
    async with serving(tmp_path, NOW + 10) as server:
        assert server.context.counters.calls_recovered == 1
        alice, bob, carol = [await server.connect(person) for person in (ALICE, BOB, CAROL)]
        await after(LIMITS.grace + 2, mock_clock)
        assert "ack" in await ask(carol, FrameType.CALL_ANSWER, {"call_id": CALL, "accept": True})
        assert "ack" in await ask(bob, FrameType.CALL_END, {"call_id": CALL, "reason": "hangup"})
        await alice.next_of(FrameType.CALL_END)
        row = await row_of(server)
        assert (row.started_at, row.ended_at, row.end_reason) == (NOW, NOW + 10, "hangup")
        assert row.joined == {person.device_id for person in (ALICE, BOB, CAROL)}


async def test_call_that_nobody_comes_back_to_ends(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await interrupted(tmp_path, answered=True)
    async with serving(tmp_path, NOW + 3600) as server:
        await after(LIMITS.grace + 2, mock_clock)
        row = await row_of(server)
        assert (row.ended_at, row.end_reason) == (NOW + 3600, "disconnect")
        assert len(server.context.calls.board) == 0
        assert server.context.counters.calls_orphaned == 1
        # Whoever comes later is told.
        carol = await server.connect(CAROL)
        assert (await end_of(carol))["cause"] == "disconnect"


async def test_call_rings_on_for_the_rest_of_its_time(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await interrupted(tmp_path, answered=False)
    async with serving(tmp_path, NOW + int(LIMITS.ring_timeout) - 20) as server:
        alice, bob = await server.connect(ALICE), await server.connect(BOB)
        await after(18, mock_clock)
        assert len(server.context.calls.board) == 1
        mock_clock.jump(4)
        assert (await end_of(bob))["cause"] == "ring_timeout"
        assert (await end_of(alice))["cause"] == "ring_timeout"


async def test_call_that_should_have_stopped_ringing_long_ago_does_so(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await interrupted(tmp_path, answered=False)
    async with serving(tmp_path, NOW + 86_400 * 365) as server:
        await after(2, mock_clock)
        assert (await row_of(server)).end_reason == "timeout"


async def test_clock_that_was_set_back_makes_no_call_ring_longer(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await interrupted(tmp_path, answered=False)
    async with serving(tmp_path, NOW - 86_400) as server:
        await server.connect(ALICE)
        await after(LIMITS.ring_timeout + 2, mock_clock)
        assert (await row_of(server)).end_reason == "timeout"


async def test_store_that_fails_at_the_start_is_asked_again(
    tmp_path: Path, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise StorageError("not now")

    await interrupted(tmp_path, answered=True)
    with monkeypatch.context() as failing:
        failing.setattr(SqliteStorage, "claim_calls", fail)
        async with serving(tmp_path) as server:
            assert len(server.context.calls.board) == 0
            failing.undo()
            alice = await server.connect(ALICE)
            await after(CLAIM_INTERVAL + 1, mock_clock)
            while not len(server.context.calls.board):
                await trio.lowlevel.checkpoint()
            stats = {"call_id": CALL, "direction": "send"}
            assert "ack" in await ask(alice, FrameType.CALL_STATS, stats)
            call = server.context.calls.board.find(CALL)
            assert call is not None
            assert set(call.away) == {BOB.device_id}


async def test_calls_that_are_over_are_purged_when_their_time_has_come(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    await interrupted(tmp_path, answered=False)
    async with serving(tmp_path, NOW + 3600) as server:
        await after(2, mock_clock)
        await row_of(server)
    async with serving(tmp_path, NOW + 3600 + LIMITS.keep) as server:
        await after(TRACKS_INTERVAL + 1, mock_clock)
        while await server.storage.list_calls(limit=9, ended=True):
            await trio.lowlevel.checkpoint()
