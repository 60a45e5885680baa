"""Join where rooms are open: whoever joins a number talks with everybody else who did."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from commucat_proto import FrameType
from commucat_storage import SqliteSettings, room_id
from server.connect_builders import Client, Person, Server, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CAROL = Person(handle="carol")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(
        tmp_path, settings={"open_join": True}, sqlite=SqliteSettings(max_group_members=3)
    ) as server:
        yield server


async def inside(server: Server, *people: Person) -> list[Client]:
    """Connected, and in the room, each by a Join that names only itself."""
    clients = [await server.connect(person) for person in people]
    for client, person in zip(clients, people, strict=True):
        assert set(await client.join(CHANNEL, person.device_id)) == {"ack"}
    return clients


async def test_those_in_the_room_talk(server: Server) -> None:
    alice, bob, carol = await inside(server, ALICE, BOB, CAROL)

    assert set(await bob.message(CHANNEL, b"meow")) == {"ack"}

    for listener in (alice, carol):
        frame = await listener.next_of(FrameType.MSG)
        assert (frame.channel, frame.payload) == (CHANNEL, b"meow")


async def test_live_frames_reach_the_room(server: Server) -> None:
    alice, bob = await inside(server, ALICE, BOB)

    await alice.answer(alice.send(FrameType.TYPING, CHANNEL, {"typing": True}))

    assert (await bob.next_of(FrameType.TYPING)).control == {"device": ALICE.device_id, "typing": True}


async def test_leave_ends_it_for_the_sender_alone(server: Server) -> None:
    alice, bob, carol = await inside(server, ALICE, BOB, CAROL)

    await carol.answer(carol.send(FrameType.LEAVE, CHANNEL, {}))

    assert (await carol.message(CHANNEL, b"outside"))["error"] == "no_route"
    assert set(await alice.message(CHANNEL, b"inside")) == {"ack"}
    assert (await bob.next_of(FrameType.MSG)).payload == b"inside"
    state = await server.storage.inbox_state(CAROL.device_id)
    assert state is not None
    assert state.next_number == 1


async def test_a_group_can_still_be_joined(server: Server) -> None:
    alice, bob = await inside(server, ALICE, BOB)
    members = {"group_id": "g", "members": [BOB.device_id]}
    await alice.answer(alice.send(FrameType.GROUP_CREATE, CHANNEL, members))

    # Bob's number leads to the room, which alice has left for the group.
    assert (await alice.message(CHANNEL, b"grouped"))["error"] == "channel_conflict"
    await bob.answer(bob.send(FrameType.JOIN, CHANNEL, {"group_id": "g"}))
    assert set(await alice.message(CHANNEL, b"grouped")) == {"ack"}


async def test_too_many_are_refused(server: Server) -> None:
    [alice] = await inside(server, ALICE)
    people = [Person(handle=f"p{number}") for number in range(3)]
    for person in people:
        (await server.connect(person)).stream.lose()

    answer = await alice.join(CHANNEL, *[person.device_id for person in people])

    assert answer["error"] == "group_full"
    assert (await alice.join(CHANNEL, *[f"ghost-{n}" for n in range(513)]))["error"] == "bad_request"


@pytest.mark.parametrize(
    ("frame_type", "members"),
    [
        (FrameType.JOIN, {}),
        (FrameType.GROUP_CREATE, {}),
        (FrameType.GROUP_INVITE, {"device": CAROL.device_id}),
        (FrameType.GROUP_EVENT, {"event": "leave"}),
        (FrameType.GROUP_EVENT, {"event": "remove", "device": BOB.device_id}),
        (FrameType.GROUP_EVENT, {"event": "greeting"}),
    ],
)
async def test_no_frame_can_name_a_room(server: Server, frame_type: FrameType, members: Any) -> None:
    alice, bob = await inside(server, ALICE, BOB)

    answer = await alice.answer(alice.send(frame_type, CHANNEL, {"group_id": room_id(CHANNEL), **members}))

    assert answer["error"] == "bad_request"
    assert set(await bob.message(CHANNEL, b"still here")) == {"ack"}
