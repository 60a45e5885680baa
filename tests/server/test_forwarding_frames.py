"""Media of a call over the wire: past the journal, chosen for each receiver, and never before messages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from commucat_media import encode_packet, encode_stream_packet, to_version_1
from commucat_proto import Frame, FrameType
from commucat_server.calls.forwarding.limits import ForwardingLimits
from commucat_server.calls.permits import CHECK_INTERVAL
from commucat_server.routing.hints import CallMedia
from commucat_server.routing.media_queue import STALE_AFTER
from commucat_storage import Resolve
from server.connect_builders import Person, Server, running_server
from server.forwarding_builders import OLD_PICTURE, OLD_SOUND, picture, sound
from server.forwarding_stage import (
    ALICE,
    BOB,
    CALL,
    CAROL,
    CHANNEL,
    DAVE,
    NEW,
    OLD,
    Clock,
    in_call,
    say,
    update,
    video,
    voice,
)


@asynccontextmanager
async def resolved(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """Who asked the journal about its route."""
    asked: list[str] = []
    storage = type(server.context.storage)
    before = storage.enqueue_now

    def enqueue_now(self: Any, batch: Any, done: Any) -> bool:
        taken: bool = before(self, batch, done)
        if taken:
            asked.extend(each.sender for each in batch if isinstance(each, Resolve))
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(storage, "enqueue_now", enqueue_now)
        yield asked


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(tmp_path: Path, clock: Clock) -> AsyncIterator[Server]:
    async with running_server(tmp_path, forwarding={"clock": clock}) as server:
        yield server


async def test_media_passes_byte_for_byte_without_acks_and_without_the_journal(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, carol = await in_call(server, NEW, NEW, NEW)
    first = voice(alice, 1)
    for each in (bob, carol):
        frame = await each.next_of(FrameType.VOICE_FRAME)
        assert (frame.payload, frame.channel) == (first, CHANNEL)

    async with resolved(server, monkeypatch) as asked:
        sent = [voice(alice, 1, number) for number in range(1, 30)]
        got = [(await bob.next_of(FrameType.VOICE_FRAME)).payload for _ in sent]

    assert got == sent
    assert asked == []
    assert alice.waiting == ()
    # An Ack would have come before this answer.
    answer = await alice.answer(alice.send(FrameType.LEAVE, CHANNEL + 1, {}))
    assert "ack" in answer
    assert server.context.counters.media_audio == 60


async def test_a_receiver_is_told_whose_stream_it_is_before_its_first_packet(server: Server) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    voice(alice, 5)

    told = await bob.next_frame()
    packet = await bob.next_frame()

    assert told is not None
    assert packet is not None
    assert told.control == {
        "call_id": CALL,
        "update": "streams",
        "device": ALICE.device_id,
        "streams": [{"stream": 5, "kind": "audio", "layer": 0}],
    }
    assert packet.type is FrameType.VOICE_FRAME


async def test_old_clients_keep_version_1_and_their_acks(server: Server) -> None:
    alice, bob, carol = await in_call(server, NEW, OLD, OLD)
    payload = voice(alice, 1)

    frame = await bob.next_frame()
    assert frame is not None
    assert (frame.type, frame.payload) == (FrameType.VOICE_FRAME, to_version_1(payload))
    old = encode_packet(OLD_SOUND)
    for _ in range(3):
        answer = await bob.answer(bob.send(FrameType.VOICE_FRAME, CHANNEL, old))
        assert set(answer) == {"ack"}
        assert (await alice.next_of(FrameType.VOICE_FRAME)).payload == old
        assert (await carol.next_of(FrameType.VOICE_FRAME)).payload in (old, to_version_1(payload))


async def test_encrypted_media_is_not_for_clients_that_cannot_know(server: Server) -> None:
    alice, bob, carol = await in_call(server, NEW, NEW, OLD)
    secret = voice(alice, 1, encrypted=True)
    clear = encode_packet(OLD_SOUND)
    bob.send(FrameType.VOICE_FRAME, CHANNEL, clear)

    assert (await bob.next_of(FrameType.VOICE_FRAME)).payload == secret
    assert (await carol.next_of(FrameType.VOICE_FRAME)).payload == clear


async def test_a_forged_stream_is_dropped_and_counted(server: Server) -> None:
    alice, bob, carol = await in_call(server, NEW, NEW, NEW)
    voice(alice, 1)
    await bob.next_of(FrameType.VOICE_FRAME)
    voice(bob, 1, 1)
    mine = voice(bob, 2)

    await carol.next_of(FrameType.VOICE_FRAME)
    assert (await carol.next_of(FrameType.VOICE_FRAME)).payload == mine
    assert server.context.counters.media_dropped == {"forged": 1}


async def test_what_is_refused_here_burdens_no_other_node(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood, or a forged stream, would fill the bus that carries the news of messages, too."""
    alice, bob = await in_call(server, NEW, NEW)
    voice(alice, 1)
    await bob.next_of(FrameType.VOICE_FRAME)
    forwarder = server.context.forwarder
    place = forwarder.place(ALICE.device_id, CHANNEL)
    assert place is not None
    place.halls[0].call.joined.add("elsewhere")
    place.permit.elsewhere = {"elsewhere": "another node"}
    sent: list[bytes] = []
    monkeypatch.setattr(forwarder._cluster, "send_media", lambda *what: sent.append(what[-1]))

    payloads = [voice(alice, 1, number) for number in range(1, 600)]
    last = alice.send(FrameType.LEAVE, CHANNEL + 1, {})
    await alice.answer(last)

    passed = ForwardingLimits().audio_packets - 1
    assert sent == payloads[:passed]
    assert server.context.counters.media_dropped["flood"] == len(payloads) - passed


