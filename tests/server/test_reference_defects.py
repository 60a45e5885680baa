"""Defects of the reference server that no other test shows to be absent here (docs/defects.md)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from commucat_ledger import Ledger, LedgerRecord
from commucat_proto import AuthReceived, FrameType, UserHint
from commucat_server.identity.tokens import token_hash
from server.connect_builders import (
    NOW,
    Client,
    MemoryConnectStream,
    Person,
    Server,
    running_server,
    upkeep_of,
)

CHANNEL = 7
ALICE, BOB, CAROL = (Person(handle=name) for name in ("alice", "bob", "carol"))


@attrs.define
class Clock:
    """The server's wall clock, moved by hand."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(tmp_path: Path, clock: Clock) -> AsyncIterator[Server]:
    async with running_server(tmp_path, clock=clock) as server:
        yield server


@pytest.fixture
def records(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the ledger is told."""
    found: list[dict[str, Any]] = []

    async def append(_ledger: Ledger, record: LedgerRecord) -> None:
        found.append(dict(record.metadata))

    monkeypatch.setattr(type(server.context.ledger), "append", append)
    return found


async def two(server: Server) -> tuple[Client, Client]:
    """Alice and bob, each with a route to the other."""
    alice, bob = await server.connect(ALICE), await server.connect(BOB)
    await alice.join(CHANNEL, BOB.device_id)
    await bob.join(CHANNEL, ALICE.device_id)
    return alice, bob


def many(client: Client, count: int) -> tuple[bytes, list[int]]:
    """``count`` messages as one piece of ciphertext, and their sequences."""
    frames = [client.session.frame(FrameType.MSG, CHANNEL, b"%d" % number) for number in range(count)]
    return client.session.seal([encoded for _, encoded in frames]), [sequence for sequence, _ in frames]


# -- security -----------------------------------------------------------------------------------------


async def test_s6_ids_and_tokens_do_not_come_from_the_clock(server: Server) -> None:
    """At one instant of a clock that stands still, for one device and for two."""
    acks = [(await server.connect(person)).ack for person in (ALICE, ALICE, BOB)]

    assert len({ack["session"] for ack in acks}) == 3
    assert len({ack["user_id"] for ack in acks}) == 2
    assert len({ack["certificate"]["serial"] for ack in acks}) == 2
    assert all(len(bytes.fromhex(ack["session"])) == 32 for ack in acks)


async def test_s10_a_join_tells_nobody_anything(server: Server) -> None:
    alice, bob = await two(server)

    assert await alice.join(CHANNEL, BOB.device_id) == {"ack": 4}
    await alice.message(CHANNEL, b"first")

    frame = await bob.next_of(FrameType.MSG)
    assert frame.payload == b"first"
    await trio.testing.wait_all_tasks_blocked()
    assert bob.waiting == ()


async def test_s15_who_has_proved_nothing_learns_nothing_about_users_and_devices(server: Server) -> None:
    """A new handle, one that exists, and an unknown user id: the Hello is answered alike."""
    alice = await server.connect(ALICE)
    answers: list[set[str]] = []
    for hint in (
        UserHint(handle="nobody"),
        UserHint(handle="alice"),
        UserHint(user_id="0" * 64),
        UserHint(user_id=alice.ack["user_id"]),
    ):
        stranger = Person(handle="stranger", device_id="new-device")
        session = stranger.session(user=hint)
        client = Client(session, MemoryConnectStream())
        server.nursery.start_soon(server.handler, client.stream)
        client.stream.write(session.start())
        [auth] = session.receive_data(await client.stream.read())
        assert isinstance(auth, AuthReceived)
        assert session.welcome["user_id"] != alice.ack["user_id"]
        answers.append(set(session.welcome))
        client.stream.lose()
    assert all(answer == answers[0] for answer in answers)


# -- message loss and ordering ------------------------------------------------------------------------


async def test_m2_more_than_one_batch_waits_and_comes_in_one_connect(server: Server) -> None:
    alice, bob = await two(server)
    bob.stream.lose()
    data, sequences = many(alice, 1000)
    alice.stream.write(data)
    await alice.answer(sequences[-1])

    again = await server.connect(BOB)

    got = [(await again.next_of(FrameType.MSG)).payload for _ in range(1000)]
    assert got == [b"%d" % number for number in range(1000)]


# -- concurrency ----------------------------------------------------------------------------------------


async def test_c1_a_thousand_frames_in_one_write_are_answered_and_delivered(server: Server) -> None:
    alice, bob = await two(server)
    data, sequences = many(alice, 1000)

    alice.stream.write(data)

    acked = [(await alice.next_of(FrameType.ACK)).control for _ in sequences]
    assert acked == [{"ack": sequence} for sequence in sequences]
    got = [(await bob.next_of(FrameType.MSG)).payload for _ in sequences]
    assert got == [b"%d" % number for number in range(1000)]


async def test_c1_a_full_drain_and_live_traffic_together_do_not_stall(server: Server) -> None:
    """The drain, the Acks for what the receiver itself sends, and what comes meanwhile."""
    alice, bob = await two(server)
    bob.stream.lose()
    data, sequences = many(alice, 500)
    alice.stream.write(data)
    await alice.answer(sequences[-1])

    again = await server.connect(BOB)
    from_alice, _ = many(alice, 500)
    from_bob, own = many(again, 500)
    alice.stream.write(from_alice)
    again.stream.write(from_bob)

    got, answered = 0, 0
    while got < 1000 or answered < len(own):
        frame = await again.next_frame()
        assert frame is not None
        got += frame.type is FrameType.MSG
        answered += frame.type is FrameType.ACK
    assert [(await alice.next_of(FrameType.MSG)).payload for _ in range(500)] == [
        b"%d" % n for n in range(500)
    ]


async def test_c3_a_client_that_reads_nothing_stops_no_join_and_no_connect(server: Server) -> None:
    stuck = await server.connect(CAROL, stream=MemoryConnectStream(room=1))
    alice, _ = await two(server)
    await alice.join(CHANNEL, CAROL.device_id)
    data, sequences = many(alice, 5000)
    alice.stream.write(data)
    await alice.answer(sequences[-1])
    assert stuck.stream.outbox_bytes < 2**20

    assert "ack" in await alice.join(8, CAROL.device_id)
    assert (await server.connect(Person(handle="dave"))).ack


async def test_c9_no_line_is_logged_for_a_message(server: Server) -> None:
    alice, bob = await two(server)
    with capture_logs() as lines:
        data, sequences = many(alice, 100)
        alice.stream.write(data)
        await alice.answer(sequences[-1])
        for _ in sequences:
            await bob.next_of(FrameType.MSG)
    assert lines == []


# -- operations -----------------------------------------------------------------------------------------


async def test_o1_the_token_of_a_connected_session_lives_as_long_as_the_session(
    server: Server, clock: Clock
) -> None:
    alice = await server.connect(ALICE)
    upkeep = upkeep_of(server, keepalive=3600)
    assert upkeep._session_interval <= 3600 / 2
    for _ in range(4):
        clock.now += 1800
        await upkeep._refresh_sessions()
        row = await server.storage.load_session(token_hash(alice.token))
        assert row is not None
        assert row.expires_at == clock.now + 3600
    assert clock.now > NOW + 3600


async def test_o2_presence_lasts_while_the_device_is_connected(server: Server, clock: Clock) -> None:
    alice = await server.connect(ALICE)
    board = server.context.presence
    assert upkeep_of(server, keepalive=3600)._presence_interval <= 30 / 2
    for _ in range(6):
        clock.now += 10
        await board.refresh()
        assert await board.state_of(ALICE.device_id) == "online"
    assert clock.now > NOW + 30

    alice.stream.close()
    while await alice.next_frame() is not None:
        pass
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert await board.state_of(ALICE.device_id) == "offline"


async def test_o4_the_ledger_says_how_a_handshake_ended_and_whose_it_was(
    server: Server, records: list[dict[str, Any]]
) -> None:
    await server.connect(ALICE)
    thief = Person(handle="alice", device_id=ALICE.device_id)
    assert (await server.open(thief).handshake()).refused
    await trio.testing.wait_all_tasks_blocked()

    ends = [record for record in records if record.get("scope") == "handshake"]
    assert [record["result"] for record in ends] == ["success", "failure"]
    assert [record["device"] for record in ends] == [ALICE.device_id, ALICE.device_id]


async def test_o5_handshakes_are_counted(server: Server) -> None:
    await server.connect(ALICE)
    thief = Person(handle="alice", device_id=ALICE.device_id)
    await server.open(thief).handshake()

    assert (server.context.counters.handshakes, server.context.counters.handshakes_failed) == (1, 1)
