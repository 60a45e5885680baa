"""Senders that ask are told what became of their messages (capability delivery-status)."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_proto import (
    DELIVERY_ACK,
    DELIVERY_STATUS,
    SEND_ONLY,
    FrameType,
    Resume,
    read_delivery_report,
)
from commucat_storage import SqliteSettings
from commucat_storage.sqlite import expiry
from server.connect_builders import NOW, Client, Person, Server, running_server, upkeep_of

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CAROL = Person(handle="carol")
ASKS = (DELIVERY_ACK, DELIVERY_STATUS)


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
async def server(tmp_path: Path, clock: Time) -> AsyncIterator[Server]:
    async with running_server(tmp_path, clock=clock) as server:
        yield server


async def asker(server: Server, *members: Person, **changes: Any) -> Client:
    """Alice, who wants reports, with a route on CHANNEL."""
    for member in members:
        if await server.storage.load_device(member.device_id) is None:
            (await server.connect(member)).stream.lose()
    await trio.testing.wait_all_tasks_blocked()
    alice = await server.connect(ALICE, **({"capabilities": ASKS} | changes))
    assert "ack" in await alice.join(CHANNEL, *(member.device_id for member in members))
    return alice


async def take(client: Client, count: int) -> int:
    """Messages for the client; the number of the last one."""
    number = 0
    for _ in range(count):
        number = (await client.next_of(FrameType.MSG)).sequence
    return number


def confirm(client: Client, number: int) -> None:
    client.send(FrameType.ACK, 0, {"ack": number})


async def report(client: Client) -> dict[str, Any]:
    """The next report, as it came."""
    frame = await client.next_of(FrameType.GROUP_EVENT)
    assert read_delivery_report(frame) is not None
    return dict(frame.control)  # type: ignore[arg-type]


def delivered(device: Person, *messages: str, channel: int = CHANNEL) -> dict[str, Any]:
    return {
        "event": "delivery-status",
        "status": "delivered",
        "device": device.device_id,
        "channel": channel,
        "messages": list(messages),
    }


def expired(device: Person, reason: str, *messages: str) -> dict[str, Any]:
    return delivered(device, *messages) | {"status": "expired", "reason": reason}


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not holds():
            await trio.lowlevel.checkpoint()


async def nothing_more(client: Client) -> bool:
    await trio.testing.wait_all_tasks_blocked(0.05)
    with trio.move_on_after(0):
        await client.next_frame()
        return False
    return True


# -- stored ---------------------------------------------------------------------------------------------


async def test_the_ack_names_the_message_and_who_has_it(server: Server) -> None:
    alice = await asker(server, BOB, CAROL)
    await alice.join(CHANNEL, BOB.device_id, CAROL.device_id, "ghost")

    first, second = await alice.message(CHANNEL, b"one"), await alice.message(CHANNEL, b"two")

    assert first["stored"] == sorted([BOB.device_id, CAROL.device_id])
    assert first["refused"] == [{"device": "ghost", "reason": "unknown_device"}]
    assert len(first["message"]) == len(second["message"]) == 32
    assert bytes.fromhex(first["message"]) != bytes.fromhex(second["message"])


async def test_a_refused_message_has_no_id(server: Server) -> None:
    alice = await asker(server, BOB)
    await alice.join(CHANNEL, "ghost")

    answer = await alice.message(CHANNEL, b"x")

    assert answer["error"] == "unknown_device"
    assert not {"message", "stored"} & set(answer)


async def test_who_does_not_ask_is_told_nothing(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await asker(server, BOB, capabilities=(DELIVERY_ACK,))

    assert set(await alice.message(CHANNEL, b"x")) == {"ack"}
    confirm(bob, await take(bob, 1))

    assert await nothing_more(alice)


async def test_more_devices_than_fit_the_ack_are_counted(server: Server) -> None:
    people = [Person(handle=f"p{n}", device_id="\U0001f600" * 127 + chr(0x4E00 + n)) for n in range(260)]
    alice = await asker(server, *people)

    answer = await alice.message(CHANNEL, b"x")

    assert len(answer["stored"]) + answer["stored_more"] == 260
    assert len(answer["stored"]) > 200


# -- delivered ------------------------------------------------------------------------------------------


async def test_an_ack_of_the_receiver_is_reported_without_its_number(server: Server) -> None:
    bob = await server.connect(BOB)
    other = await server.connect(CAROL)
    await other.join(3, BOB.device_id)
    await other.message(3, b"the first in bob's inbox")
    alice = await asker(server, BOB)
    sent = await alice.message(CHANNEL, b"x")

    confirm(bob, await take(bob, 2))

    assert await report(alice) == delivered(BOB, sent["message"])
    assert await nothing_more(other)


async def test_one_confirmation_of_many_is_one_report(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await asker(server, BOB)
    sent = [(await alice.message(CHANNEL, b"x"))["message"] for _ in range(500)]

    confirm(bob, await take(bob, 500))

    assert await report(alice) == delivered(BOB, *sent)
    assert server.context.counters.reports_stored == 1


async def test_each_receiver_is_reported(server: Server) -> None:
    bob, carol = await server.connect(BOB), await server.connect(CAROL)
    alice = await asker(server, BOB, CAROL)
    sent = (await alice.message(CHANNEL, b"x"))["message"]

    confirm(bob, await take(bob, 1))
    assert await report(alice) == delivered(BOB, sent)
    confirm(carol, await take(carol, 1))
    assert await report(alice) == delivered(CAROL, sent)


async def test_a_resume_confirms_and_is_reported(server: Server) -> None:
    alice = await asker(server, BOB)
    sent = [(await alice.message(CHANNEL, b"x"))["message"] for _ in range(3)]
    bob = await server.connect(BOB)
    number = await take(bob, 2)
    bob.stream.lose()

    await server.connect(BOB, resume=Resume(bob.epoch, number))

    assert await report(alice) == delivered(BOB, *sent[:2])


async def test_a_confirmation_by_the_transport_is_reported(server: Server) -> None:
    alice = await asker(server, BOB)
    sent = (await alice.message(CHANNEL, b"x"))["message"]

    await take(await server.connect(BOB, capabilities=()), 1)

    assert await report(alice) == delivered(BOB, sent)


async def test_a_report_waits_for_a_sender_that_is_away(server: Server) -> None:
    alice = await asker(server, BOB, capabilities=(*ASKS, SEND_ONLY))
    sent = (await alice.message(CHANNEL, b"x"))["message"]
    alice.stream.lose()
    bob = await server.connect(BOB)
    confirm(bob, await take(bob, 1))
    await trio.testing.wait_all_tasks_blocked(0.05)

    # Whether this session asks for reports does not matter: the one that sent did.
    again = await server.connect(ALICE)
    frame = await again.next_of(FrameType.GROUP_EVENT)

    assert (frame.channel, frame.sequence) == (0, 1)
    assert frame.control == delivered(BOB, sent)
    confirm(again, 1)
    assert await nothing_more(again)


async def test_reports_are_not_reported(server: Server) -> None:
    bob = await server.connect(BOB, capabilities=ASKS)
    alice = await asker(server, BOB)
    await alice.message(CHANNEL, b"x")
    confirm(bob, await take(bob, 1))
    frame = await alice.next_of(FrameType.GROUP_EVENT)

    confirm(alice, frame.sequence)

    assert await nothing_more(alice)
    assert await nothing_more(bob)
    assert server.context.counters.reports_stored == 1


async def send_key_update(client: Client) -> int:
    return client.send(FrameType.KEY_UPDATE, CHANNEL, {"any": "object"})


async def send_group_event(client: Client) -> int:
    members = {"group_id": "g", "members": [BOB.device_id]}
    assert "ack" in await client.answer(client.send(FrameType.GROUP_CREATE, CHANNEL, members))
    return client.send(FrameType.GROUP_EVENT, CHANNEL, {"group_id": "g", "event": "wave"})


async def send_offer(client: Client) -> int:
    offer = {"call_id": "c", "from": ALICE.device_id, "to": [BOB.device_id]}
    return client.send(FrameType.CALL_OFFER, CHANNEL, offer)


@pytest.mark.parametrize("send", [send_key_update, send_group_event, send_offer])
async def test_other_durable_frames_along_a_route_are_reported(
    server: Server, send: Callable[..., Any]
) -> None:
    bob = await server.connect(BOB)
    alice = await asker(server, BOB)
    answer = await alice.answer(await send(alice))
    assert answer["stored"] == [BOB.device_id]

    number = 0
    while number < (await server.storage.inbox_state(BOB.device_id)).next_number - 1:  # type: ignore[union-attr]
        frame = await bob.next_frame()
        assert frame is not None
        number = frame.sequence if frame.type is not FrameType.ACK else number
    confirm(bob, number)

    assert await report(alice) == delivered(BOB, answer["message"])


# -- expired --------------------------------------------------------------------------------------------


async def test_expiry_is_reported(server: Server, clock: Time) -> None:
    alice = await asker(server, BOB)
    sent = [(await alice.message(CHANNEL, b"x"))["message"] for _ in range(3)]
    clock.now += 86_400

    await upkeep_of(server).purge()

    assert await report(alice) == expired(BOB, "ttl", *sent)


async def test_revocation_of_the_receiver_is_reported(server: Server) -> None:
    alice = await asker(server, BOB)
    sent = (await alice.message(CHANNEL, b"x"))["message"]
    await server.storage.revoke_device(BOB.device_id, NOW)

    await upkeep_of(server).purge()

    assert await report(alice) == expired(BOB, "revoked", sent)


async def test_a_purge_goes_on_until_everything_expired_is_told(
    server: Server, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "LONG_REPORT", 10)
    monkeypatch.setattr(expiry, "STEP_ROWS", 10)
    alice = await asker(server, BOB)
    sent = [(await alice.message(CHANNEL, b"x"))["message"] for _ in range(35)]
    clock.now += 86_400

    await upkeep_of(server).purge()

    told: list[str] = []
    while len(told) < 35:
        told += (await report(alice))["messages"]
    assert sorted(told) == sorted(sent)
    assert server.context.counters.messages_expired == 35


async def test_what_was_passed_over_because_its_time_was_over_is_not_called_delivered(
    server: Server, clock: Time
) -> None:
    alice = await asker(server, BOB)
    old = (await alice.message(CHANNEL, b"old"))["message"]
    clock.now += 86_400
    new = (await alice.message(CHANNEL, b"new"))["message"]
    bob = await server.connect(BOB)

    frame = await bob.next_of(FrameType.MSG)
    assert (frame.payload, frame.sequence) == (b"new", 2)
    confirm(bob, 2)

    assert await report(alice) == expired(BOB, "ttl", old)
    assert await report(alice) == delivered(BOB, new)


# -- no forgery, no harm --------------------------------------------------------------------------------


async def test_clients_cannot_send_reports(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await asker(server, BOB)
    for channel in (0, CHANNEL):
        created = {"group_id": f"g{channel}", "members": [BOB.device_id]}
        await alice.answer(alice.send(FrameType.GROUP_CREATE, channel, created))
        await bob.next_of(FrameType.GROUP_CREATE)
        forged = delivered(BOB, "0" * 32) | {"group_id": f"g{channel}"}

        answer = await alice.answer(alice.send(FrameType.GROUP_EVENT, channel, forged))

        assert (answer["error"], answer["detail"]) == (
            "bad_request",
            "delivery-status is an event of the server",
        )
    assert await nothing_more(bob)


async def test_a_sender_without_room_loses_its_reports_and_nobody_else_anything(tmp_path: Path) -> None:
    async with running_server(tmp_path, sqlite=SqliteSettings(max_rows=2)) as server:
        alice = await asker(server, BOB, capabilities=(*ASKS, SEND_ONLY))
        bob = await server.connect(BOB)
        counters = server.context.counters
        for count in range(1, 5):
            await alice.message(CHANNEL, b"x")
            confirm(bob, await take(bob, 1))
            await until(lambda: counters.reports_stored + counters.reports_refused == count)  # noqa: B023

        state = await server.storage.inbox_state(BOB.device_id)
        assert state is not None
        assert state.confirmed == 4
        assert (counters.reports_stored, counters.reports_refused) == (2, 2)


async def test_a_revoked_sender_is_told_nothing(server: Server) -> None:
    alice = await asker(server, BOB)
    bob = await server.connect(BOB)
    await alice.message(CHANNEL, b"x")
    await server.storage.revoke_device(ALICE.device_id, NOW)

    confirm(bob, await take(bob, 1))

    await until(lambda: server.context.counters.reports_refused == 1)
    assert server.context.counters.reports_stored == 0


async def test_the_operator_can_switch_it_off(tmp_path: Path) -> None:
    async with running_server(tmp_path, settings={"delivery_status": False}) as server:
        bob = await server.connect(BOB)
        alice = await asker(server, BOB)
        assert DELIVERY_STATUS not in alice.ack["capabilities"]

        assert set(await alice.message(CHANNEL, b"x")) == {"ack"}

        confirm(bob, await take(bob, 1))
        assert await nothing_more(alice)


async def test_the_final_ack_names_the_capabilities(server: Server) -> None:
    alice = await server.connect(ALICE)

    assert alice.ack["capabilities"] == [
        "call-media",
        "delivery-ack",
        "delivery-status",
        "self-copy",
        "send-only",
    ]


async def test_what_was_confirmed_right_before_the_server_stops_is_reported(tmp_path: Path) -> None:
    """The confirmation still waits for company when everything is taken down."""
    async with running_server(tmp_path, sqlite=SqliteSettings(confirm_delay=1e9)) as server:
        alice = await asker(server, BOB)
        sent = (await alice.message(CHANNEL, b"x"))["message"]
        bob = await server.connect(BOB)
        confirm(bob, await take(bob, 1))
        await trio.testing.wait_all_tasks_blocked(0.05)

    async with running_server(tmp_path) as server:
        with trio.fail_after(60):
            assert await report(await server.connect(ALICE)) == delivered(BOB, sent)
