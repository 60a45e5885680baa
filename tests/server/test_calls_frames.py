"""Calls over the wire: rung, answered, ended by people, by time and by disconnection."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_ledger import Ledger, LedgerRecord
from commucat_media import AudioCodec, AudioPacket, MediaSource, encode_packet
from commucat_proto import SEND_ONLY, FrameType
from commucat_server.calls.board import IDLE_TIMEOUT
from commucat_server.calls.limits import CallLimits
from server.connect_builders import Client, Person, Server, break_commits, running_server

CHANNEL = 7
CALL = "call-1"
GRACE = CallLimits().grace
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CAROL = Person(handle="carol")
MALLORY = Person(handle="mallory")
VOICE = encode_packet(AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=b"voice"))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


@pytest.fixture
def records(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the ledger is told about calls."""
    found: list[dict[str, Any]] = []

    async def append(_ledger: Ledger, record: LedgerRecord) -> None:
        if record.metadata.get("scope") == "call":
            found.append({"event": record.metadata["event"], "data": record.metadata["data"]})

    monkeypatch.setattr(type(server.context.ledger), "append", append)
    return found


async def ask(client: Client, frame_type: FrameType, value: Any, channel: int = CHANNEL) -> dict[str, Any]:
    return await client.answer(client.send(frame_type, channel, value))


async def people(server: Server, *others: Person) -> list[Client]:
    """Alice and the others, connected, all of them with routes to all."""
    everybody = (ALICE, *others)
    clients = [await server.connect(person) for person in everybody]
    for client, person in zip(clients, everybody, strict=True):
        await client.join(CHANNEL, *(each.device_id for each in everybody if each is not person))
    return clients


async def offer(client: Client, call_id: str = CALL, **more: Any) -> dict[str, Any]:
    value = {"call_id": call_id, "from": ALICE.device_id, "to": [BOB.device_id], **more}
    return await ask(client, FrameType.CALL_OFFER, value)


async def accept(client: Client, accept: bool = True, **more: Any) -> dict[str, Any]:
    return await ask(client, FrameType.CALL_ANSWER, {"call_id": CALL, "accept": accept, **more})


async def end(client: Client, reason: str = "hangup") -> dict[str, Any]:
    return await ask(client, FrameType.CALL_END, {"call_id": CALL, "reason": reason})


async def told(client: Client, frame_type: FrameType) -> dict[str, Any]:
    frame = await client.next_of(frame_type)
    assert frame.channel == CHANNEL
    assert isinstance(frame.control, dict)
    return frame.control


def calls_on(server: Server) -> int:
    return len(server.context.calls.board)


async def test_call_from_offer_to_end(server: Server, records: list[dict[str, Any]]) -> None:
    alice, bob = await people(server, BOB)

    assert await offer(alice) == {"ack": 4, "call_id": CALL}
    assert (await told(bob, FrameType.CALL_OFFER))["from"] == ALICE.device_id
    assert await accept(bob) == {"ack": 4, "call_id": CALL, "accept": True}
    assert (await told(alice, FrameType.CALL_ANSWER))["accept"] is True
    assert await end(bob) == {"ack": 5, "call_id": CALL, "reason": "hangup"}
    assert (await told(alice, FrameType.CALL_END))["reason"] == "hangup"

    assert calls_on(server) == 0
    await trio.testing.wait_all_tasks_blocked()
    assert [record["event"] for record in records] == ["offer", "answer", "end"]
    assert records[0]["data"] == {
        "channel_id": CHANNEL,
        "initiator": ALICE.device_id,
        "participants": [ALICE.device_id, BOB.device_id],
        "participant_count": 2,
        "mode": "full_duplex",
        "video": False,
    }
    assert records[2]["data"]["device"] == BOB.device_id
    assert records[2]["data"]["reason"] == "hangup"


async def test_declined_call_is_over(server: Server, records: list[dict[str, Any]]) -> None:
    alice, bob = await people(server, BOB)
    await offer(alice)

    assert await accept(bob, False, reason="busy") == {
        "ack": 4,
        "call_id": CALL,
        "accept": False,
        "reason": "busy",
    }

    assert (await told(alice, FrameType.CALL_ANSWER))["reason"] == "busy"
    assert calls_on(server) == 0
    await trio.testing.wait_all_tasks_blocked()
    assert [record["event"] for record in records] == ["offer", "answer", "end"]


