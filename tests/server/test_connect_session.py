"""Established sessions: commit, then deliver, then delete; answers; ends."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from commucat_crypto import NoiseHandshake, NoisePattern
from commucat_proto import SEND_ONLY, Frame, FrameType, Resume, decode_frame, encode_varint
from commucat_server.listener import StreamLostError
from commucat_server.routing.reception import WINDOW_FRAMES
from commucat_storage import SqliteSettings
from server.connect_builders import (
    NOW,
    SERVER_KEYS,
    Client,
    MemoryConnectStream,
    Person,
    Server,
    break_commits,
    running_server,
    until_dropped,
    upkeep_of,
)

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CAROL = Person(handle="carol")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


async def sender_to(server: Server, *members: Person, **changes: Any) -> Client:
    """Alice, with a route on CHANNEL to devices that exist."""
    for member in members:
        if await server.storage.load_device(member.device_id) is None:
            (await server.connect(member)).stream.lose()
    await trio.testing.wait_all_tasks_blocked()
    alice = await server.connect(ALICE, **changes)
    assert await alice.join(CHANNEL, *(member.device_id for member in members)) == {"ack": 3}
    return alice


async def received(client: Client, count: int) -> list[tuple[int, bytes]]:
    frames = [await client.next_of(FrameType.MSG) for _ in range(count)]
    assert all(frame.channel == CHANNEL for frame in frames)
    return [(frame.sequence, frame.payload) for frame in frames]


async def rest(client: Client) -> list[Any]:
    """What is left when the server has nothing more to do."""
    await trio.testing.wait_all_tasks_blocked(0.05)
    client.stream.lose()
    frames = []
    while (frame := await client.next_frame()) is not None:
        frames.append(frame)
    return frames


# -- the promise ----------------------------------------------------------------------------------------


async def test_live_message_is_acknowledged_and_delivered_under_its_inbox_number(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await sender_to(server, BOB)

    assert await alice.message(CHANNEL, b"one") == {"ack": 4}
    assert await alice.message(CHANNEL, b"two") == {"ack": 5}

    assert await received(bob, 2) == [(1, b"one"), (2, b"two")]


async def test_offline_messages_wait_and_come_in_order(server: Server) -> None:
    alice = await sender_to(server, BOB)
    for number in range(700):  # more than one page of the store
        alice.send(FrameType.MSG, CHANNEL, b"%d" % number)
    assert (await alice.message(CHANNEL, b"last")).get("ack")

    bob = await server.connect(BOB)

    assert bob.ack["inbox"]["next"] == 702
    got = await received(bob, 701)
    assert [number for number, _ in got] == list(range(1, 702))
    assert [payload for _, payload in got] == [b"%d" % n for n in range(700)] + [b"last"]


async def test_unconfirmed_messages_come_again_under_the_same_number(server: Server) -> None:
    alice = await sender_to(server, BOB)
    await alice.message(CHANNEL, b"one")
    await alice.message(CHANNEL, b"two")
    first = await server.connect(BOB)
    assert await received(first, 2) == [(1, b"one"), (2, b"two")]
    first.send(FrameType.ACK, 0, {"ack": 1})
    await trio.testing.wait_all_tasks_blocked(0.05)
    first.stream.lose()

    second = await server.connect(BOB)

    assert second.ack["inbox"]["confirmed"] == 1
    assert await received(second, 1) == [(2, b"two")]


async def test_resume_confirms_what_the_client_already_has(server: Server) -> None:
    alice = await sender_to(server, BOB)
    for payload in (b"one", b"two", b"three"):
        await alice.message(CHANNEL, payload)
    first = await server.connect(BOB)
    await received(first, 3)
    first.stream.lose()

    second = await server.connect(BOB, resume=Resume(first.epoch, 2))

    assert second.ack["inbox"]["confirmed"] == 2
    assert await received(second, 1) == [(3, b"three")]
    state = await server.storage.inbox_state(BOB.device_id)
    assert state is not None
    assert state.confirmed == 2


@pytest.mark.parametrize(("epoch", "ack"), [("0" * 32, 2), (None, 99)], ids=["foreign epoch", "too high"])
async def test_resume_that_does_not_fit_deletes_nothing(server: Server, epoch: str | None, ack: int) -> None:
    alice = await sender_to(server, BOB)
    await alice.message(CHANNEL, b"one")
    await alice.message(CHANNEL, b"two")
    state = await server.storage.inbox_state(BOB.device_id)
    assert state is not None

    bob = await server.connect(BOB, resume=Resume(epoch or state.epoch, ack))

    assert await received(bob, 2) == [(1, b"one"), (2, b"two")]


async def test_ack_above_the_highest_number_sent_deletes_nothing(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await sender_to(server, BOB)
    await alice.message(CHANNEL, b"one")
    await received(bob, 1)

    sequence = bob.send(FrameType.ACK, 0, {"ack": 2})

    assert (await bob.answer(sequence))["error"] == "ack_out_of_range"
    state = await server.storage.inbox_state(BOB.device_id)
    assert state is not None
    assert state.confirmed == 0


@pytest.mark.parametrize("payload", [{"ack": -1}, {"ack": "1"}, {"ack": True}, {}, [1]], ids=str)
async def test_malformed_ack_is_refused(server: Server, payload: Any) -> None:
    bob = await server.connect(BOB)

    assert (await bob.answer(bob.send(FrameType.ACK, 0, payload)))["error"] == "bad_request"


async def test_client_without_acks_confirms_by_its_transport(server: Server) -> None:
    alice = await sender_to(server, BOB)
    await alice.message(CHANNEL, b"one")
    bob = await server.connect(BOB, capabilities=())
    assert await received(bob, 1) == [(1, b"one")]
    await trio.testing.wait_all_tasks_blocked(0.05)
    bob.stream.lose()

    again = await server.connect(BOB, capabilities=())

    assert again.ack["inbox"]["confirmed"] == 1
    await alice.message(CHANNEL, b"two")
    assert await received(again, 1) == [(2, b"two")]


async def test_handed_to_the_transport_is_not_confirmed(server: Server) -> None:
    alice = await sender_to(server, BOB)
    stream = MemoryConnectStream()
    bob = await server.connect(BOB, capabilities=(), stream=stream)
    await alice.message(CHANNEL, b"one")
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert stream.outbox_bytes > 0
    stream.lose()  # before the client read it

    again = await server.connect(BOB)

    assert await received(again, 1) == [(1, b"one")]
    assert bob.ack


async def test_send_only_session_takes_nothing_and_replaces_nobody(server: Server) -> None:
    listener = await server.connect(BOB)
    sender = await server.connect(BOB, capabilities=(SEND_ONLY,))
    alice = await sender_to(server, BOB)

    await alice.message(CHANNEL, b"for the listener")

    assert await received(listener, 1) == [(1, b"for the listener")]
    assert await rest(sender) == []


async def test_newer_session_replaces_the_older_one(server: Server) -> None:
    older = await server.connect(BOB)
    newer = await server.connect(BOB)

    frame = await older.next_of(FrameType.ERROR)

    assert frame.control["error"] == "replaced"  # type: ignore[index, call-overload]
    assert await older.next_frame() is None
    alice = await sender_to(server, BOB)
    await alice.message(CHANNEL, b"x")
    assert await received(newer, 1) == [(1, b"x")]


async def test_slow_reader_is_bounded_in_memory_and_loses_nothing(server: Server) -> None:
    stream = MemoryConnectStream(room=1)
    bob = await server.connect(BOB, stream=stream)
    await bob.join(CHANNEL, ALICE.device_id)  # strangers have a small share of an inbox only
    alice = await sender_to(server, BOB)
    count = 3 * WINDOW_FRAMES + 10  # one window sent, one in the writer's hands, one waiting, and more
    for number in range(count):
        alice.send(FrameType.MSG, CHANNEL, b"%d" % number)
    await alice.message(CHANNEL, b"last")  # the sender never waits for the receiver
    live = server.context.registry.receiver(BOB.device_id)
    assert live is not None
    assert live.behind

    got = await received(bob, count + 1)

    assert [payload for _, payload in got] == [b"%d" % n for n in range(count)] + [b"last"]
    assert [number for number, _ in got] == list(range(1, count + 2))


async def test_fan_out_reaches_live_and_absent_members(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await sender_to(server, BOB, CAROL)

    assert await alice.message(CHANNEL, b"all") == {"ack": 4}

    assert await received(bob, 1) == [(1, b"all")]
    assert await received(await server.connect(CAROL), 1) == [(1, b"all")]


async def test_failed_commit_is_told_with_retry_and_delivers_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await server.connect(BOB)
    alice = await sender_to(server, BOB)

    break_commits(monkeypatch, server, "disk full")
    answer = await alice.message(CHANNEL, b"x")

    assert answer["error"] == "storage"
    assert answer["retry"] is True
    assert answer["ref"] == 4
    assert await rest(bob) == []


# -- routes -----------------------------------------------------------------------------------------------


async def test_message_without_a_route_is_refused_and_the_session_goes_on(server: Server) -> None:
    alice = await server.connect(ALICE)

    answer = await alice.message(CHANNEL, b"x")

    assert answer["error"] == "no_route"
    assert answer["ref"] == 3
    assert await alice.join(CHANNEL, ALICE.device_id) == {"ack": 4}


async def test_unknown_recipients_are_named_beside_those_that_accept(server: Server) -> None:
    alice = await sender_to(server, BOB)
    await alice.join(CHANNEL, BOB.device_id, "nobody")

    answer = await alice.message(CHANNEL, b"x")

    assert answer["refused"] == [{"device": "nobody", "reason": "unknown_device"}]
    assert "ack" in answer


async def test_error_only_when_nobody_accepts(server: Server) -> None:
    alice = await sender_to(server, BOB)
    await alice.join(CHANNEL, "nobody")

    answer = await alice.message(CHANNEL, b"x")

    assert answer["error"] == "unknown_device"
    assert answer["refused"] == [{"device": "nobody", "reason": "unknown_device"}]


async def test_nobody_slips_frames_into_a_conversation_of_others(server: Server) -> None:
    """S7 of the reference: anybody could take over any channel number."""
    bob = await server.connect(BOB)
    carol = await server.connect(CAROL)
    await bob.join(CHANNEL, CAROL.device_id)
    alice = await sender_to(server, BOB)

    answer = await alice.message(CHANNEL, b"intruder")

    assert answer["error"] == "channel_conflict"
    await bob.message(CHANNEL, b"between us")
    assert await received(carol, 1) == [(1, b"between us")]
    assert [f for f in await rest(bob) if f.type is FrameType.MSG] == []


async def test_leave_removes_only_the_senders_own_route(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await sender_to(server, BOB)
    await bob.join(CHANNEL, ALICE.device_id)
    await alice.answer(alice.send(FrameType.LEAVE, CHANNEL, {}))

    assert (await alice.message(CHANNEL, b"x"))["error"] == "no_route"
    assert "ack" in await bob.message(CHANNEL, b"still works")


async def test_routes_survive_the_session(server: Server) -> None:
    first = await sender_to(server, BOB)
    first.stream.lose()

    again = await server.connect(ALICE)

    assert "ack" in await again.message(CHANNEL, b"x")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([], "bad_request"),
        ({"members": "bob"}, "bad_request"),
        ({"members": ["x"] * 513}, "bad_request"),
        ({"members": [], "relay": 1}, "bad_request"),
        ({"group_id": "g"}, "group_unknown"),
        ({"group_id": 7}, "bad_request"),
        ({"group_id": "x" * 129}, "bad_request"),
    ],
    ids=str,
)
async def test_malformed_join_is_refused_by_name(server: Server, value: Any, kind: str) -> None:
    alice = await server.connect(ALICE)

    assert (await alice.answer(alice.send(FrameType.JOIN, CHANNEL, value)))["error"] == kind


async def test_too_many_routes_are_refused(tmp_path: Path) -> None:
    async with running_server(tmp_path, sqlite=SqliteSettings(max_routes=2)) as server:
        alice = await server.connect(ALICE)
        answers = [await alice.join(channel, "x") for channel in (1, 2, 3, 2)]

        assert ["error" in answer for answer in answers] == [False, False, True, False]
        assert answers[2]["error"] == "too_many_routes"


async def test_full_inbox_refuses_and_says_so(tmp_path: Path) -> None:
    async with running_server(tmp_path, sqlite=SqliteSettings(max_rows=2)) as server:
        alice = await sender_to(server, BOB)
        answers = [await alice.message(CHANNEL, b"x") for _ in range(3)]

        assert ["error" in answer for answer in answers] == [False, False, True]
        assert answers[2]["error"] == "quota"


@pytest.mark.parametrize("frame_type", [FrameType.HELLO, FrameType.AUTH, FrameType.ERROR])
async def test_handshake_frames_after_the_handshake_are_ignored(
    server: Server, frame_type: FrameType
) -> None:
    alice = await server.connect(ALICE)
    alice.send(frame_type, 0, {})

    assert "ack" in await alice.join(CHANNEL, "x")


async def test_key_update_is_durable_and_must_be_an_object(server: Server) -> None:
    alice = await sender_to(server, BOB)
    assert "ack" in await alice.answer(alice.send(FrameType.KEY_UPDATE, CHANNEL, {"device_id": "x"}))
    assert (await alice.answer(alice.send(FrameType.KEY_UPDATE, CHANNEL, [])))["error"] == "bad_request"

    bob = await server.connect(BOB)

    frame = await bob.next_of(FrameType.KEY_UPDATE)
    assert frame.control == {"device_id": "x"}
    assert frame.sequence == 1


# -- presence ---------------------------------------------------------------------------------------------


async def test_presence_follows_the_session(server: Server) -> None:
    board = server.context.presence
    bob = await server.connect(BOB)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert await board.state_of(BOB.device_id) == "online"

    bob.send(FrameType.PRESENCE, 0, {"state": "busy"})
    await bob.join(CHANNEL, "x")
    assert await board.state_of(BOB.device_id) == "busy"

    bob.stream.close()
    while await bob.next_frame() is not None:
        pass
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert await board.state_of(BOB.device_id) == "offline"


# -- violations and ends ----------------------------------------------------------------------------------


async def test_undecodable_frame_ends_the_session_with_an_error(server: Server) -> None:
    alice = await server.connect(ALICE)
    alice.stream.write(alice.session.seal([b"\x03\xff\x00\x00"]))

    frame = await alice.next_of(FrameType.ERROR)

    assert frame.control["error"] == "decode"  # type: ignore[index, call-overload]
    assert await alice.next_frame() is None
    await trio.testing.wait_all_tasks_blocked()
    assert len(server.context.registry) == 0


async def test_frame_above_the_ceiling_ends_the_session(tmp_path: Path) -> None:
    async with running_server(tmp_path, max_frame_len=10_000) as server:
        alice = await server.connect(ALICE)
        alice.stream.write(alice.session.seal([encode_varint(10_001)]))

        assert (await alice.next_of(FrameType.ERROR)).control["error"] == "decode"  # type: ignore[index, call-overload]


async def test_garbage_ends_the_session_without_an_answer(server: Server) -> None:
    alice = await server.connect(ALICE)
    alice.stream.write(b"\x10" + bytes(16))

    assert await alice.next_frame() is None
    assert alice.stream.ended


async def test_client_that_ends_its_side_still_gets_its_answers(server: Server) -> None:
    alice = await sender_to(server, BOB)
    for _ in range(50):
        last = alice.send(FrameType.MSG, CHANNEL, b"x")
    alice.stream.close()

    assert await alice.answer(last) == {"ack": last}
    assert await alice.next_frame() is None


async def test_shutdown_tells_clients_and_loses_nothing(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await sender_to(server, BOB)
    sequence = alice.send(FrameType.MSG, CHANNEL, b"x")
    await alice.answer(sequence)

    server.context.registry.end_all({"error": "shutdown", "retry": True})

    for client in (alice, bob):
        frame = await client.next_of(FrameType.ERROR)
        assert frame.control["error"] == "shutdown"  # type: ignore[index, call-overload]
        assert await client.next_frame() is None


async def test_lost_connection_leaves_nothing_registered(server: Server) -> None:
    alice = await server.connect(ALICE)
    alice.stream.lose()
    await trio.testing.wait_all_tasks_blocked(0.01)

    assert len(server.context.registry) == 0


async def test_silent_peer_is_told_and_dropped_at_the_deadline(tmp_path: Path) -> None:
    async with running_server(tmp_path, settings={"handshake_timeout": 0.05}) as server:
        for bytes_sent in (b"", ALICE.session().start()):
            client = server.open(ALICE)
            client.stream.write(bytes_sent) if bytes_sent else None
            seen = b""
            while data := await client.stream.read():
                seen += data

            assert b"handshake timeout" in seen
            assert client.stream.ended


async def test_client_that_takes_no_data_is_dropped_and_its_messages_stay(
    server: Server, mock_clock: trio.testing.MockClock
) -> None:
    stream = MemoryConnectStream(room=2000)
    bob = await server.connect(BOB, stream=stream)
    alice = await sender_to(server, BOB)
    for _ in range(20):
        await alice.message(CHANNEL, bytes(1000))
    await until_dropped(server, BOB, mock_clock)
    assert bob.stream.lost
    again = await server.connect(BOB)
    assert len(await received(again, 20)) == 20


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD"])
async def test_other_methods_are_not_found(server: Server, method: str) -> None:
    stream = MemoryConnectStream(method=method)
    await server.handler(stream)

    assert stream.status == 404
    body = await stream.read()
    assert (b"Not Found" in body) == (method != "HEAD")


async def test_connects_over_the_limit_are_answered_429_and_good_ones_do_not_count(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async def answered() -> int | None:
        """What a client gets that says nothing and goes."""
        stream = MemoryConnectStream()
        stream.close()
        await server.handler(stream)
        return stream.status

    async with running_server(tmp_path, connects=5) as server:
        for _ in range(7):
            client = await server.connect(ALICE)
            client.stream.lose()
        assert [await answered() for _ in range(7)] == [200] * 5 + [429] * 2
        mock_clock.jump(0.5)  # half the period: half of them, not a whole token more
        assert [await answered() for _ in range(3)] == [200, 200, 429]


async def test_expired_messages_are_not_delivered(tmp_path: Path) -> None:
    now = [float(NOW)]
    async with running_server(tmp_path, clock=lambda: now[0], settings={"relay_ttl": 100}) as server:
        alice = await sender_to(server, BOB)
        await alice.message(CHANNEL, b"old")
        now[0] += 60
        await alice.message(CHANNEL, b"young")
        now[0] += 60

        bob = await server.connect(BOB)

        assert await received(bob, 1) == [(2, b"young")]


async def test_message_to_a_channel_with_nobody_else_is_refused(server: Server) -> None:
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, ALICE.device_id)

    assert (await alice.message(CHANNEL, b"x"))["error"] == "no_route"


async def test_full_disk_of_the_server_is_told_with_retry(tmp_path: Path) -> None:
    async with running_server(tmp_path, sqlite=SqliteSettings(min_free_bytes=2**62)) as server:
        alice = await sender_to(server, BOB)
        answer = await alice.message(CHANNEL, b"x")

        assert answer["error"] == "disk_low"
        assert answer["retry"] is True


async def test_revoked_device_can_no_longer_send_and_its_sessions_end(server: Server) -> None:
    alice = await sender_to(server, BOB)
    upkeep = upkeep_of(server)
    await server.storage.revoke_device(ALICE.device_id, NOW)

    answer = await alice.message(CHANNEL, b"x")
    assert answer["error"] == "revoked"
    await upkeep.end_revoked()
    frame = await alice.next_of(FrameType.ERROR)

    assert frame.control["error"] == "revoked"  # type: ignore[index, call-overload]
    assert await alice.next_frame() is None


async def test_resume_that_nobody_vouched_for_deletes_nothing(server: Server) -> None:
    """Somebody inside TLS can add members to a Hello that its client does not bind."""
    alice = await sender_to(server, BOB)
    await alice.message(CHANNEL, b"one")
    await alice.message(CHANNEL, b"two")
    state = await server.storage.inbox_state(BOB.device_id)
    assert state is not None
    hello = decode_frame(BOB.session().start())[0]
    noise = NoiseHandshake(
        pattern=NoisePattern.XK,
        initiator=True,
        prologue=b"commucat",
        static=BOB.static,
        remote_static=SERVER_KEYS.public,
    )
    forged = {**hello.control, "handshake": noise.write_message().hex()}  # type: ignore[dict-item]
    forged["resume"] = {"epoch": state.epoch, "ack": 2}
    stream = MemoryConnectStream()
    server.nursery.start_soon(server.handler, stream)
    stream.write(Frame.of_control(FrameType.HELLO, 0, 1, forged).encode())
    auth = decode_frame(await stream.read())[0]
    noise.read_message(bytes.fromhex(auth.control["handshake"]))  # type: ignore[index, call-overload]
    reply = {"handshake": noise.write_message().hex()}
    stream.write(Frame.of_control(FrameType.AUTH, 0, 2, reply).encode())
    await stream.read()

    again = await server.storage.inbox_state(BOB.device_id)
    assert again is not None
    assert again.confirmed == 0


# -- the end ----------------------------------------------------------------------------------------------


class SlowStream(MemoryConnectStream):
    """What is sent counts as flushed when the client has read it."""

    async def flushed(self) -> None:
        while self.outbox_bytes:
            await self._changed.park()
            if self.lost:
                raise StreamLostError("lost")


async def ends_with_a_message_unread(server: Server) -> Client:
    bob = await server.connect(BOB, stream=SlowStream())
    alice = await sender_to(server, BOB)
    await alice.message(CHANNEL, b"on its way")
    bob.stream.close()
    return bob


async def test_a_client_that_ends_and_takes_no_data_is_cut_off_in_time(tmp_path: Path) -> None:
    async with running_server(tmp_path, settings={"drain_timeout": 0.05}) as server:
        bob = await ends_with_a_message_unread(server)
        with trio.fail_after(60):
            await bob.stream.wait_lost()


async def test_a_client_that_ends_and_reads_is_sent_everything(tmp_path: Path) -> None:
    async with running_server(tmp_path, settings={"drain_timeout": 3600.0}) as server:
        bob = await ends_with_a_message_unread(server)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not bob.stream.lost
        assert (await bob.next_of(FrameType.MSG)).payload == b"on its way"
        assert await bob.next_frame() is None
        assert bob.stream.ended
        assert not bob.stream.lost