async def test_selection_and_pause_and_key_frames(server: Server) -> None:
    alice, bob, carol = await in_call(server, NEW, NEW, NEW)
    video(alice, 1, 0, key=True)
    await bob.next_of(FrameType.VIDEO_FRAME)

    answer = await say(bob, FrameType.TRANSPORT_UPDATE, {"update": "receive", "video": []})
    assert (answer["call_id"], answer["update"]) == (CALL, "receive")
    video(alice, 1, 1)
    await carol.next_of(FrameType.VIDEO_FRAME)
    await carol.next_of(FrameType.VIDEO_FRAME)
    await say(bob, FrameType.TRANSPORT_UPDATE, {"update": "receive"})
    assert (await update(alice, "key_frame"))["device"] == ALICE.device_id
    key = video(alice, 1, 2, key=True)

    assert (await bob.next_of(FrameType.VIDEO_FRAME)).payload == key


async def test_a_participant_asks_another_for_a_key_frame(server: Server) -> None:
    alice, bob, _ = await in_call(server, NEW, NEW, NEW)
    video(alice, 1, 0, key=True)
    await bob.next_of(FrameType.VIDEO_FRAME)

    answer = await say(bob, FrameType.TRANSPORT_UPDATE, {"update": "key_frame", "device": ALICE.device_id})

    assert answer["update"] == "key_frame"
    assert (await update(alice, "key_frame"))["device"] == ALICE.device_id
    stranger = {"update": "key_frame", "device": DAVE.device_id}
    assert (await say(bob, FrameType.TRANSPORT_UPDATE, stranger))["error"] == "not_participant"


@pytest.mark.parametrize(
    "value",
    [
        {"update": "speakers", "devices": []},
        {"update": "streams", "device": "x", "streams": []},
        {"update": "congestion", "device": "x", "dropped": 1},
        {"update": "receive", "speakers": 256},
    ],
)
async def test_what_a_client_may_not_say_is_refused(server: Server, value: dict[str, Any]) -> None:
    alice, _ = await in_call(server, NEW, NEW)

    assert (await say(alice, FrameType.TRANSPORT_UPDATE, value))["error"] == "bad_request"


async def test_without_the_capability_nothing_of_it_is_understood(server: Server) -> None:
    alice, _ = await in_call(server, OLD, NEW)

    assert (await say(alice, FrameType.TRANSPORT_UPDATE, {"update": "receive"}))["error"] == "bad_request"
    payload = encode_stream_packet(sound(1))
    answer = await alice.answer(alice.send(FrameType.VOICE_FRAME, CHANNEL, payload))
    assert answer["error"] == "bad_media"