async def test_one_of_two_declines_and_the_call_goes_on(server: Server) -> None:
    alice, bob, carol = await people(server, BOB, CAROL)
    await offer(alice)

    await accept(bob, False)
    assert calls_on(server) == 1
    assert "ack" in await accept(carol)
    assert (await accept(bob))["error"] == "not_participant"


async def test_offer_and_end_in_one_breath(server: Server) -> None:
    alice, bob = await people(server, BOB)
    alice.send(FrameType.CALL_OFFER, CHANNEL, {"call_id": CALL, "from": ALICE.device_id, "to": []})
    assert "ack" in await end(alice, "cancel")

    await told(bob, FrameType.CALL_OFFER)
    assert (await told(bob, FrameType.CALL_END))["reason"] == "cancel"
    assert calls_on(server) == 0


async def test_offer_waits_for_somebody_away(server: Server) -> None:
    alice, bob = await people(server, BOB)
    bob.stream.lose()
    await trio.testing.wait_all_tasks_blocked()
    await offer(alice)

    bob = await server.connect(BOB)

    assert (await told(bob, FrameType.CALL_OFFER))["call_id"] == CALL
    assert "ack" in await accept(bob)


async def test_offer_that_nobody_gets_leaves_no_call(server: Server) -> None:
    alice = await server.connect(ALICE)
    assert (await offer(alice))["error"] == "no_route"
    await alice.join(CHANNEL, "ghost")
    assert (await offer(alice))["error"] == "unknown_device"

    assert calls_on(server) == 0


async def test_frames_of_a_call_are_for_its_participants(server: Server) -> None:
    alice, bob, mallory = await people(server, BOB, MALLORY)
    await alice.join(CHANNEL, BOB.device_id)
    await offer(alice)
    stats = {"call_id": CALL, "direction": "send"}
    update = {"call_id": CALL, "update": "consent_keepalive"}

    for answer in (
        await accept(mallory),
        await end(mallory),
        await ask(mallory, FrameType.CALL_STATS, stats),
        await ask(mallory, FrameType.TRANSPORT_UPDATE, update),
        await accept(alice),
    ):
        assert answer["error"] == "not_participant"
    assert (await offer(alice))["error"] == "call_exists"
    foreign = await ask(bob, FrameType.CALL_STATS, stats, CHANNEL + 1)
    assert foreign["error"] == "bad_request"
    assert (await ask(bob, FrameType.CALL_STATS, stats | {"call_id": "x"}))["error"] == "call_unknown"
    assert calls_on(server) == 1


async def test_end_of_a_call_that_is_over_is_acknowledged(server: Server) -> None:
    alice = await server.connect(ALICE)

    assert await end(alice) == {"ack": 3, "call_id": CALL, "reason": "hangup"}


async def test_fifth_call_of_a_device_is_refused(server: Server) -> None:
    alice, _ = await people(server, BOB)

    answers = [await offer(alice, f"call-{number}") for number in range(5)]

    assert [answer.get("error") for answer in answers] == [None] * 4 + ["too_many_calls"]


async def test_send_only_session_begins_no_call(server: Server) -> None:
    alice = await server.connect(ALICE, capabilities=(SEND_ONLY,))
    await alice.join(CHANNEL, BOB.device_id)

    assert (await offer(alice))["error"] == "bad_request"


