"""A session begins where the store stands, whatever is committed while it comes in."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from commucat_proto import FrameType
from commucat_server.routing.registry import Registry
from commucat_storage import Admission, Admitted, InboxPage
from server.connect_builders import Client, Person, Server, running_server

CHANNEL = 7
ALICE, BOB = Person(handle="alice"), Person(handle="bob")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


async def sender(server: Server) -> Client:
    """Alice, with a route to bob, who has been here."""
    bob = await server.connect(BOB)
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    bob.stream.lose()
    return alice


def count_reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices whose inbox is looked at, from now on."""
    looked: list[str] = []
    read_after = server.storage.read_after

    async def read(device_id: str, *args: Any, **options: Any) -> InboxPage:
        looked.append(device_id)
        return await read_after(device_id, *args, **options)

    monkeypatch.setattr(server.storage, "read_after", read)
    return looked


def send_after_admissions(server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice's message is committed when a device is admitted but has no session yet."""
    admit = server.storage.admit

    async def admit_and_send(admission: Admission) -> Admitted:
        admitted = await admit(admission)
        await alice.message(CHANNEL, b"between")
        return admitted

    monkeypatch.setattr(server.storage, "admit", admit_and_send)


async def test_a_message_between_admission_and_session_is_delivered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await sender(server)
    send_after_admissions(server, alice, monkeypatch)

    bob = await server.connect(BOB)

    message = await bob.next_of(FrameType.MSG)
    assert (message.sequence, message.payload) == (1, b"between")


async def test_so_it_is_when_an_older_session_takes_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await sender(server)
    older = await server.connect(BOB)
    send_after_admissions(server, alice, monkeypatch)

    bob = await server.connect(BOB)

    assert (await bob.next_of(FrameType.MSG)).payload == b"between"
    assert (await older.next_of(FrameType.MSG)).payload == b"between"


async def test_nobody_looks_for_messages_where_there_are_none(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await sender(server)
    looked = count_reads(server, monkeypatch)

    bob = await server.connect(BOB)
    await alice.message(CHANNEL, b"now")

    assert (await bob.next_of(FrameType.MSG)).payload == b"now"
    assert looked == []


async def test_what_waits_is_looked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await sender(server)
    await alice.message(CHANNEL, b"before")
    looked = count_reads(server, monkeypatch)

    bob = await server.connect(BOB)

    assert (await bob.next_of(FrameType.MSG)).payload == b"before"
    assert looked == [BOB.device_id]


def test_an_arrival_notices_its_device_until_it_ends() -> None:
    registry = Registry()
    first, second, other = registry.expect("bob"), registry.expect("bob"), registry.expect("eve")

    registry.committed("bob", 4)
    first.end()
    first.end()
    registry.committed("bob", 5)
    second.end()
    registry.committed("bob", 6)

    assert (first.head, second.head, other.head) == (4, 5, 0)


async def test_a_refused_admission_leaves_no_arrival(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = []
    expect = server.context.registry.expect
    monkeypatch.setattr(
        server.context.registry, "expect", lambda name: expected.append(expect(name)) or expected[-1]
    )
    await server.connect(BOB)
    thief = Person(handle="bob", device_id="another")

    assert (await server.connect(thief)).refused is not None

    for each in ("another", BOB.device_id):
        server.context.registry.committed(each, 9)
    assert [arrival.head for arrival in expected] == [0, 0]
