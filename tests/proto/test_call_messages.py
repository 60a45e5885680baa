import enum
import json
from contextlib import suppress
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto.calls import (
    DEFAULT_AUDIO,
    DEFAULT_PROFILE,
    DEFAULT_VIDEO,
    AudioCodec,
    AudioCodecDescriptor,
    AudioParameters,
    CallAnswer,
    CallEnd,
    CallMediaProfile,
    CallMessage,
    CallMode,
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
    Resolution,
    SelectedCandidatePair,
    SourceMode,
    StreamDirection,
    TcpType,
    TransportCandidate,
    TransportCandidateRef,
    TransportProtocol,
    VideoCodec,
    VideoCodecDescriptor,
    VideoParameters,
    decode_call_message,
)
from commucat_proto.errors import CodecError, CodecErrorCode, LocalProtocolError
from commucat_proto.frames import Frame, FrameType, decode_frame
from commucat_proto.json_text import dumps, loads
from proto.frame_builders import json_values, texts


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1) | st.just(2**bits - 1)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=2).map(tuple)


def one_of(members: type[enum.Enum]) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(members))


resolutions = st.builds(Resolution, width=unsigned(16), height=unsigned(16))
audio_descriptors = st.builds(
    AudioCodecDescriptor,
    codec=one_of(AudioCodec),
    bitrate=maybe(unsigned(32)),
    sample_rate=maybe(unsigned(32)),
    channels=maybe(unsigned(8)),
    priority=unsigned(8),
)
video_descriptors = st.builds(
    VideoCodecDescriptor,
    codec=one_of(VideoCodec),
    max_bitrate=maybe(unsigned(32)),
    max_resolution=maybe(resolutions),
    frame_rate=maybe(unsigned(8)),
    hardware=some(one_of(Hardware)),
    priority=unsigned(8),
    supports_scalability=st.booleans(),
)
capabilities = st.builds(
    MediaCapabilities,
    audio=some(audio_descriptors),
    video=some(video_descriptors),
    allow_raw_audio=st.booleans(),
    allow_raw_video=st.booleans(),
)
audio_parameters = st.builds(
    AudioParameters,
    codec=one_of(AudioCodec),
    bitrate=unsigned(32),
    sample_rate=unsigned(32),
    channels=unsigned(8),
    fec=st.booleans(),
    dtx=st.booleans(),
    source=one_of(SourceMode),
    preferred_codecs=some(one_of(AudioCodec)),
    available_codecs=some(audio_descriptors),
    allow_passthrough=st.booleans(),
)
video_parameters = st.builds(
    VideoParameters,
    codec=one_of(VideoCodec),
    max_bitrate=unsigned(32),
    max_resolution=resolutions,
    frame_rate=unsigned(8),
    adaptive=st.booleans(),
    source=one_of(SourceMode),
    preferred_codecs=some(one_of(VideoCodec)),
    available_codecs=some(video_descriptors),
    hardware=some(one_of(Hardware)),
    allow_passthrough=st.booleans(),
    capabilities=maybe(capabilities),
)
profiles = st.builds(
    CallMediaProfile,
    audio=audio_parameters,
    video=maybe(video_parameters),
    mode=one_of(CallMode),
    capabilities=maybe(capabilities),
)
candidates = st.builds(
    TransportCandidate,
    address=texts,
    port=unsigned(16),
    protocol=one_of(TransportProtocol),
    foundation=maybe(texts),
    component=maybe(unsigned(8)),
    priority=maybe(unsigned(32)),
    candidate_type=maybe(one_of(CandidateType)),
    related_address=maybe(texts),
    related_port=maybe(unsigned(16)),
    tcp_type=maybe(one_of(TcpType)),
    sdp_mid=maybe(texts),
    sdp_mline_index=maybe(unsigned(16)),
    url=maybe(texts),
)
candidate_refs = st.builds(
    TransportCandidateRef,
    address=texts,
    port=unsigned(16),
    protocol=one_of(TransportProtocol),
    candidate_type=maybe(one_of(CandidateType)),
    foundation=maybe(texts),
    priority=maybe(unsigned(32)),
)
transports = st.builds(
    CallTransport,
    prefer_relay=st.booleans(),
    candidates=some(candidates),
    fingerprints=some(texts),
    ice_credentials=maybe(
        st.builds(IceCredentials, username_fragment=texts, password=texts, expires_at=maybe(unsigned(64)))
    ),
    trickle=st.booleans(),
    consent_interval_secs=maybe(unsigned(16)),
)
stream_stats = st.builds(
    MediaStreamStats,
    bitrate=unsigned(32),
    packet_loss=st.floats(-1e30, 1e30),
    jitter_ms=unsigned(32),
    rtt_ms=maybe(unsigned(32)),
    frames_per_second=maybe(unsigned(8)),
    key_frames=maybe(unsigned(32)),
    codec=maybe(texts),
    source=maybe(one_of(SourceMode)),
    hardware=maybe(one_of(Hardware)),
)
updates = st.one_of(
    st.builds(NewCandidate, candidate=candidates),
    st.builds(SelectedCandidatePair, local=candidate_refs, remote=candidate_refs, rtt_ms=maybe(unsigned(32))),
    st.builds(ConsentKeepalive, interval_secs=maybe(unsigned(16))),
)
messages: st.SearchStrategy[CallMessage] = st.one_of(
    st.builds(
        CallOffer,
        call_id=texts,
        sender=texts,
        to=some(texts),
        media=profiles,
        metadata=json_values,
        transport=maybe(transports),
        expires_at=maybe(unsigned(64)),
        ephemeral_key=maybe(texts),
    ),
    st.builds(
        CallAnswer,
        call_id=texts,
        accept=st.booleans(),
        media=maybe(profiles),
        transport=maybe(transports),
        reason=maybe(one_of(RejectReason)),
        metadata=json_values,
        selected_audio_codec=maybe(one_of(AudioCodec)),
        selected_video_codec=maybe(one_of(VideoCodec)),
        audio_source=maybe(one_of(SourceMode)),
        video_source=maybe(one_of(SourceMode)),
        video_hardware=maybe(one_of(Hardware)),
    ),
    st.builds(CallEnd, call_id=texts, reason=one_of(EndReason), metadata=json_values),
    st.builds(
        CallStats,
        call_id=texts,
        direction=one_of(StreamDirection),
        audio=maybe(stream_stats),
        video=maybe(stream_stats),
        timestamp=maybe(unsigned(64)),
    ),
    st.builds(CallTransportUpdate, call_id=texts, update=updates),
)


