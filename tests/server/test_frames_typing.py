"""Typing: for whoever is connected now, with the sender's device in it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from commucat_proto import SEND_ONLY, FrameType
from commucat_server.routing.live import NOTICES_BYTES
from server.connect_builders import Client, MemoryConnectStream, Person, Server, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


async def types(client: Client, value: Any) -> dict[str, Any]:
    return await client.answer(client.send(FrameType.TYPING, CHANNEL, value))


@pytest.mark.parametrize("extra", [{}, {"device": ALICE.device_id}], ids=["absent", "own"])
async def test_receiver_learns_whose_typing_it_is(server: Server, extra: dict[str, Any]) -> None:
    bob, alice = await server.connect(BOB), await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)

    assert await types(alice, {"typing": True, "ttl_ms": 500, **extra}) == {"ack": 4}

    frame = await bob.next_of(FrameType.TYPING)
    assert (frame.channel, frame.sequence) == (CHANNEL, 3)  # of the connection, no inbox number
    assert frame.control == {"device": ALICE.device_id, "typing": True, "ttl_ms": 500}


async def test_typing_for_somebody_away_is_acknowledged_and_gone(server: Server) -> None:
    (await server.connect(BOB)).stream.lose()
    await trio.testing.wait_all_tasks_blocked()
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    assert await types(alice, {}) == {"ack": 4}
    await alice.message(CHANNEL, b"text")

    bob = await server.connect(BOB)

    first = await bob.next_frame()
    assert first is not None
    assert (first.type, first.sequence) == (FrameType.MSG, 1)


async def test_foreign_device_in_typing_is_refused(server: Server) -> None:
    alice = await server.connect(ALICE)

    assert (await types(alice, {"device": "device-of-bob"}))["error"] == "bad_request"


async def test_typing_needs_a_route_and_a_willing_recipient(server: Server) -> None:
    bob, alice = await server.connect(BOB), await server.connect(ALICE)
    await bob.join(CHANNEL, "somebody-else")
    assert (await types(alice, {}))["error"] == "no_route"
    await alice.join(CHANNEL, BOB.device_id)

    answer = await types(alice, {})

    assert (answer["error"], answer["ref"]) == ("channel_conflict", 5)


async def test_send_only_session_gets_none(server: Server) -> None:
    bob = await server.connect(BOB, capabilities=(SEND_ONLY,))
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    await types(alice, {})
    await bob.join(CHANNEL, ALICE.device_id)

    assert server.context.counters.live_delivered == 0


async def test_receiver_that_does_not_read_loses_typing_and_nobody_waits(server: Server) -> None:
    alice = await server.connect(ALICE)
    bob = await server.connect(BOB, stream=MemoryConnectStream(room=1))  # Takes more only when it reads.
    await alice.join(CHANNEL, BOB.device_id)
    label = "x" * 60_000
    sent = 2 * NOTICES_BYTES // 60_000
    for _ in range(sent):
        assert "ack" in await types(alice, {"label": label})

    assert server.context.counters.live_dropped >= sent // 3
    assert server.context.counters.live_delivered <= sent
    assert "ack" in await alice.message(CHANNEL, b"kept")
    assert (await bob.next_of(FrameType.MSG)).payload == b"kept"
