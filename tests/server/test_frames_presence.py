"""Presence: told to connected peers and to nobody else, at most once a second for each device."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from commucat_proto import Frame, FrameType
from commucat_server.routing.presence import GATHER_INTERVAL
from server.connect_builders import NOW, Client, Person, Server, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
MALLORY = Person(handle="mallory")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


async def acquainted(server: Server) -> tuple[Client, Client]:
    """Alice and Bob, connected, each with a route to the other."""
    alice, bob = await server.connect(ALICE), await server.connect(BOB)
    await alice.join(CHANNEL, BOB.device_id)
    await bob.join(CHANNEL, ALICE.device_id)
    return alice, bob


async def told(client: Client) -> tuple[str, str]:
    frame = await client.next_presence()
    assert frame.channel == 0
    assert isinstance(frame.control, dict)
    return frame.control["entity"], frame.control["state"]


async def until_told(client: Client, entity: str, state: str) -> Frame:
    """The notice of this state; what was told before it (the other's arrival, perhaps) is passed over."""
    while True:
        frame = await client.next_presence()
        assert isinstance(frame.control, dict)
        if (frame.control["entity"], frame.control["state"]) == (entity, state):
            return frame


async def nothing_more(client: Client) -> list[Frame]:
    await trio.testing.wait_all_tasks_blocked(0.05)
    client.stream.lose()
    while await client.next_frame() is not None:
        pass
    return client.presence


async def test_peer_is_told_in_the_shape_that_clients_read(server: Server) -> None:
    alice, bob = await acquainted(server)

    alice.send(FrameType.PRESENCE, 0, {"state": "away"})

    frame = await until_told(bob, ALICE.device_id, "away")
    assert frame.control == {
        "entity": ALICE.device_id,
        "state": "away",
        "expires_at": "2027-01-15T08:00:30+00:00",
        "user": {
            "id": alice.ack["user_id"],
            "user_id": alice.ack["user_id"],
            "handle": "alice",
            "display_name": None,
            "avatar_url": None,
        },
    }
    assert NOW + 30 == 1_800_000_030


async def test_connect_and_disconnect_are_told_and_the_newcomer_learns_who_is_here(server: Server) -> None:
    alice, bob = await acquainted(server)
    alice.stream.lose()
    await until_told(bob, ALICE.device_id, "offline")

    again = await server.connect(ALICE)

    assert await told(again) == (BOB.device_id, "online")
    assert await told(bob) == (ALICE.device_id, "online")


async def test_newer_session_of_a_device_is_no_absence(server: Server) -> None:
    _, bob = await acquainted(server)

    newer = await server.connect(ALICE)
    await told(newer)  # In the same breath as Bob was told.

    states = [frame.control["state"] for frame in await nothing_more(bob)]  # type: ignore[index, call-overload]
    assert states
    assert set(states) == {"online"}


async def test_strangers_are_told_nothing(server: Server) -> None:
    alice, bob = await acquainted(server)
    mallory = await server.connect(MALLORY)
    await mallory.join(CHANNEL, ALICE.device_id, BOB.device_id)  # One-sided: nobody asked for it.

    alice.send(FrameType.PRESENCE, 0, {"state": "away"})
    await until_told(bob, ALICE.device_id, "away")

    assert await nothing_more(mallory) == []


async def test_members_of_a_group_are_peers(server: Server) -> None:
    alice, bob = await server.connect(ALICE), await server.connect(BOB)
    await alice.answer(
        alice.send(FrameType.GROUP_CREATE, CHANNEL, {"group_id": "g", "members": [BOB.device_id]})
    )
    await bob.answer(bob.send(FrameType.JOIN, CHANNEL, {"group_id": "g"}))

    alice.send(FrameType.PRESENCE, 0, {"state": "busy"})

    await until_told(bob, ALICE.device_id, "busy")


async def test_a_second_of_changes_is_one_notice_of_the_newest(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with running_server(tmp_path) as server:
        alice, bob = await acquainted(server)
        alice.send(FrameType.PRESENCE, 0, {"state": "zero"})
        await alice.join(CHANNEL, BOB.device_id)
        mock_clock.jump(2.0)
        await until_told(bob, ALICE.device_id, "zero")
        mock_clock.jump(2.0)
        for state in ("one", "two", "three", "four"):
            alice.send(FrameType.PRESENCE, 0, {"state": state})
            await alice.join(CHANNEL, BOB.device_id)  # Answered: the state has arrived.
            if state == "one":
                mock_clock.jump(2 * GATHER_INTERVAL)
                await until_told(bob, ALICE.device_id, "one")
        mock_clock.jump(1.5)

        assert await told(bob) == (ALICE.device_id, "four")
        mock_clock.jump(5.0)


async def test_changes_that_come_together_are_one_look_at_the_store(
    tmp_path: Path, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_server(tmp_path) as server:
        alice, bob = await acquainted(server)
        mock_clock.jump(2 * GATHER_INTERVAL)
        await until_told(bob, ALICE.device_id, "online")
        mock_clock.jump(5.0)
        storage = server.context.storage
        looks: list[set[str]] = []
        peers_of_each = storage.peers_of_each

        async def seen(device_ids: Sequence[str], limit: int) -> tuple[tuple[str, ...], ...]:
            looks.append(set(device_ids))
            return await peers_of_each(device_ids, limit)

        monkeypatch.setattr(storage, "peers_of_each", seen)
        for client, peer in ((alice, BOB), (bob, ALICE)):
            client.send(FrameType.PRESENCE, 0, {"state": "away"})
            await client.join(CHANNEL, peer.device_id)  # Answered: the state has arrived.
        assert looks == []

        mock_clock.jump(2 * GATHER_INTERVAL)
        await until_told(bob, ALICE.device_id, "away")

        assert looks == [{ALICE.device_id, BOB.device_id}]
        mock_clock.jump(5.0)


async def test_a_device_that_moves_before_its_news_is_told_ends_nothing(server: Server) -> None:
    board = server.context.presence
    await board.publish("wanderer", "away")
    await trio.testing.wait_all_tasks_blocked()  # news are being gathered
    board.move("wanderer")
    await trio.sleep(2 * GATHER_INTERVAL)  # nothing can be seen of news that nobody is told

    alice, bob = await acquainted(server)
    alice.send(FrameType.PRESENCE, 0, {"state": "away"})
    await until_told(bob, ALICE.device_id, "away")