@given(messages)
def test_round_trip_through_a_frame(message: CallMessage) -> None:
    frame, _ = decode_frame(message.to_frame(3, 4).encode())
    assert frame == Frame(message.frame_type, 3, 4, message.encode())
    assert decode_call_message(frame.type, frame.control) == message


@given(messages)
def test_no_member_is_left_out(message: CallMessage) -> None:
    wire = message.to_wire()
    for attribute in attrs.fields(cast("Any", type(message))):
        assert {"sender": "from"}.get(attribute.name, attribute.name) in wire


@given(messages, st.data())
def test_any_change_of_a_member_gives_a_message_or_a_codec_error(
    message: CallMessage, data: st.DataObject
) -> None:
    wire = json.loads(json.dumps(message.to_wire()))
    place: Any = wire
    # Walk down a random path and put something else at its end.
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(json_values)
        break
    with suppress(CodecError):
        decoded = decode_call_message(message.frame_type, wire)
        assert decode_call_message(message.frame_type, loads(decoded.encode())) == decoded


@given(
    st.sampled_from(["CallOffer", "CallAnswer", "CallEnd", "CallStats", "CallTransportUpdate"]), json_values
)
def test_garbage_is_a_codec_error(name: str, value: Any) -> None:
    with pytest.raises(CodecError) as caught:
        decode_call_message(name, value)
    assert caught.value.code is CodecErrorCode.INVALID_CONTROL_JSON


