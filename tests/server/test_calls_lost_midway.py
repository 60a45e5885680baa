"""Sessions that end while what they said about a call is on its way to the disk, and the like."""

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_proto import FrameType
from server.connect_builders import Client, Server
from server.test_calls_state import (
    ALICE,
    BOB,
    CALL,
    CAROL,
    CHANNEL,
    DAVE,
    answer,
    lose,
    offer,
    people,
    serving,
)


class Held:
    """What a store was given to commit, and did not yet."""

    def __init__(self, server: Server, kind: FrameType) -> None:
        self._real = server.storage.enqueue
        self._kind = kind
        self._batches: list[tuple[Any, Any]] = []

    async def enqueue(self, batch: Any, done: Any) -> None:
        if any(getattr(operation, "frame_type", None) is self._kind for operation in batch):
            await trio.lowlevel.checkpoint()
            self._batches.append((batch, done))
        else:
            await self._real(batch, done)

    async def release(self) -> None:
        assert self._batches
        for batch, done in self._batches:
            await self._real(batch, done)


async def lose_midway(
    server: Server, who: Client, kind: FrameType, value: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say it, and be gone before it is stored."""
    held = Held(server, kind)
    with monkeypatch.context() as patched:
        patched.setattr(server.storage, "enqueue", held.enqueue)
        who.send(kind, CHANNEL, value)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await lose(who)
    await held.release()
    await server.storage.settle()
    await trio.testing.wait_all_tasks_blocked(0.05)


async def grace_over(server: Server, clock: trio.testing.MockClock) -> None:
    for seconds in (server.context.calls.limits.grace + 5, 5):
        clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked(0.05)


async def test_who_is_gone_when_the_answer_is_stored_is_away(
    tmp_path: Path, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        alice, bob, carol = await people(server, ALICE, BOB, CAROL)
        await offer(alice)
        await answer(carol)
        accepted = {"call_id": CALL, "accept": True}
        await lose_midway(server, bob, FrameType.CALL_ANSWER, accepted, monkeypatch)

        call = server.context.calls.board.find(CALL)
        assert call is not None
        assert set(call.away) == {BOB.device_id}
        await grace_over(server, mock_clock)
        assert set(call.joined) == {ALICE.device_id, CAROL.device_id}


async def test_who_is_gone_when_the_offer_is_stored_is_away(
    tmp_path: Path, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        alice, bob, _ = await people(server, ALICE, BOB, CAROL)
        offered = {"call_id": CALL, "from": ALICE.device_id, "to": []}
        await lose_midway(server, alice, FrameType.CALL_OFFER, offered, monkeypatch)
        await answer(bob)

        call = server.context.calls.board.find(CALL)
        assert call is not None
        assert set(call.away) == {ALICE.device_id}
        await grace_over(server, mock_clock)
        # Carol is still called.
        assert set(call.joined) == {BOB.device_id}


async def test_a_call_that_is_answered_while_another_is_ended_goes_on(
    tmp_path: Path, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        alice, bob, _, _ = await people(server, ALICE, BOB, CAROL, DAVE)
        await offer(alice, "call-1")
        await offer(bob, "call-2", sender=BOB)
        service = server.context.calls
        tell = service._announcer.end
        answered: list[str] = []

        async def end(call: Any, *more: Any) -> None:
            other = service.board.find("call-2" if call.call_id == "call-1" else "call-1")
            if other is not None and not other.accepted:
                service.accept(other, CAROL.device_id, "user", None)
                answered.append(other.call_id)
            await tell(call, *more)

        monkeypatch.setattr(service._announcer, "end", end)
        mock_clock.jump(service.limits.ring_timeout + 1)
        await trio.testing.wait_all_tasks_blocked(0.05)

        [going_on] = answered
        assert service.board.find(going_on) is not None
        assert len(service.board) == 1
