"""What a session with capability self-copy sends reaches its user's other devices, too."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from commucat_proto import DELIVERY_ACK, DELIVERY_STATUS, SELF_COPY, FrameType
from server.connect_builders import Client, Person, Server, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
TABLET = Person(handle="alice", device_id="alice-tablet")
BOB = Person(handle="bob")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    policy = {"join_by_handle": True, "max_auto_devices_per_user": 2}
    async with running_server(tmp_path, policy=policy) as server:
        for person in (ALICE, TABLET, BOB):
            (await server.connect(person)).stream.lose()
        await trio.testing.wait_all_tasks_blocked()
        yield server


async def alice_to_bob(server: Server, *capabilities: str) -> Client:
    alice = await server.connect(ALICE, capabilities=(DELIVERY_ACK, *capabilities))
    assert "ack" in await alice.join(CHANNEL, BOB.device_id)
    return alice


async def next_message(client: Client) -> tuple[int, int, bytes]:
    frame = await client.next_of(FrameType.MSG)
    return frame.channel, frame.sequence, frame.payload


async def nothing(client: Client) -> bool:
    await trio.testing.wait_all_tasks_blocked(0.05)
    client.stream.lose()
    return await client.next_frame() is None


async def test_a_connected_sibling_gets_the_message_as_the_receiver_does(server: Server) -> None:
    tablet, bob = await server.connect(TABLET), await server.connect(BOB)
    alice = await alice_to_bob(server, SELF_COPY)

    assert await alice.message(CHANNEL, b"hello") == {"ack": 4}

    assert await next_message(tablet) == await next_message(bob) == (CHANNEL, 1, b"hello")


async def test_a_copy_waits_for_a_sibling_that_is_away(server: Server) -> None:
    alice = await alice_to_bob(server, SELF_COPY)
    await alice.message(CHANNEL, b"hello")

    assert await next_message(await server.connect(TABLET)) == (CHANNEL, 1, b"hello")


async def test_without_the_capability_there_is_no_copy(server: Server) -> None:
    tablet = await server.connect(TABLET)
    alice = await alice_to_bob(server)
    await alice.message(CHANNEL, b"hello")

    assert await nothing(tablet)


async def test_key_updates_are_copied_and_calls_are_not(server: Server) -> None:
    tablet = await server.connect(TABLET)
    alice = await alice_to_bob(server, SELF_COPY)
    await alice.answer(alice.send(FrameType.KEY_UPDATE, CHANNEL, {"any": "object"}))
    offer = {"call_id": "c", "from": ALICE.device_id, "to": [BOB.device_id]}
    assert "ack" in await alice.answer(alice.send(FrameType.CALL_OFFER, CHANNEL, offer))

    assert (await tablet.next_of(FrameType.KEY_UPDATE)).control == {"any": "object"}
    assert await nothing(tablet)


async def test_a_sibling_with_a_conversation_of_its_own_there_is_named(server: Server) -> None:
    tablet = await server.connect(TABLET)
    await tablet.join(CHANNEL, BOB.device_id)
    alice = await alice_to_bob(server, SELF_COPY)

    answer = await alice.message(CHANNEL, b"hello")

    assert answer == {"ack": 4, "refused": [{"device": TABLET.device_id, "reason": "channel_conflict"}]}
    assert await nothing(tablet)


async def test_when_nobody_else_accepts_there_is_no_copy(server: Server) -> None:
    tablet = await server.connect(TABLET)
    alice = await alice_to_bob(server, SELF_COPY)
    await alice.join(CHANNEL, "ghost")

    answer = await alice.message(CHANNEL, b"hello")

    assert (answer["error"], answer["refused"]) == (
        "unknown_device",
        [{"device": "ghost", "reason": "unknown_device"}],
    )
    assert await nothing(tablet)


async def test_copies_are_neither_named_as_stored_nor_reported(server: Server) -> None:
    tablet = await server.connect(TABLET)
    alice = await alice_to_bob(server, SELF_COPY, DELIVERY_STATUS)

    assert (await alice.message(CHANNEL, b"hello"))["stored"] == [BOB.device_id]

    tablet.send(FrameType.ACK, 0, {"ack": (await next_message(tablet))[1]})
    assert await nothing(alice)
