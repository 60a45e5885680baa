"""The TransportUpdates about a call's media: strict both ways, and small whatever a peer sends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import CodecError, CodecErrorCode
from commucat_proto.calls import (
    MAX_SELECTED,
    MAX_SPEAKERS,
    MAX_STREAMS,
    ActiveSpeakers,
    AudioCodec,
    CallTransportUpdate,
    CallUpdate,
    CongestionReport,
    DeviceStreams,
    KeyFrameRequest,
    MediaStream,
    ReceiveSelection,
    SelectedVideo,
    StreamKind,
    VideoCodec,
    decode_call_message,
)
from commucat_proto.json_text import loads
from proto.frame_builders import json_values

devices = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128)
u32 = st.integers(0, 2**32 - 1)
layers = st.integers(0, 2)
media_updates: st.SearchStrategy[CallUpdate] = st.one_of(
    st.builds(
        ReceiveSelection,
        speakers=st.none() | st.integers(0, 255),
        audio=st.booleans(),
        video=st.none()
        | st.lists(
            st.builds(SelectedVideo, device=devices, layer=layers),
            unique_by=lambda each: each.device,
            max_size=3,
        ).map(tuple),
        transcode_audio=st.none() | st.sampled_from(AudioCodec),
        transcode_video=st.none() | st.sampled_from(VideoCodec),
    ),
    st.builds(KeyFrameRequest, device=devices),
    st.builds(ActiveSpeakers, devices=st.lists(devices, unique=True, max_size=MAX_SPEAKERS).map(tuple)),
    st.builds(
        DeviceStreams,
        device=devices,
        streams=st.lists(
            st.builds(MediaStream, stream=u32, kind=st.sampled_from(StreamKind), layer=layers),
            unique_by=lambda each: each.stream,
            max_size=3,
        ).map(tuple),
    ),
    st.builds(CongestionReport, device=devices, dropped=u32, bitrate=st.none() | u32),
)


@given(media_updates)
def test_each_comes_back_as_it_was_said(update: CallUpdate) -> None:
    said = CallTransportUpdate(call_id="c", update=update)

    assert decode_call_message("TransportUpdate", loads(said.encode())) == said


def test_the_words_on_the_wire_are_those_of_the_protocol() -> None:
    selection = ReceiveSelection(
        speakers=3, video=(SelectedVideo(device="bob", layer=1),), transcode_audio=AudioCodec.OPUS
    )
    streams = DeviceStreams(
        device="bob", streams=(MediaStream(stream=2**32 - 1, kind=StreamKind.VIDEO, layer=2),)
    )

    assert CallTransportUpdate(call_id="c", update=selection).to_wire() == {
        "call_id": "c",
        "update": "receive",
        "speakers": 3,
        "audio": True,
        "video": [{"device": "bob", "layer": 1}],
        "transcode_audio": "opus",
        "transcode_video": None,
    }
    assert CallTransportUpdate(call_id="c", update=streams).to_wire() == {
        "call_id": "c",
        "update": "streams",
        "device": "bob",
        "streams": [{"stream": 2**32 - 1, "kind": "video", "layer": 2}],
    }


def test_what_is_left_out_of_a_selection_is_everything() -> None:
    message = decode_call_message("TransportUpdate", {"call_id": "c", "update": "receive"})

    assert message == CallTransportUpdate(call_id="c", update=ReceiveSelection())


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"update": "receive", "speakers": 256}, "speakers"),
        ({"update": "receive", "speakers": True}, "speakers"),
        ({"update": "receive", "speakers": -1}, "speakers"),
        ({"update": "receive", "audio": None}, "audio"),
        ({"update": "receive", "video": {}}, "video"),
        ({"update": "receive", "video": [{"device": ""}]}, "video.0.device"),
        ({"update": "receive", "video": [{"device": "x" * 129}]}, "video.0.device"),
        ({"update": "receive", "video": [{"device": "a\nb"}]}, "video.0.device"),
        ({"update": "receive", "video": [{"device": "bob", "layer": 3}]}, "video.0.layer"),
        ({"update": "receive", "video": [{"device": "bob", "layer": 1.0}]}, "video.0.layer"),
        ({"update": "receive", "video": [{"device": "bob"}, {"device": "bob", "layer": 0}]}, "video"),
        ({"update": "receive", "video": [{"device": str(i)} for i in range(MAX_SELECTED + 1)]}, "video"),
        ({"update": "receive", "transcode_audio": "vp8"}, "transcode_audio"),
        ({"update": "receive", "transcode_video": "opus"}, "transcode_video"),
        ({"update": "key_frame"}, "device"),
        ({"update": "key_frame", "device": None}, "device"),
        ({"update": "speakers", "devices": [str(i) for i in range(MAX_SPEAKERS + 1)]}, "devices"),
        ({"update": "speakers", "devices": ["bob", "bob"]}, "devices"),
        (
            {"update": "streams", "device": "bob", "streams": [{"stream": -1, "kind": "audio"}]},
            "streams.0.stream",
        ),
        (
            {"update": "streams", "device": "bob", "streams": [{"stream": 1, "kind": "text"}]},
            "streams.0.kind",
        ),
        (
            {"update": "streams", "device": "bob", "streams": [{"stream": 1, "kind": "audio"}] * 2},
            "streams",
        ),
        (
            {
                "update": "streams",
                "device": "bob",
                "streams": [{"stream": i, "kind": "audio"} for i in range(MAX_STREAMS + 1)],
            },
            "streams",
        ),
        ({"update": "congestion", "device": "bob"}, "dropped"),
        ({"update": "congestion", "device": "bob", "dropped": 2**32}, "dropped"),
    ],
)
def test_what_is_wrong_is_refused_and_named(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode_call_message("TransportUpdate", {"call_id": "c", **wrong})

    assert caught.value.code is CodecErrorCode.INVALID_CONTROL_JSON
    assert where in str(caught.value)


@given(
    st.sampled_from(["receive", "key_frame", "speakers", "streams", "congestion"]),
    st.dictionaries(
        st.sampled_from(
            [
                "speakers",
                "audio",
                "video",
                "device",
                "devices",
                "streams",
                "dropped",
                "bitrate",
                "transcode_audio",
            ]
        ),
        json_values,
    ),
)
def test_any_members_give_an_update_or_a_refusal(name: str, members: dict[str, Any]) -> None:
    wire = {**members, "call_id": "c", "update": name}
    try:
        message = decode_call_message("TransportUpdate", wire)
    except CodecError as exc:
        code = exc.code
    else:
        assert decode_call_message("TransportUpdate", message.to_wire()) == message
        return
    assert code is CodecErrorCode.INVALID_CONTROL_JSON