async def test_malformed_media_is_told_once_a_second_and_counted(server: Server, clock: Clock) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    first = alice.send(FrameType.VOICE_FRAME, CHANNEL, b"\x09")
    for _ in range(20):
        alice.send(FrameType.VOICE_FRAME, CHANNEL, b"\x02\x00\x00\xf0" + bytes(13))
    good = voice(alice, 1)

    assert (await alice.answer(first))["error"] == "bad_media"
    assert (await bob.next_of(FrameType.VOICE_FRAME)).payload == good
    assert server.context.counters.media_dropped == {"malformed": 21}
    assert alice.waiting == ()
    clock.now += 1.1
    assert (await alice.answer(alice.send(FrameType.VOICE_FRAME, CHANNEL, b"\x09")))["error"] == "bad_media"


async def test_the_right_to_send_is_asked_about_once_in_a_while(
    server: Server, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    voice(alice, 1)
    await bob.next_of(FrameType.VOICE_FRAME)

    async with resolved(server, monkeypatch) as asked:
        for number in range(1, 101):
            clock.now += 0.02
            voice(alice, 1, number)
            await bob.next_of(FrameType.VOICE_FRAME)

    assert asked == [ALICE.device_id] * int(100 * 0.02 / CHECK_INTERVAL)


async def test_who_is_removed_from_the_group_is_cut_off_at_once(server: Server) -> None:
    alice, bob, carol = await in_call(server, NEW, NEW, NEW)
    voice(bob, 2)
    voice(alice, 1)
    for each in (alice, bob, carol, carol):
        await each.next_of(FrameType.VOICE_FRAME)

    gone = {"group_id": "group", "event": "remove", "device": BOB.device_id}
    assert "ack" in await alice.answer(alice.send(FrameType.GROUP_EVENT, CHANNEL, gone))
    sequence = bob.send(FrameType.VOICE_FRAME, CHANNEL, encode_stream_packet(sound(2, 1)))
    assert (await bob.answer(sequence))["error"] == "not_member"
    for number in range(1, 10):
        voice(bob, 2, number + 1)
        voice(alice, 1, number)
    heard = [(await carol.next_of(FrameType.VOICE_FRAME)).payload for _ in range(9)]

    assert [each[5:9] for each in heard].count(bytes([0, 0, 0, 2])) == 0
    answer = await bob.answer(bob.send(FrameType.LEAVE, CHANNEL + 1, {}))
    assert "ack" in answer
    assert not [each for each in bob.waiting if each.type is FrameType.VOICE_FRAME]
    assert server.context.counters.media_dropped["not_allowed"] >= 8


async def test_a_slow_reader_loses_media_and_no_message(server: Server, clock: Clock) -> None:
    alice, bob, carol = await in_call(server, NEW, NEW, NEW)
    video(alice, 1, 0, key=True)
    await bob.next_of(FrameType.VIDEO_FRAME)
    bob.stream.limit(1)

    expected: list[bytes] = []
    for number in range(1, 51):
        alice.send(FrameType.VIDEO_FRAME, CHANNEL, encode_stream_packet(picture(1, number)) + bytes(5_000))
        await carol.next_of(FrameType.VIDEO_FRAME)
        if number % 10 == 0:
            expected.append(b"message %d" % number)
            alice.send(FrameType.MSG, CHANNEL, expected[-1])
        clock.now += 0.06
    bob.stream.limit(10**9)

    got: list[Frame] = []
    while sum(each.type is FrameType.MSG for each in got) < len(expected):
        frame = await bob.next_frame()
        assert frame is not None
        got.append(frame)
    messages = [each for each in got if each.type is FrameType.MSG]
    pictures = [each for each in got if each.type is FrameType.VIDEO_FRAME]
    assert [each.payload for each in messages] == expected
    numbers = [each.sequence for each in messages]
    assert numbers == list(range(numbers[0], numbers[0] + len(expected)))
    assert len(pictures) < 20
    assert server.context.counters.media_dropped["slow_receiver"] >= 6
    congestion = await update(alice, "congestion")
    assert congestion["device"] == ALICE.device_id
    assert congestion["dropped"] > 0

    # What comes next it can decode.
    clock.now += STALE_AFTER * 2
    video(alice, 1, 51)
    key = video(alice, 1, 52, key=True)
    assert (await bob.next_of(FrameType.VIDEO_FRAME)).payload == key


async def test_a_server_has_so_much_to_forward_and_sound_goes_first(tmp_path: Path) -> None:
    async with running_server(tmp_path, forwarding={"forwarded_bytes": 20_000}) as server:
        alice, bob = await in_call(server, NEW, NEW)
        for number in range(10):
            alice.send(
                FrameType.VIDEO_FRAME,
                CHANNEL,
                encode_stream_packet(picture(1, number, key=True)) + bytes(4_000),
            )
        last = voice(alice, 2)

        assert (await bob.next_of(FrameType.VOICE_FRAME)).payload == last
        assert server.context.counters.media_dropped["server_limit"] >= 5


async def test_media_ends_with_the_call(server: Server) -> None:
    alice, bob = await in_call(server, NEW, NEW)
    voice(alice, 1)
    await bob.next_of(FrameType.VOICE_FRAME)
    assert server.context.forwarder.streams == 1

    await say(bob, FrameType.CALL_END, {"reason": "hangup"})

    assert server.context.forwarder.streams == 0
    assert server.context.forwarder.place(ALICE.device_id, CHANNEL) is None
    session = server.context.registry.receiver(BOB.device_id)
    assert session is not None
    assert session._media is None


async def test_media_without_a_call_is_passed_along_the_route_in_version_1(server: Server) -> None:
    alice = await server.connect(ALICE, capabilities=NEW)
    bob = await server.connect(BOB, capabilities=OLD)
    await alice.join(CHANNEL, BOB.device_id)
    payload = voice(alice, 1)
    assert (await bob.next_of(FrameType.VOICE_FRAME)).payload == to_version_1(payload)

    sequence = alice.send(FrameType.VOICE_FRAME, CHANNEL, encode_stream_packet(sound(1, encrypted=True)))
    assert (await alice.answer(sequence))["error"] == "bad_media"
    old = encode_packet(OLD_PICTURE)
    await bob.join(CHANNEL, ALICE.device_id)
    assert set(await bob.answer(bob.send(FrameType.VIDEO_FRAME, CHANNEL, old))) == {"ack"}
    assert (await alice.next_of(FrameType.VIDEO_FRAME)).payload == old


async def test_media_of_another_node_is_chosen_here(server: Server) -> None:
    alice, bob, carol = await in_call(server, NEW, OLD, NEW)
    carol.stream.close()
    while server.context.registry.receiver(CAROL.device_id) is not None:
        await trio.testing.wait_all_tasks_blocked(0.01)
    payload = encode_stream_packet(sound(9))

    def arrive(payload: bytes, call_id: str = CALL, sender: str = CAROL.device_id, *devices: Person) -> None:
        names = tuple(each.device_id for each in devices or (ALICE, BOB))
        server.context.cluster._take(
            CallMedia(call_id, sender, "another node", names, FrameType.VOICE_FRAME, payload)
        )

    arrive(payload)
    assert (await update(alice, "streams"))["device"] == CAROL.device_id
    assert (await alice.next_of(FrameType.VOICE_FRAME)).payload == payload
    assert (await bob.next_of(FrameType.VOICE_FRAME)).payload == to_version_1(payload)

    arrive(b"\x07")
    arrive(payload, "no call")
    arrive(payload, CALL, DAVE.device_id)
    assert server.context.counters.media_dropped == {"malformed": 1, "unknown_call": 1, "not_in_call": 1}

    # The sender's node says whom it may send to.
    last = encode_stream_packet(sound(9, 1))
    arrive(last, CALL, CAROL.device_id, ALICE)
    assert (await alice.next_of(FrameType.VOICE_FRAME)).payload == last
    assert "ack" in await bob.answer(bob.send(FrameType.LEAVE, CHANNEL + 1, {}))
    assert bob.waiting == ()