OFFER: dict[str, Any] = {"call_id": "c", "from": "a", "to": ["b"]}
AUDIO: dict[str, Any] = {"codec": "opus", "bitrate": 1, "sample_rate": 2, "channels": 1}
VIDEO: dict[str, Any] = {
    "codec": "vp8",
    "max_bitrate": 1,
    "max_resolution": {"width": 1, "height": 1},
    "frame_rate": 1,
}


def offer(**members: Any) -> CallMessage:
    return decode_call_message(FrameType.CALL_OFFER, {**OFFER, **members})


def with_audio(**members: Any) -> dict[str, Any]:
    return {"media": {"audio": {**AUDIO, **members}}}


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"call_id": None}, "call_id"),
        ({"call_id": 1}, "call_id"),
        ({"to": None}, "to"),
        ({"to": ["b", 1]}, "to.1"),
        ({"to": {"0": "b"}}, "to"),
        ({"expires_at": -1}, "expires_at"),
        ({"expires_at": 2.0**64}, "expires_at"),
        ({"expires_at": 1.0}, "expires_at"),
        ({"expires_at": True}, "expires_at"),
        ({"expires_at": "1"}, "expires_at"),
        ({"media": []}, "media"),
        ({"media": {}}, "media.audio"),
        ({"media": {"audio": AUDIO, "mode": None}}, "media.mode"),
        ({"media": {"audio": AUDIO, "video": {}}}, "media.video.codec"),
        ({"media": {"audio": AUDIO, "video": {**VIDEO, "frame_rate": 256}}}, "media.video.frame_rate"),
        ({"media": {"audio": AUDIO, "video": {**VIDEO, "hardware": ["CPU"]}}}, "media.video.hardware.0"),
        (
            {"media": {"audio": AUDIO, "video": {**VIDEO, "max_resolution": None}}},
            "media.video.max_resolution",
        ),
        (with_audio(fec=1), "media.audio.fec"),
        (with_audio(fec=None), "media.audio.fec"),
        (with_audio(codec=["opus"]), "media.audio.codec"),
        (with_audio(available_codecs=[{"codec": "opus"}, {}]), "media.audio.available_codecs.1.codec"),
        (with_audio(preferred_codecs="opus"), "media.audio.preferred_codecs"),
        ({"transport": {"candidates": [{"address": "h", "port": 65536}]}}, "transport.candidates.0.port"),
        ({"transport": {"udp_candidates": [{"port": 1}]}}, "transport.udp_candidates.0.address"),
        ({"transport": {"udp_candidates": None}}, "transport.udp_candidates"),
        (
            {"transport": {"ice_credentials": {"password": "p"}}},
            "transport.ice_credentials.username_fragment",
        ),
        ({"transport": {"trickle": 0}}, "transport.trickle"),
    ],
)
def test_refusal_names_the_member_and_not_its_value(members: dict[str, Any], place: str) -> None:
    with pytest.raises(CodecError) as caught:
        offer(**members)
    assert caught.value.code is CodecErrorCode.INVALID_CONTROL_JSON
    assert caught.value.detail is not None
    assert caught.value.detail.startswith(f"{place}: ")


@pytest.mark.parametrize("loss", [None, "0", True, 1e39, -1e39, []])
def test_packet_loss_must_fit_a_32_bit_float(loss: Any) -> None:
    with pytest.raises(CodecError):
        decode_call_message(
            "CallStats", {"call_id": "c", "direction": "send", "audio": {"bitrate": 1, "packet_loss": loss}}
        )


@pytest.mark.parametrize("loss", [0, 1, 0.5, 0.012, 2**64 - 1, -0.0])
def test_packet_loss_may_be_an_integer(loss: float) -> None:
    stats = decode_call_message(
        "CallStats", {"call_id": "c", "direction": "send", "audio": {"bitrate": 1, "packet_loss": loss}}
    )
    assert isinstance(stats, CallStats)
    assert stats.audio is not None
    assert stats.audio.packet_loss == pytest.approx(loss, rel=1e-7)
    assert type(stats.audio.packet_loss) is float


