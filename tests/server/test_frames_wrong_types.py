"""Every member of every control frame, missing or as another kind of JSON value: refused, and no more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from commucat_proto import DELIVERY_ACK, FrameType, json_text
from commucat_proto.calls import (
    DEFAULT_AUDIO,
    DEFAULT_PROFILE,
    DEFAULT_VIDEO,
    AudioCodec,
    CallAnswer,
    CallEnd,
    CallOffer,
    CallStats,
    CallTransport,
    CallTransportUpdate,
    CandidateType,
    ConsentKeepalive,
    EndReason,
    Hardware,
    IceCredentials,
    MediaCapabilities,
    MediaStreamStats,
    NewCandidate,
    RejectReason,
    SelectedCandidatePair,
    SourceMode,
    StreamDirection,
    TcpType,
    TransportCandidate,
    TransportCandidateRef,
    VideoCodec,
)
from server.connect_builders import Client, Person, running_server

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")

CANDIDATE = TransportCandidate(
    address="192.0.2.7",
    port=4000,
    foundation="f",
    component=1,
    priority=1,
    candidate_type=CandidateType.HOST,
    related_address="192.0.2.8",
    related_port=1,
    tcp_type=TcpType.SIMULTANEOUS_OPEN,
    sdp_mid="0",
    sdp_mline_index=0,
    url="stun:x",
)
PEER = TransportCandidateRef(
    address="192.0.2.7", port=1, candidate_type=CandidateType.HOST, foundation="f", priority=1
)
TRANSPORT = CallTransport(
    candidates=(CANDIDATE,),
    fingerprints=("f",),
    ice_credentials=IceCredentials(username_fragment="u", password="p", expires_at=1),
    consent_interval_secs=1,
)
ABILITIES = MediaCapabilities(audio=DEFAULT_AUDIO.available_codecs, video=DEFAULT_VIDEO.available_codecs)
PROFILE = attrs.evolve(
    DEFAULT_PROFILE,
    video=attrs.evolve(DEFAULT_VIDEO, capabilities=ABILITIES, hardware=(Hardware.CPU,)),
    capabilities=ABILITIES,
)
STATS = MediaStreamStats(
    bitrate=1,
    packet_loss=0.5,
    rtt_ms=1,
    frames_per_second=1,
    key_frames=1,
    codec="opus",
    source=SourceMode.RAW,
    hardware=Hardware.CPU,
)
CALLS = [
    CallOffer(
        call_id="c",
        sender=ALICE.device_id,
        to=(BOB.device_id,),
        media=PROFILE,
        transport=TRANSPORT,
        expires_at=1,
        ephemeral_key="k",
    ),
    CallAnswer(
        call_id="c",
        accept=True,
        media=PROFILE,
        transport=TRANSPORT,
        reason=RejectReason.BUSY,
        selected_audio_codec=AudioCodec.OPUS,
        selected_video_codec=VideoCodec.VP8,
        audio_source=SourceMode.RAW,
        video_source=SourceMode.RAW,
        video_hardware=Hardware.CPU,
    ),
    CallEnd(call_id="c", reason=EndReason.HANGUP),
    CallStats(call_id="c", direction=StreamDirection.SEND, audio=STATS, video=STATS, timestamp=1),
    CallTransportUpdate(call_id="c", update=NewCandidate(candidate=CANDIDATE)),
    CallTransportUpdate(call_id="c", update=SelectedCandidatePair(local=PEER, remote=PEER, rtt_ms=1)),
    CallTransportUpdate(call_id="c", update=ConsentKeepalive(interval_secs=1)),
]
GOOD: list[tuple[FrameType, dict[str, Any]]] = [
    (FrameType.JOIN, {"members": [], "relay": False}),
    (FrameType.JOIN, {"group_id": "no group"}),
    (FrameType.TYPING, {"device": ALICE.device_id}),
    (FrameType.GROUP_CREATE, {"group_id": "g", "members": ["x"], "roles": {"x": "admin"}, "relay": True}),
    (FrameType.GROUP_INVITE, {"group_id": "no group", "device": BOB.device_id, "role": "member"}),
    (FrameType.GROUP_INVITE, {"group_id": "no group", "member": BOB.device_id}),
    (FrameType.GROUP_EVENT, {"group_id": "no group", "event": "role", "device": "x", "role": "admin"}),
    (FrameType.GROUP_EVENT, {"group_id": "no group", "event": "leave"}),
    *((message.frame_type, message.to_wire()) for message in CALLS),
]
WRONG: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    -(2**63),
    10**25,
    0.5,
    1e308,
    "",
    "NaN",
    "x" * 200_000,
    [],
    [None],
    {},
    {"a": []},
)
FREE = {"metadata"}
"""Members that may be anything."""
NEEDED = {"call_id", "from", "to", "accept", "direction", "update", "candidate", "local", "remote", "address"}
NEEDED |= {"port", "username_fragment", "password", "codec", "width", "height", "event"}
NOT_NEEDED_HERE = {(FrameType.CALL_STATS, "codec")}
NEVER_NULL = NEEDED | {"members", "relay", "roles", "role", "device", "member", "prefer_relay", "candidates"}
NEVER_NULL |= {"fingerprints", "trickle", "fec", "dtx", "protocol", "adaptive", "packet_loss", "jitter_ms"}


def kind(value: Any) -> type:
    """Of JSON; ``true`` is no number."""
    return type(value)


def wrong_for(key: str, value: Any, frame_type: FrameType) -> Iterator[Any]:
    for other in WRONG:
        if other is None:
            if key in NEVER_NULL and (frame_type, key) not in NOT_NEEDED_HERE:
                yield other
        elif kind(other) is kind(value):
            # The same kind is wrong only where it is out of every range.
            if kind(value) is int and other not in (0, 2**63):
                yield other
        elif not (kind(value) is float and kind(other) is int):
            yield other


def spoiled(value: Any, key: str, frame_type: FrameType) -> Iterator[Any]:
    """The value with one thing wrong in it, at whatever depth."""
    yield from wrong_for(key, value, frame_type)
    if isinstance(value, dict):
        for name, member in value.items():
            rest = {n: m for n, m in value.items() if n != name}
            if name in NEEDED and (frame_type, name) not in NOT_NEEDED_HERE:
                yield rest
            if name not in FREE and member is not None:
                for wrong in spoiled(member, name, frame_type):
                    yield {**rest, name: wrong}
    elif isinstance(value, list):
        for place, item in enumerate(value):
            for wrong in spoiled(item, "item", frame_type):
                yield [*value[:place], wrong, *value[place + 1 :]]


def refusable(frame_type: FrameType, value: Any) -> bool:
    """Not what the page tolerates: members of a Join that are no ids are left out."""
    return not (frame_type is FrameType.JOIN and isinstance(value.get("members", None), list))


async def answers_of(alice: Client, frame_type: FrameType, values: list[Any]) -> list[dict[str, Any]]:
    sequences = []
    answers = []
    for value in values:
        sequences.append(alice.send(frame_type, CHANNEL, value))
        frame = await alice.next_frame()
        assert frame is not None
        assert frame.channel == CHANNEL
        answers.append(dict(frame.control))  # type: ignore[arg-type]
    assert [answer.get("ref", answer.get("ack")) for answer in answers] == sequences
    return answers


@pytest.mark.parametrize(("frame_type", "good"), GOOD, ids=lambda value: getattr(value, "label", ""))
async def test_member_of_another_kind_is_refused(
    tmp_path: Path, frame_type: FrameType, good: dict[str, Any]
) -> None:
    async with running_server(tmp_path) as server:
        alice = await server.connect(ALICE)
        # As it is, it is understood, whatever comes of it.
        [understood] = await answers_of(alice, frame_type, [good])
        assert understood.get("error") != "bad_request"
        values = [
            value
            for value in spoiled(good, "", frame_type)
            if not isinstance(value, dict) or refusable(frame_type, value)
        ]
        values = [v for v in values if len(json_text.dumps(v)) <= 262_144 and v != {}]

        for value, answer in zip(values, await answers_of(alice, frame_type, values), strict=True):
            assert answer.get("error") == "bad_request", (str(value)[:500], answer)
            assert set(answer) == {"error", "title", "detail", "ref"}
            assert answer["title"] == "Frame refused"
            assert 0 < len(answer["detail"]) < 300
        assert "ack" in await alice.join(CHANNEL)


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:12])
async def test_leave_takes_any_json(tmp_path: Path, value: Any) -> None:
    async with running_server(tmp_path) as server:
        alice = await server.connect(ALICE)

        assert await answers_of(alice, FrameType.LEAVE, [value]) == [{"ack": 3}]


@pytest.mark.parametrize("frame_type", [FrameType.PRESENCE, FrameType.ACK, FrameType.KEY_UPDATE])
async def test_frames_without_an_answer_get_one_when_they_are_wrong(
    tmp_path: Path, frame_type: FrameType
) -> None:
    key, channel = ("state", 0) if frame_type is FrameType.PRESENCE else ("ack", 0)
    async with running_server(tmp_path) as server:
        alice = await server.connect(ALICE, capabilities=(DELIVERY_ACK,))
        wrong = [value for value in WRONG if not isinstance(value, dict)]
        if frame_type is not FrameType.KEY_UPDATE:
            fine = str if frame_type is FrameType.PRESENCE else int
            bad = [
                v for v in WRONG if kind(v) is not fine or v == "x" * 200_000 or v in (-1, -(2**63), 10**25)
            ]
            wrong += [{key: value} for value in bad]
        if frame_type is FrameType.ACK:
            wrong += [{}]

        for value in wrong:
            answer = await alice.answer(alice.send(frame_type, channel, value))
            assert answer["error"] == "bad_request", (str(value)[:100], answer)
        assert "ack" in await alice.join(CHANNEL)
