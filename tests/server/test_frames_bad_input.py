"""Every control frame with something wrong in it: an Error that says what, and the session goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commucat_media import AudioCodec, AudioPacket, MediaSource, encode_packet
from commucat_proto import MAX_FRAME_LEN, FrameType, encode_varint
from proto.frame_builders import CONTROL_TYPES, UNREADABLE, raw_frame
from server.connect_builders import Person, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CANDIDATE = {"address": "192.0.2.7", "port": 4000}
LONG = "x" * 200_000
VOICE = encode_packet(AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=b"v"))
NESTED: Any = []
for _ in range(120):
    NESTED = [NESTED]

GOOD: dict[FrameType, dict[str, Any]] = {
    FrameType.JOIN: {"members": [BOB.device_id], "relay": False, "group_id": "g"},
    FrameType.TYPING: {"device": ALICE.device_id},
    FrameType.PRESENCE: {"state": "away"},
    FrameType.KEY_UPDATE: {},
    FrameType.GROUP_CREATE: {"group_id": "new", "members": [], "roles": {}, "relay": True},
    FrameType.GROUP_INVITE: {"group_id": "g", "device": BOB.device_id, "role": "member"},
    FrameType.GROUP_EVENT: {"group_id": "g", "event": "role", "device": BOB.device_id, "role": "admin"},
    FrameType.CALL_OFFER: {"call_id": "c", "from": ALICE.device_id, "to": [BOB.device_id]},
    FrameType.CALL_ANSWER: {"call_id": "c", "accept": True},
    FrameType.CALL_END: {"call_id": "c", "reason": "hangup"},
    FrameType.CALL_STATS: {"call_id": "c", "direction": "send"},
    FrameType.TRANSPORT_UPDATE: {"call_id": "c", "update": "candidate", "candidate": CANDIDATE},
}
OPTIONAL = {
    (FrameType.JOIN, "members"),
    (FrameType.JOIN, "relay"),
    (FrameType.JOIN, "group_id"),
    (FrameType.TYPING, "device"),
    (FrameType.PRESENCE, "state"),
    (FrameType.GROUP_CREATE, "group_id"),
    (FrameType.GROUP_CREATE, "members"),
    (FrameType.GROUP_CREATE, "roles"),
    (FrameType.GROUP_CREATE, "relay"),
    (FrameType.GROUP_INVITE, "role"),
}


TOLERATED = {
    # Members that are no ids are left out, roles of devices that are no members too; a word that names
    # no role grants the least.
    (FrameType.JOIN, "members", "nested"),
    (FrameType.GROUP_CREATE, "roles", "object"),
    (FrameType.GROUP_INVITE, "role", "long"),
}


def spoiled(frame_type: FrameType) -> Iterator[tuple[str, Any]]:
    """(what is wrong, JSON): each is wrong in one place."""
    good = GOOD[frame_type]
    for other in ([], "text", 7, None, True, NESTED):
        yield f"is {type(other).__name__}", other
    for key in good:
        if (frame_type, key) not in OPTIONAL:
            yield f"without {key}", {name: value for name, value in good.items() if name != key}
        for name, wrong in (("number", 7.5), ("long", LONG), ("nested", NESTED), ("object", {"a": 1})):
            if (frame_type, key, name) in TOLERATED:
                continue
            changed = good | {key: wrong}
            if key == "members":
                changed.pop("group_id", None)
            yield f"{key} is {name}", changed


@pytest.mark.parametrize("frame_type", GOOD, ids=lambda frame_type: frame_type.label)
async def test_wrong_json_is_refused_and_the_session_lives(tmp_path: Path, frame_type: FrameType) -> None:
    async with running_server(tmp_path) as server:
        await server.connect(BOB)
        alice = await server.connect(ALICE)
        answers = {
            wrong: await alice.answer(alice.send(frame_type, CHANNEL, value))
            for wrong, value in spoiled(frame_type)
        }

        assert {what: a.get("error") for what, a in answers.items()} == dict.fromkeys(answers, "bad_request")
        for answer in answers.values():
            assert set(answer) == {"error", "title", "detail", "ref"}
            assert answer["title"] == "Frame refused"
            assert 0 < len(answer["detail"]) < 300
            assert LONG[:100] not in answer["detail"]
        assert "ack" in await alice.join(CHANNEL, BOB.device_id)


@pytest.mark.parametrize(
    ("frame_type", "member"),
    [
        (FrameType.GROUP_CREATE, {"group_id": ""}),
        (FrameType.GROUP_CREATE, {"group_id": "line\nbreak"}),
        (FrameType.GROUP_CREATE, {"members": ["ok", ""]}),
        (FrameType.GROUP_CREATE, {"members": [1]}),
        (FrameType.GROUP_CREATE, {"members": ["a"], "roles": {"a": 1}}),
        (FrameType.GROUP_INVITE, {"device": "x" * 129}),
        (FrameType.GROUP_EVENT, {"event": ""}),
        (FrameType.GROUP_EVENT, {"event": "e" * 65}),
        (FrameType.CALL_OFFER, {"from": BOB.device_id}),
        (FrameType.CALL_OFFER, {"call_id": ""}),
        (FrameType.CALL_OFFER, {"media": {"audio": {}}}),
        (FrameType.CALL_ANSWER, {"reason": "bored"}),
        (FrameType.CALL_END, {"reason": "bored"}),
        (FrameType.CALL_STATS, {"audio": {"bitrate": -1}}),
        (FrameType.TRANSPORT_UPDATE, {"candidate": CANDIDATE | {"port": 70_000}}),
        (FrameType.TRANSPORT_UPDATE, {"update": "teleport"}),
    ],
    ids=str,
)
async def test_wrong_values_are_refused(
    tmp_path: Path, frame_type: FrameType, member: dict[str, Any]
) -> None:
    async with running_server(tmp_path) as server:
        alice = await server.connect(ALICE)

        answer = await alice.answer(alice.send(frame_type, CHANNEL, GOOD[frame_type] | member))

        assert answer["error"] == "bad_request"
        assert "ack" in await alice.join(CHANNEL, BOB.device_id)


@pytest.mark.parametrize("why", UNREADABLE)
async def test_unreadable_json_is_refused_and_later_frames_of_the_read_work(tmp_path: Path, why: str) -> None:
    """Of every type, those that are ignored otherwise too; all of it in one write."""
    payload, _ = UNREADABLE[why]
    async with running_server(tmp_path) as server:
        alice, bob = await server.connect(ALICE), await server.connect(BOB)
        await alice.join(CHANNEL, BOB.device_id)
        bad = [raw_frame(kind, 50 + kind, 1000 + kind, payload) for kind in CONTROL_TYPES]
        sequence, good = alice.session.frame(FrameType.MSG, CHANNEL, b"behind them")

        alice.stream.write(alice.session.seal([*bad, good]))

        kind = "too_large" if why == "too long" else "bad_request"
        for frame_type in CONTROL_TYPES:
            frame = await alice.next_of(FrameType.ERROR)
            error = frame.control
            assert frame.channel == 50 + frame_type
            assert isinstance(error, dict)
            assert set(error) == {"error", "title", "detail", "ref"}
            assert (error["error"], error["ref"]) == (kind, 1000 + frame_type)
            assert len(error["detail"]) < 100
        assert await alice.answer(sequence) == {"ack": sequence}
        assert (await bob.next_of(FrameType.MSG)).payload == b"behind them"


async def test_frame_over_the_limit_ends_the_session_whatever_its_type(tmp_path: Path) -> None:
    """Only its announcement is there: nothing of it is kept, and the next frame cannot be found."""
    async with running_server(tmp_path, max_frame_len=300_000) as server:
        alice = await server.connect(ALICE)
        alice.stream.write(alice.session.seal([encode_varint(300_001) + bytes((FrameType.JOIN,))]))

        error = (await alice.next_of(FrameType.ERROR)).control

        assert error == {"error": "decode", "detail": "frame exceeds limits"}
        assert await alice.next_frame() is None


async def test_media_that_would_be_no_frame_for_its_receiver_is_refused(tmp_path: Path) -> None:
    async with running_server(tmp_path, max_frame_len=MAX_FRAME_LEN) as server:
        alice, bob = await server.connect(ALICE), await server.connect(BOB)
        await alice.join(CHANNEL, BOB.device_id)
        for _ in range(130):
            await alice.answer(alice.send(FrameType.VOICE_FRAME, CHANNEL, VOICE))
        alice.session._sequence = 1  # the shortest header, and the receiver's own counter is longer

        answer = await alice.answer(
            alice.send(FrameType.VIDEO_FRAME, CHANNEL, VOICE + bytes(MAX_FRAME_LEN - 11))
        )

        assert answer["error"] == "too_large"
        assert "ack" in await alice.message(CHANNEL, b"the store still works")
        assert (await bob.next_of(FrameType.MSG)).payload == b"the store still works"


async def test_frame_that_outgrows_its_limit_by_what_the_server_adds_is_refused(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        alice = await server.connect(ALICE)
        value = {"label": "x" * (262_144 - len('{"label":""}'))}

        answer = await alice.answer(alice.send(FrameType.TYPING, CHANNEL, value))

        assert answer["error"] == "too_large"


@pytest.mark.parametrize("frame_type", [FrameType.VOICE_FRAME, FrameType.VIDEO_FRAME])
@pytest.mark.parametrize("payload", [b"", b"\x01\x00", b"\x02\x00\x00x", b"\x01\x03\x00x", b"\x01\x00\x07x"])
async def test_media_without_a_header_is_dropped_and_said_so(
    tmp_path: Path, frame_type: FrameType, payload: bytes
) -> None:
    async with running_server(tmp_path) as server:
        alice, bob = await server.connect(ALICE), await server.connect(BOB)
        await alice.join(CHANNEL, BOB.device_id)

        answer = await alice.answer(alice.send(frame_type, CHANNEL, payload))

        assert (answer["error"], answer["ref"]) == ("bad_media", 4)
        assert await alice.answer(alice.send(frame_type, CHANNEL, VOICE)) == {"ack": 5}
        assert (await bob.next_of(frame_type)).payload == VOICE