@pytest.mark.parametrize(
    "wire",
    [
        {"update": "candidate", "candidate": {"address": "h", "port": 1}},
        {"call_id": None, "update": "consent_keepalive"},
        {"call_id": "c", "update": None},
        {"call_id": "c", "update": {"candidate": {}}},
        {"call_id": "c", "update": "Candidate", "candidate": {"address": "h", "port": 1}},
        {"call_id": "c", "update": "candidate", "candidate": None},
        {"call_id": "c", "update": "selected_candidate_pair", "local": {"address": "h", "port": 1}},
        {"call_id": "c", "update": "consent_keepalive", "interval_secs": 65536},
        {"call_id": "c", "update": "consent_keepalive", "interval_secs": 1.0},
        [],
    ],
)
def test_malformed_transport_updates_are_refused(wire: Any) -> None:
    with pytest.raises(CodecError):
        decode_call_message(FrameType.TRANSPORT_UPDATE, wire)


def test_members_of_another_kind_of_update_are_dropped() -> None:
    wire: dict[str, Any] = {
        "call_id": "c",
        "update": "consent_keepalive",
        "candidate": 5,
        "interval_secs": 3,
    }
    message = decode_call_message("TransportUpdate", wire)
    assert message == CallTransportUpdate(call_id="c", update=ConsentKeepalive(interval_secs=3))
    assert message.to_wire() == {"call_id": "c", "update": "consent_keepalive", "interval_secs": 3}


def test_missing_media_is_the_default_profile() -> None:
    message = offer()
    assert isinstance(message, CallOffer)
    assert message.media == DEFAULT_PROFILE
    assert message.media.audio == DEFAULT_AUDIO
    assert message.media.video is None
    assert VideoParameters.from_wire(DEFAULT_VIDEO.to_wire()) == DEFAULT_VIDEO


def test_missing_members_do_not_take_the_default_profiles_values() -> None:
    message = offer(**with_audio())
    assert isinstance(message, CallOffer)
    audio = message.media.audio
    assert (audio.fec, audio.source, audio.available_codecs) == (False, SourceMode.ENCODED, ())


def test_own_messages_are_checked_when_they_are_made() -> None:
    with pytest.raises(ValueError, match="bitrate"):
        AudioParameters(codec=AudioCodec.OPUS, bitrate=-1, sample_rate=1, channels=1)
    with pytest.raises(ValueError, match="to"):
        CallOffer(call_id="c", sender="a", to=["b"])  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="reason"):
        CallEnd(call_id="c", reason="hangup")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="update"):
        CallTransportUpdate(call_id="c", update=None)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="32-bit"):
        MediaStreamStats(bitrate=1, packet_loss=1e39)


def test_metadata_that_is_no_json_is_our_own_mistake() -> None:
    message = CallEnd(call_id="c", reason=EndReason.HANGUP, metadata=[object()])  # type: ignore[list-item]  # the point of the test
    with pytest.raises(LocalProtocolError):
        message.to_frame(1, 1)


def test_messages_are_found_by_frame_type_and_by_either_name() -> None:
    wire = {"call_id": "c", "update": "consent_keepalive"}
    by_type = decode_call_message(FrameType.TRANSPORT_UPDATE, wire)
    assert (
        by_type
        == decode_call_message("TransportUpdate", wire)
        == decode_call_message("CallTransportUpdate", wire)
    )
    for other in (FrameType.MSG, FrameType.ACK, "Msg", "call_offer", ""):
        with pytest.raises(LocalProtocolError):
            decode_call_message(other, wire)


def test_secrets_are_not_shown() -> None:
    credentials = IceCredentials(username_fragment="u", password="hidden-word")
    shown = repr(
        CallOffer(call_id="c", sender="a", to=(), transport=CallTransport(ice_credentials=credentials))
    )
    assert "hidden-word" not in shown


def test_text_is_sorted_and_compact() -> None:
    message = CallEnd(call_id="c", reason=EndReason.CANCEL, metadata={"b": 1, "a": 1.0})
    assert message.encode() == dumps(message.to_wire())
    assert message.encode() == b'{"call_id":"c","metadata":{"a":1.0,"b":1},"reason":"cancel"}'
