"""Limits at their real size: routes, members, numbers of inboxes and frames, the share of strangers."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from commucat_media import AudioCodec, AudioPacket, MediaSource, VideoCodec, VideoPacket, encode_packet
from commucat_proto import FrameType, encode_frame
from commucat_storage import SqliteSettings
from server.connect_builders import Client, Person, Server, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
MALLORY = Person(handle="mallory")
LAST = 2**32 - 1
ROUTES = 1_000
MEMBERS = 5_000


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """The store's file from outside, as an operator's tool has it."""
    with closing(sqlite3.connect(path / "store.db")) as connection, connection:
        yield connection


async def answers(client: Client, sequences: list[int]) -> list[dict[str, Any]]:
    return [await client.answer(sequence) for sequence in sequences]


async def sender_to_bob(server: Server, person: Person = ALICE) -> Client:
    client = await server.connect(person)
    assert "ack" in await client.join(CHANNEL, BOB.device_id)
    return client


async def test_a_device_has_a_thousand_routes_and_no_more(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        bob, alice = await server.connect(BOB), await server.connect(ALICE)
        await bob.join(0, ALICE.device_id)  # a stranger's share would be full
        value = {"members": [BOB.device_id]}
        joins = [alice.send(FrameType.JOIN, channel, value) for channel in range(1, ROUTES + 2)]
        joined = await answers(alice, joins)

        assert all("ack" in answer for answer in joined[:-1])
        assert joined[-1]["error"] == "too_many_routes"
        sent = [alice.send(FrameType.MSG, channel, b"%d" % channel) for channel in range(1, ROUTES + 2)]
        told = await answers(alice, sent)
        assert [answer.get("error") for answer in told] == [None] * ROUTES + ["no_route"]
        got = [await bob.next_of(FrameType.MSG) for _ in range(ROUTES)]
        assert [(f.channel, f.payload) for f in got] == [(c, b"%d" % c) for c in range(1, ROUTES + 1)]
        # One that is there can be replaced; one that is left makes room.
        assert "ack" in await alice.join(5, BOB.device_id, "ghost")
        assert "ack" in await alice.answer(alice.send(FrameType.LEAVE, 6, {}))
        assert "ack" in await alice.join(ROUTES + 1, BOB.device_id)


def add_crowd(path: Path, count: int) -> list[str]:
    """Devices beside those that are there, made as fast as a test needs it."""
    with database(path) as store:
        store.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO inbox_offset SELECT 1000 + i, printf('%032x', i), 1, 0, 0, 0, 0, 0, 0, 0, 0 FROM n",
            (count,),
        )
        store.execute(
            "INSERT INTO user_device SELECT printf('crowd-%d', o.inbox), d.user_id, d.public_key, 'active',"
            " 0, o.inbox FROM inbox_offset AS o, (SELECT * FROM user_device LIMIT 1) AS d"
            " WHERE o.inbox > 1000"
        )
    return [f"crowd-{1000 + number}" for number in range(1, count + 1)]


async def test_a_group_has_five_thousand_members_and_no_more(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        bob, alice = await server.connect(BOB), await server.connect(ALICE)
        crowd = add_crowd(tmp_path, MEMBERS - 1)
        whole = {"group_id": "g", "members": [BOB.device_id, *crowd[:-1]]}
        too_many = {"group_id": "h", "members": [BOB.device_id, *crowd]}

        full = await alice.answer(alice.send(FrameType.GROUP_CREATE, 8, too_many))
        made = await alice.answer(alice.send(FrameType.GROUP_CREATE, CHANNEL, whole))
        invited = await alice.answer(
            alice.send(FrameType.GROUP_INVITE, CHANNEL, {"group_id": "g", "device": crowd[-1]})
        )

        assert (full["error"], invited["error"]) == ("group_full", "group_full")
        assert made == {"ack": made["ack"], "group_id": "g"}
        assert await alice.message(CHANNEL, b"all") == {"ack": 6}
        assert (await bob.next_of(FrameType.GROUP_CREATE)).sequence == 1
        assert (await bob.next_of(FrameType.MSG)).payload == b"all"
        remove = {"group_id": "g", "event": "remove", "device": crowd[0]}
        assert "ack" in await alice.answer(alice.send(FrameType.GROUP_EVENT, CHANNEL, remove))
        assert await alice.message(CHANNEL, b"but one") == {"ack": 8}
        assert (await bob.next_of(FrameType.MSG)).payload == b"but one"
        with database(tmp_path) as store:
            stored = store.execute(
                "SELECT o.next_number - 1, count(*) FROM inbox_offset AS o JOIN user_device AS d"
                " ON d.inbox = o.inbox WHERE d.device_id <> ? GROUP BY 1 ORDER BY 1",
                (ALICE.device_id,),
            ).fetchall()
        # The one left out, the one removed, and all others.
        assert stored == [(0, 1), (3, 1), (4, MEMBERS - 2)]


async def test_the_last_number_of_an_inbox_is_given_out_and_then_a_connect_renews_it(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        bob, alice = await server.connect(BOB), await sender_to_bob(server)
        with database(tmp_path) as store:
            store.execute("UPDATE inbox_offset SET next_number = ?", (LAST - 1,))

        told = [await alice.message(CHANNEL, b"%d" % number) for number in range(3)]

        assert [answer.get("error") for answer in told] == [None, None, "quota"]
        got = [await bob.next_of(FrameType.MSG) for _ in range(2)]
        assert [(frame.sequence, frame.payload) for frame in got] == [(LAST - 1, b"0"), (LAST, b"1")]
        again = await server.connect(BOB)
        assert (await bob.next_of(FrameType.ERROR)).control["error"] == "replaced"  # type: ignore[index, call-overload]
        assert again.epoch != bob.epoch
        assert again.ack["inbox"] == {"epoch": again.epoch, "next": 3, "confirmed": 0}
        assert "ack" in await alice.message(CHANNEL, b"2")
        got = [await again.next_of(FrameType.MSG) for _ in range(3)]
        assert [(frame.sequence, frame.payload) for frame in got] == [(1, b"0"), (2, b"1"), (3, b"2")]


async def test_a_number_at_the_border_of_renewal_is_not_renewed(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        bob = await server.connect(BOB)
        with database(tmp_path) as store:
            store.execute("UPDATE inbox_offset SET next_number = ?", (2**31,))
        kept = await server.connect(BOB)
        with database(tmp_path) as store:
            store.execute("UPDATE inbox_offset SET next_number = ?", (2**31 + 1,))
        renewed = await server.connect(BOB)

        assert kept.epoch == bob.epoch
        assert renewed.epoch != bob.epoch
        assert renewed.ack["inbox"]["next"] == 1


async def test_any_sequence_of_a_client_is_echoed(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        alice = await server.connect(ALICE)
        for sequence in (0, LAST, 0, 1):
            alice.stream.write(alice.session.seal([encode_frame(FrameType.LEAVE, LAST, sequence, b"{}")]))
            answer = await alice.next_of(FrameType.ACK)
            assert (answer.channel, answer.control) == (LAST, {"ack": sequence})
            alice.stream.write(alice.session.seal([encode_frame(FrameType.MSG, LAST, sequence, b"")]))
            error: Any = (await alice.next_of(FrameType.ERROR)).control
            assert error["ref"] == sequence


async def test_the_servers_own_counter_starts_over(tmp_path: Path) -> None:
    """After 2^32-1 comes 1; inbox numbers are another count."""
    async with running_server(tmp_path) as server:
        bob, alice = await server.connect(BOB), await sender_to_bob(server)
        [live] = [live for live in server.context.registry if live.device_id == ALICE.device_id]
        live._next_sequence.__self__._sequence = LAST - 1  # type: ignore[attr-defined]

        for _ in range(3):
            alice.send(FrameType.MSG, CHANNEL, b"x")

        assert [(await alice.next_of(FrameType.ACK)).sequence for _ in range(3)] == [LAST, 1, 2]
        assert [(await bob.next_of(FrameType.MSG)).sequence for _ in range(3)] == [1, 2, 3]


async def test_strangers_fill_their_share_and_nothing_else(tmp_path: Path) -> None:
    limits = SqliteSettings(stranger_rows=5, max_rows=12)
    async with running_server(tmp_path, sqlite=limits) as server:
        bob = await server.connect(BOB)
        await bob.join(CHANNEL + 1, ALICE.device_id)  # bob knows alice, on another channel
        alice, mallory = await sender_to_bob(server), await sender_to_bob(server, MALLORY)

        flood = [mallory.send(FrameType.MSG, CHANNEL, b"flood") for _ in range(10)]
        told = await answers(mallory, flood)
        group = {"group_id": "m", "members": [BOB.device_id]}
        trick = await mallory.answer(mallory.send(FrameType.GROUP_CREATE, 9, group))
        again = await mallory.message(9, b"as a member of a group")
        alices = [await alice.message(CHANNEL, b"from a friend") for _ in range(7)]

        assert [answer.get("error") for answer in told] == [None] * 5 + ["quota"] * 5
        # Being put into a stranger's group is no relation.
        assert trick["refused"] == [{"device": BOB.device_id, "reason": "quota"}]
        assert again["error"] == "quota"
        assert [answer.get("error") for answer in alices] == [None] * 7
        assert (await alice.message(CHANNEL, b"over the whole limit"))["error"] == "quota"
        got = [await bob.next_of(FrameType.MSG) for _ in range(12)]
        assert [frame.payload for frame in got] == [b"flood"] * 5 + [b"from a friend"] * 7
        bob.send(FrameType.ACK, 0, {"ack": 12})
        await bob.join(CHANNEL + 2)
        assert "ack" in await mallory.message(CHANNEL, b"room again")


@pytest.mark.parametrize("frame_type", [FrameType.TYPING, FrameType.VOICE_FRAME, FrameType.VIDEO_FRAME])
@pytest.mark.parametrize("connected", [True, False])
async def test_live_frames_are_never_stored(tmp_path: Path, frame_type: FrameType, connected: bool) -> None:
    payload: Any = {"typing": True}
    if frame_type is FrameType.VOICE_FRAME:
        payload = encode_packet(AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=b"v"))
    elif frame_type is FrameType.VIDEO_FRAME:
        payload = encode_packet(VideoPacket(source=MediaSource.ENCODED, codec=VideoCodec.VP8, data=b"v"))
    async with running_server(tmp_path) as server:
        bob, alice = await server.connect(BOB), await sender_to_bob(server)
        if not connected:
            bob.stream.close()
            assert await bob.next_frame() is None
        for _ in range(20):
            assert await alice.answer(alice.send(frame_type, CHANNEL, payload)) == {
                "ack": alice.session._sequence
            }

        if connected:
            for _ in range(20):
                await bob.next_of(frame_type)
        again = await server.connect(BOB)
        assert again.ack["inbox"]["next"] == 1
        with database(tmp_path) as store:
            assert store.execute("SELECT count(*) FROM relay_queue").fetchone() == (0,)
            assert store.execute("SELECT count(*) FROM relay_payload").fetchone() == (0,)
