"""Every control frame with something wrong in it: an Error that says what, and the session goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commucat_media import AudioCodec, AudioPacket, MediaSource, encode_packet
from commucat_proto import FrameType
from server.connect_builders import Person, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CANDIDATE = {"address": "192.0.2.7", "port": 4000}
LONG = "x" * 200_000
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
        good = encode_packet(AudioPacket(source=MediaSource.ENCODED, codec=AudioCodec.OPUS, data=b"v"))
        assert await alice.answer(alice.send(frame_type, CHANNEL, good)) == {"ack": 5}
        assert (await bob.next_of(frame_type)).payload == good