async def test_statistics_and_updates_go_to_participants_live(server: Server) -> None:
    alice, bob, carol = await people(server, BOB, CAROL)
    await alice.join(CHANNEL, BOB.device_id)
    await offer(alice)
    await accept(bob)
    update = {"call_id": CALL, "update": "consent_keepalive", "interval_secs": 5}

    stats = await ask(bob, FrameType.CALL_STATS, {"call_id": CALL, "direction": "receive"})
    assert stats == {"ack": 5, "call_id": CALL, "direction": "receive"}
    answer = await ask(bob, FrameType.TRANSPORT_UPDATE, update)
    assert answer == {"ack": 6, "call_id": CALL, "update": "consent_keepalive"}

    assert (await told(alice, FrameType.CALL_STATS))["direction"] == "receive"
    assert await told(alice, FrameType.TRANSPORT_UPDATE) == update
    await trio.testing.wait_all_tasks_blocked()
    carol.stream.lose()
    while (frame := await carol.next_frame()) is not None:
        assert frame.type not in (FrameType.CALL_STATS, FrameType.TRANSPORT_UPDATE)


async def test_media_of_a_call_reaches_those_in_it_and_is_never_stored(server: Server) -> None:
    alice, bob, carol = await people(server, BOB, CAROL)
    await offer(alice)
    await accept(bob)

    assert await ask(alice, FrameType.VOICE_FRAME, VOICE) == {"ack": 5}

    frame = await bob.next_of(FrameType.VOICE_FRAME)
    assert (frame.channel, frame.payload) == (CHANNEL, VOICE)
    await trio.testing.wait_all_tasks_blocked()
    carol.stream.lose()
    while (frame_of_carol := await carol.next_frame()) is not None:
        assert frame_of_carol.type is not FrameType.VOICE_FRAME


async def test_disconnection_ends_the_call_for_the_others(
    server: Server, records: list[dict[str, Any]], mock_clock: trio.testing.MockClock
) -> None:
    alice, bob = await people(server, BOB)
    await offer(alice)
    await accept(bob)

    bob.stream.lose()
    await trio.testing.wait_all_tasks_blocked()
    assert calls_on(server) == 1
    mock_clock.jump(GRACE + 1)

    assert await told(alice, FrameType.CALL_END) == {
        "call_id": CALL,
        "reason": "failure",
        "metadata": {"system": True, "cause": "disconnect", "device": BOB.device_id},
    }
    assert calls_on(server) == 0
    await trio.testing.wait_all_tasks_blocked()
    assert records[-1]["data"]["reason"] == "disconnect"


async def test_newer_session_or_somebody_only_called_ends_nothing(server: Server) -> None:
    alice, bob = await people(server, BOB)
    await offer(alice)
    bob.stream.lose()
    await server.connect(ALICE)
    await trio.testing.wait_all_tasks_blocked()

    call = server.context.calls.board.find(CALL)
    assert call is not None
    assert call.away == {}


async def test_call_that_nobody_takes_ends_by_time(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with running_server(tmp_path) as server:
        alice, bob = await people(server, BOB)
        await offer(alice)
        mock_clock.jump(59.0)
        await trio.testing.wait_all_tasks_blocked()
        assert calls_on(server) == 1
        mock_clock.jump(2.0)

        expected = {
            "call_id": CALL,
            "reason": "timeout",
            "metadata": {"system": True, "cause": "ring_timeout"},
        }
        assert await told(alice, FrameType.CALL_END) == expected
        assert await told(bob, FrameType.CALL_END) == expected
        assert calls_on(server) == 0


async def test_silent_call_ends_and_media_keeps_it(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with running_server(tmp_path) as server:
        alice, bob = await people(server, BOB)
        await offer(alice)
        await accept(bob)
        mock_clock.jump(IDLE_TIMEOUT - 5)
        await ask(alice, FrameType.VOICE_FRAME, VOICE)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(IDLE_TIMEOUT - 5)
        await trio.testing.wait_all_tasks_blocked()
        assert calls_on(server) == 1
        mock_clock.jump(10)

        assert (await told(bob, FrameType.CALL_END))["metadata"] == {"system": True, "cause": "idle"}


async def test_frames_that_were_not_stored_have_not_happened(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = await people(server, BOB)
    await offer(alice)

    with monkeypatch.context() as broken:
        break_commits(broken, server, "disk full")
        for answer in (await offer(alice, "other"), await accept(bob), await end(alice)):
            assert (answer["error"], answer["retry"]) == ("storage", True)

    assert calls_on(server) == 1
    assert "ack" in await offer(alice, "other")
    assert "ack" in await accept(bob)
    assert "ack" in await end(alice)
