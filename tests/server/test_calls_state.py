"""What becomes of calls when devices go and come back, when a user has several, and at the limits."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_proto import FrameType
from commucat_server.calls import rows
from commucat_server.calls.limits import CallLimits
from commucat_server.calls.rows import TRACKS_INTERVAL
from commucat_storage import CallRow, CommitFailedError, StorageError
from server.connect_builders import Client, Person, Server, running_server

CHANNEL = 7
CALL = "call-1"
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CAROL = Person(handle="carol")
DAVE = Person(handle="dave")
PHONE = Person(handle="bob", device_id="phone-of-bob")
TABLET = Person(handle="bob", device_id="tablet-of-bob")
BY_HANDLE = {"join_by_handle": True, "max_auto_devices_per_user": 9}


@asynccontextmanager
async def serving(path: Path, **limits: Any) -> AsyncIterator[Server]:
    async with running_server(path, policy=BY_HANDLE, calls=CallLimits(**limits)) as server:
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path) as server:
        yield server


async def ask(client: Client, frame_type: FrameType, value: Any, channel: int = CHANNEL) -> dict[str, Any]:
    return await client.answer(client.send(frame_type, channel, value))


async def people(server: Server, *everybody: Person) -> list[Client]:
    """All of them, connected, with routes to all others."""
    clients = [await server.connect(person) for person in everybody]
    for client, person in zip(clients, everybody, strict=True):
        await client.join(CHANNEL, *(each.device_id for each in everybody if each is not person))
    return clients


async def offer(client: Client, call_id: str = CALL, sender: Person = ALICE, **more: Any) -> dict[str, Any]:
    value = {"call_id": call_id, "from": sender.device_id, "to": [], **more}
    return await ask(client, FrameType.CALL_OFFER, value)


async def answer(client: Client, accept: bool = True, call_id: str = CALL, **more: Any) -> dict[str, Any]:
    return await ask(client, FrameType.CALL_ANSWER, {"call_id": call_id, "accept": accept, **more})


async def told(client: Client, frame_type: FrameType) -> dict[str, Any]:
    frame = await client.next_of(frame_type)
    assert frame.channel == CHANNEL
    assert isinstance(frame.control, dict)
    return frame.control


def system_end(reason: str, cause: str, *device: Person) -> dict[str, Any]:
    metadata: dict[str, Any] = {"system": True, "cause": cause}
    if device:
        metadata["device"] = device[0].device_id
    return {"call_id": CALL, "reason": reason, "metadata": metadata}


async def lose(client: Client) -> None:
    client.stream.lose()
    await trio.testing.wait_all_tasks_blocked()


async def stored(server: Server) -> dict[str, CallRow]:
    """The rows of the table, when everything that waits is in it."""
    writer = server.context.calls.rows
    while writer.waiting:
        await trio.lowlevel.checkpoint()
    await writer.flush()  # Statistics would gather for a while.
    return {row.call_id: row for row in await server.storage.list_calls(limit=10_000, ended=True)}


@pytest.fixture
def broken(server: Server) -> Iterator[pytest.MonkeyPatch]:
    """The store takes no calls, and whatever else comes to it."""
    with pytest.MonkeyPatch.context() as patch:

        async def fail(*_: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise CommitFailedError("disk full")

        patch.setattr(server.storage, "store_calls", fail)
        yield patch


# -- away and back ---------------------------------------------------------------------------------


async def test_device_that_comes_back_in_time_is_in_the_call_still(
    server: Server, mock_clock: trio.testing.MockClock
) -> None:
    alice, bob = await people(server, ALICE, BOB)
    await offer(alice)
    await answer(bob)

    await lose(bob)
    mock_clock.jump(server.context.calls.limits.grace - 2)
    await trio.testing.wait_all_tasks_blocked()
    bob = await server.connect(BOB)
    mock_clock.jump(10)
    await trio.testing.wait_all_tasks_blocked()

    stats = {"call_id": CALL, "direction": "receive"}
    assert "ack" in await ask(bob, FrameType.CALL_STATS, stats)
    assert (await told(alice, FrameType.CALL_STATS))["call_id"] == CALL


async def test_absence_of_one_of_three_is_told_and_the_call_goes_on(
    server: Server, mock_clock: trio.testing.MockClock
) -> None:
    alice, bob, carol = await people(server, ALICE, BOB, CAROL)
    await offer(alice)
    await answer(bob)
    await answer(carol)

    await lose(alice)  # Also the one who began it.
    mock_clock.jump(server.context.calls.limits.grace + 1)

    left = {
        "system": True,
        "cause": "disconnect",
        "device": ALICE.device_id,
    }
    for client in (bob, carol):
        while (said := await told(client, FrameType.CALL_ANSWER)).get("metadata") != left:
            assert said["accept"] is True
        assert (said["accept"], said["reason"]) == (False, "timeout")
    alice = await server.connect(ALICE)
    assert await told(alice, FrameType.CALL_END) == system_end("failure", "disconnect", ALICE)
    refused = await ask(alice, FrameType.CALL_STATS, {"call_id": CALL, "direction": "send"})
    assert refused["error"] == "not_participant"
    assert "ack" in await ask(bob, FrameType.CALL_STATS, {"call_id": CALL, "direction": "send"})
    row = (await stored(server))[CALL]
    assert (row.joined, row.ended_at) == ({BOB.device_id, CAROL.device_id}, None)


async def test_without_grace_the_call_ends_with_the_session(tmp_path: Path) -> None:
    async with serving(tmp_path, grace=0.0) as server:
        alice, bob = await people(server, ALICE, BOB)
        await offer(alice)
        await answer(bob)
        bob.stream.lose()
        assert await told(alice, FrameType.CALL_END) == system_end("failure", "disconnect", BOB)


async def test_call_that_went_on_alone_ends_when_it_would_have_stopped_ringing(
    server: Server, mock_clock: trio.testing.MockClock
) -> None:
    alice, bob, carol = await people(server, ALICE, BOB, CAROL)
    await offer(alice)
    await answer(bob)
    await answer(bob, False)
    mock_clock.jump(59)
    await trio.testing.wait_all_tasks_blocked()
    assert len(server.context.calls.board) == 1
    mock_clock.jump(2)
    for client in (alice, carol):
        assert await told(client, FrameType.CALL_END) == system_end("timeout", "ring_timeout")


# -- several devices of one user -------------------------------------------------------------------


async def test_other_devices_of_who_accepts_are_told_and_only_they(server: Server) -> None:
    alice, bob, phone, carol = await people(server, ALICE, BOB, PHONE, CAROL)
    await offer(alice)
    await answer(bob)

    assert await told(phone, FrameType.CALL_END) == system_end("cancel", "answered_elsewhere", BOB)
    assert (await answer(phone))["error"] == "not_participant"
    assert "ack" in await answer(carol)
    await trio.testing.wait_all_tasks_blocked()
    for client in (alice, carol):
        await lose(client)
        while (frame := await client.next_frame()) is not None:
            assert frame.type is not FrameType.CALL_END


async def test_what_a_person_declines_rings_at_no_device_of_theirs(server: Server) -> None:
    alice, bob, phone, tablet = await people(server, ALICE, BOB, PHONE, TABLET)
    await offer(alice)
    await answer(bob, False, reason="decline")

    for client in (phone, tablet):
        assert await told(client, FrameType.CALL_END) == system_end("cancel", "declined_elsewhere", BOB)
    assert await told(alice, FrameType.CALL_END) == system_end("cancel", "declined", BOB)
    row = (await stored(server))[CALL]
    assert (row.end_reason, row.ended_at is None) == ("decline", False)


@pytest.mark.parametrize("reason", ["busy", "unsupported", "timeout", "error"])
async def test_other_reasons_are_the_devices_own(server: Server, reason: str) -> None:
    alice, bob, phone = await people(server, ALICE, BOB, PHONE)
    await offer(alice)
    await answer(bob, False, reason=reason)
    await trio.testing.wait_all_tasks_blocked()
    assert "ack" in await answer(phone)


async def test_failing_store_leaves_the_other_devices_ringing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_user_id: str) -> None:
        await trio.lowlevel.checkpoint()
        raise StorageError("away")

    alice, bob, phone = await people(server, ALICE, BOB, PHONE)
    await offer(alice)
    monkeypatch.setattr(server.storage, "active_devices", fail)
    await answer(bob)
    await trio.testing.wait_all_tasks_blocked()
    assert (await answer(phone))["error"] == "not_participant"
    await answer(bob, False)
    assert "ack" in await answer(phone)


async def test_of_two_devices_that_answer_at_once_one_is_in_the_call(server: Server) -> None:
    alice, bob, phone = await people(server, ALICE, BOB, PHONE)
    await offer(alice)
    accept = {"call_id": CALL, "accept": True}
    sent = [(each, each.send(FrameType.CALL_ANSWER, CHANNEL, accept)) for each in (bob, phone)]
    answers = [await client.answer(number) for client, number in sent]
    assert sorted(each.get("error", "") for each in answers) == ["", "not_participant"]
    await trio.testing.wait_all_tasks_blocked()
    assert len((await stored(server))[CALL].joined) == 2


# -- busy, strangers, limits -----------------------------------------------------------------------


async def test_busy_device_is_named_and_it_rings_at_the_others(tmp_path: Path) -> None:
    async with serving(tmp_path, call_waiting=False) as server:
        alice, bob, carol, dave = await people(server, ALICE, BOB, CAROL, DAVE)
        await offer(alice)
        await answer(bob)

        second = await offer(dave, "second", DAVE)
        assert second["call_id"] == "second"
        refused = sorted(second["refused"], key=lambda each: str(each["device"]))
        assert refused == [
            {"device": ALICE.device_id, "reason": "busy"},
            {"device": BOB.device_id, "reason": "busy"},
        ]
        while (await told(carol, FrameType.CALL_OFFER))["call_id"] != "second":
            continue

        await dave.join(CHANNEL, BOB.device_id)
        third = await offer(dave, "third", DAVE)
        assert (third["error"], third["refused"]) == (
            "busy",
            [{"device": BOB.device_id, "reason": "busy"}],
        )
        await ask(alice, FrameType.CALL_END, {"call_id": CALL, "reason": "hangup"})
        assert "ack" in await offer(dave, "third", DAVE)


async def test_a_further_call_rings_unless_the_device_is_in_as_many_as_may_be(tmp_path: Path) -> None:
    async with serving(tmp_path, per_device=2) as server:
        alice, bob, dave = await people(server, ALICE, BOB, DAVE)
        await offer(alice)
        await answer(bob)
        assert "refused" not in await offer(dave, "second", DAVE)
        assert "ack" in await answer(bob, call_id="second")
        assert (await offer(bob, "third", BOB))["error"] == "too_many_calls"
        await dave.join(CHANNEL, BOB.device_id)
        assert (await offer(dave, "third", DAVE))["error"] == "busy"


async def test_device_comes_into_no_more_calls_than_it_may(tmp_path: Path) -> None:
    async with serving(tmp_path, per_device=1) as server:
        alice, bob, dave = await people(server, ALICE, BOB, DAVE)
        await offer(alice)
        assert "ack" in await offer(dave, "second", DAVE)
        assert "ack" in await answer(bob)
        assert (await answer(bob, call_id="second"))["error"] == "too_many_calls"


async def test_full_call_takes_nobody_until_somebody_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path, participants=2) as server:
        alice, bob, carol = await people(server, ALICE, BOB, CAROL)
        await offer(alice)
        assert "ack" in await answer(bob)
        assert (await answer(carol))["error"] == "call_full"
        assert "ack" in await answer(bob)  # Once more changes nothing.
        await answer(bob, False)
        assert "ack" in await answer(carol)


async def test_answers_in_one_breath_find_no_more_room_than_there_is(tmp_path: Path) -> None:
    async with serving(tmp_path, participants=2) as server:
        alice, bob, carol = await people(server, ALICE, BOB, CAROL)
        await offer(alice)
        value = {"call_id": CALL, "accept": True}
        sequences = [(client, client.send(FrameType.CALL_ANSWER, CHANNEL, value)) for client in (bob, carol)]
        answers = [await client.answer(sequence) for client, sequence in sequences]
        assert sorted(each.get("error", "") for each in answers) == ["", "call_full"]


async def test_server_has_no_more_calls_than_it_may(tmp_path: Path) -> None:
    async with serving(tmp_path, total=1) as server:
        alice, bob = await people(server, ALICE, BOB)
        assert "ack" in await offer(alice)
        assert (await offer(bob, "second", BOB))["error"] == "server_busy"
        await answer(bob, False)
        assert "ack" in await offer(bob, "second", BOB)


async def test_strangers_ring_unless_they_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, strangers=False) as server:
        alice, bob = await server.connect(ALICE), await server.connect(BOB)
        await alice.join(CHANNEL, BOB.device_id)
        refused = await offer(alice)
        assert (refused["error"], refused["refused"]) == (
            "stranger",
            [{"device": BOB.device_id, "reason": "stranger"}],
        )
        assert "ack" in await alice.message(CHANNEL, b"a message is none")
        await bob.join(CHANNEL, ALICE.device_id)
        assert "ack" in await offer(alice)


async def test_limits_change_while_calls_go_on(server: Server) -> None:
    alice, bob, dave = await people(server, ALICE, BOB, DAVE)
    await offer(alice)
    await answer(bob)
    server.context.calls.take_limits(CallLimits(call_waiting=False))
    await dave.join(CHANNEL, BOB.device_id)
    assert (await offer(dave, "second", DAVE))["error"] == "busy"
    server.context.calls.take_limits(CallLimits())
    assert "ack" in await offer(dave, "second", DAVE)


# -- the table -------------------------------------------------------------------------------------


async def test_row_tells_of_a_call_from_offer_to_end(server: Server) -> None:
    alice, bob, carol = await people(server, ALICE, BOB, CAROL)
    await offer(alice)
    row = (await stored(server))[CALL]
    assert (row.ringing, row.answered_at) == ({BOB.device_id, CAROL.device_id}, None)
    assert row.participants == (ALICE.device_id, BOB.device_id, CAROL.device_id)
    assert (row.channel, row.initiator, row.mode, row.video) == (
        CHANNEL,
        ALICE.device_id,
        "full_duplex",
        False,
    )

    await answer(bob)
    await answer(carol, False)
    row = (await stored(server))[CALL]
    assert (row.joined, row.ringing) == ({ALICE.device_id, BOB.device_id}, frozenset())
    assert row.answered_at is not None

    await ask(bob, FrameType.CALL_END, {"call_id": CALL, "reason": "hangup"})
    row = (await stored(server))[CALL]
    assert (row.end_reason, row.ended_by) == ("hangup", BOB.device_id)
    assert row.ended_at is not None


async def test_row_names_the_group_that_is_called(server: Server) -> None:
    alice, _ = await people(server, ALICE, BOB)
    group = {"group_id": "g", "members": [BOB.device_id]}
    assert "ack" in await ask(alice, FrameType.GROUP_CREATE, group, channel=9)
    call = {"call_id": "g-1", "from": ALICE.device_id, "to": []}
    assert "ack" in await ask(alice, FrameType.CALL_OFFER, call, channel=9)
    assert "ack" in await offer(alice)

    assert {name: row.group_id for name, row in (await stored(server)).items()} == {"g-1": "g", CALL: None}


async def test_tracks_tell_what_was_announced_and_measured(server: Server) -> None:
    alice, bob = await people(server, ALICE, BOB)
    await offer(alice)
    audio = {"codec": "opus", "bitrate": 24_000, "sample_rate": 48_000, "channels": 1}
    video = {
        "codec": "vp8",
        "max_bitrate": 2**32 - 1,
        "max_resolution": {"width": 640, "height": 360},
        "frame_rate": 24,
    }
    await answer(bob, media={"audio": audio, "video": video})
    stream = {"bitrate": 20_000, "packet_loss": 0.5, "jitter_ms": 7, "codec": "op\u0000us"}
    await ask(bob, FrameType.CALL_STATS, {"call_id": CALL, "direction": "receive", "audio": stream})
    await stored(server)

    tracks = {
        (each.device_id, each.kind, each.direction): each
        for each in await server.storage.media_tracks([CALL])
    }
    assert set(tracks) == {
        (ALICE.device_id, "audio", "send"),
        (BOB.device_id, "audio", "send"),
        (BOB.device_id, "video", "send"),
        (BOB.device_id, "audio", "receive"),
    }
    sent = tracks[BOB.device_id, "video", "send"]
    assert (sent.codec, sent.bitrate, json.loads(sent.params)["width"]) == ("vp8", 2**32 - 1, 640)
    heard = tracks[BOB.device_id, "audio", "receive"]
    assert (heard.codec, heard.bitrate) == (None, 20_000)
    assert json.loads(heard.stats) == {"jitter_ms": 7, "packet_loss": 0.5}


async def test_statistics_of_who_is_not_in_the_call_are_not_kept(server: Server) -> None:
    alice, bob = await people(server, ALICE, BOB)
    await offer(alice)
    stats = {"call_id": CALL, "direction": "send", "audio": {"bitrate": 1}}
    assert "ack" in await ask(bob, FrameType.CALL_STATS, stats)
    await stored(server)
    assert {each.device_id for each in await server.storage.media_tracks([CALL])} == {ALICE.device_id}


async def test_nothing_is_kept_of_a_call_that_is_over_if_so_configured(tmp_path: Path) -> None:
    async with serving(tmp_path, keep=0) as server:
        alice, bob = await people(server, ALICE, BOB)
        await offer(alice)
        assert set(await stored(server)) == {CALL}
        await answer(bob, False)
        assert await stored(server) == {}


async def test_calls_do_not_wait_for_their_rows(
    server: Server, broken: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    alice, bob = await people(server, ALICE, BOB)
    await offer(alice)
    await answer(bob)
    await trio.testing.wait_all_tasks_blocked()
    assert server.context.calls.rows.waiting == 1
    assert server.context.counters.call_writes_failed > 0

    broken.undo()
    mock_clock.jump(2 * TRACKS_INTERVAL)
    await trio.testing.wait_all_tasks_blocked()
    assert (await stored(server))[CALL].joined == {ALICE.device_id, BOB.device_id}
    assert server.context.calls.rows.waiting == 0


async def test_no_call_begins_while_too_many_wait_for_the_store(
    server: Server, broken: pytest.MonkeyPatch
) -> None:
    alice, bob = await people(server, ALICE, BOB)
    broken.setattr(rows, "MAX_OVER", 2)
    for number in range(2):
        await offer(alice, f"c{number}")
        await answer(bob, False, f"c{number}")
    assert (await offer(alice))["error"] == "server_busy"
    broken.undo()
    await server.context.calls.rows.flush()
    assert "ack" in await offer(alice)


async def test_thousands_that_nobody_takes_end_and_leave_nothing(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    count = 2_000
    async with serving(tmp_path, per_device=count) as server:
        alice, bob = await people(server, ALICE, BOB)
        calls = server.context.calls
        for start in range(0, count, 100):
            sequences = [
                alice.send(
                    FrameType.CALL_OFFER,
                    CHANNEL,
                    {"call_id": f"c{number}", "from": ALICE.device_id, "to": []},
                )
                for number in range(start, start + 100)
            ]
            for sequence in sequences:
                assert "ack" in await alice.answer(sequence)
        assert len(calls.board) == calls.board.ringing == count

        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(61)
        ended = 0
        while ended < count:
            assert (await told(bob, FrameType.CALL_END))["reason"] == "timeout"
            ended += 1
        await trio.testing.wait_all_tasks_blocked()

        found = await stored(server)
        assert len(found) == count
        assert {row.end_reason for row in found.values()} == {"timeout"}
        assert all(row.ended_at is not None for row in found.values())
        assert (len(calls.board), calls.board._of_device, calls.rows.waiting) == (0, {}, 0)
        assert server.context.counters.calls_ended == {"timeout": count}
