import pickle
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto.errors import CodecError, CodecErrorCode, LocalProtocolError, RemoteProtocolError
from commucat_proto.frames import (
    MAX_CHANNEL_ID,
    MAX_CONTROL_JSON_LEN,
    MAX_FRAME_LEN,
    MAX_SEQUENCE,
    PROTOCOL_VERSION,
    SUPPORTED_VERSIONS,
    Frame,
    FrameType,
    decode_frame,
    encode_frame,
    negotiate_version,
)
from commucat_proto.varint import encode_varint
from proto.frame_builders import CONTROL_TYPES, OPAQUE_TYPES, control_frames, frames


def code_of(data: bytes) -> CodecErrorCode:
    with pytest.raises(CodecError) as caught:
        decode_frame(data)
    return caught.value.code


def test_types_have_the_codes_and_names_of_the_protocol() -> None:
    names = " ".join(frame_type.wire_name for frame_type in FrameType)
    assert names == (
        "Hello Auth Join Leave Msg Ack Typing Presence KeyUpdate GroupCreate GroupInvite GroupEvent Error "
        "CallOffer CallAnswer CallEnd VoiceFrame VideoFrame CallStats TransportUpdate"
    )
    assert list(FrameType) == list(range(0x01, 0x15))
    assert FrameType.KEY_UPDATE.label == "key_update"
    assert {t.wire_name for t in OPAQUE_TYPES} == {"Msg", "VoiceFrame", "VideoFrame"}


@given(frames, st.binary(max_size=5), st.binary(max_size=5))
def test_round_trip_between_other_bytes(frame: Frame, before: bytes, after: bytes) -> None:
    encoded = frame.encode()
    decoded, used = decode_frame(before + encoded + after, len(before))
    assert (decoded, used) == (frame, len(encoded))
    assert type(decoded.payload) is bytes
    assert decoded.encode() == encoded


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_decodes_any_kind_of_buffer(kind: type) -> None:
    for frame in (Frame(FrameType.MSG, 1, 2, b"abc"), Frame.of_control(FrameType.ACK, 1, 2, {"ack": 3})):
        encoded = frame.encode()
        assert decode_frame(kind(encoded)) == (frame, len(encoded))


@given(control_frames)
def test_control_value_survives(frame: Frame) -> None:
    decoded, _ = decode_frame(frame.encode())
    assert decoded.control == frame.control
    assert decoded.control is decoded.control


@given(st.binary(max_size=40))
def test_garbage_gives_a_frame_or_a_codec_error(data: bytes) -> None:
    try:
        frame, used = decode_frame(data)
    except CodecError:
        return
    assert used <= len(data)
    assert decode_frame(frame.encode())[0] == frame


@given(frames, st.integers(0), st.integers(1, 255))
def test_one_damaged_byte_gives_a_frame_or_a_codec_error(frame: Frame, place: int, flip: int) -> None:
    damaged = bytearray(frame.encode())
    damaged[place % len(damaged)] ^= flip
    with suppress(CodecError):
        decode_frame(damaged)


def test_each_step_of_decoding_comes_before_the_next() -> None:
    # Every body breaks one rule and all later ones: the earlier rule is reported.
    over = encode_varint(2**32)
    too_long = encode_varint(MAX_FRAME_LEN + 1)
    assert code_of(too_long) is CodecErrorCode.FRAME_TOO_LARGE
    assert code_of(b"\x03\xff\x80") is CodecErrorCode.UNEXPECTED_EOF
    bodies = {
        b"\xff" + over: CodecErrorCode.INVALID_FRAME_TYPE,
        b"\x06" + over + over + too_long: CodecErrorCode.CHANNEL_ID_TOO_LARGE,
        b"\x06\x01" + over + too_long: CodecErrorCode.SEQUENCE_TOO_LARGE,
        b"\x06\x01\x01" + too_long: CodecErrorCode.PAYLOAD_TOO_LARGE,
        b"\x06\x01\x01\x02{": CodecErrorCode.UNEXPECTED_EOF,
        b"\x06\x01\x01\x01{": CodecErrorCode.INVALID_CONTROL_JSON,
    }
    for body, expected in bodies.items():
        assert code_of(encode_varint(len(body)) + body) is expected


def test_each_step_of_encoding_comes_before_the_next() -> None:
    big = bytes(MAX_FRAME_LEN + 1)
    steps: list[tuple[FrameType, int, int, bytes, CodecErrorCode]] = [
        (FrameType.ACK, MAX_CHANNEL_ID + 1, MAX_SEQUENCE + 1, big, CodecErrorCode.CHANNEL_ID_TOO_LARGE),
        (FrameType.ACK, MAX_CHANNEL_ID, MAX_SEQUENCE + 1, big, CodecErrorCode.SEQUENCE_TOO_LARGE),
        (FrameType.ACK, 0, 0, big, CodecErrorCode.CONTROL_TOO_LARGE),
        (FrameType.MSG, 0, 0, big, CodecErrorCode.PAYLOAD_TOO_LARGE),
        (FrameType.MSG, 0, 0, big[1:], CodecErrorCode.FRAME_TOO_LARGE),
        (FrameType.MSG, -1, 0, b"", CodecErrorCode.CHANNEL_ID_TOO_LARGE),
        (FrameType.MSG, 0, -1, b"", CodecErrorCode.SEQUENCE_TOO_LARGE),
    ]
    for frame_type, channel, sequence, payload, expected in steps:
        with pytest.raises(CodecError) as caught:
            encode_frame(frame_type, channel, sequence, payload)
        assert caught.value.code is expected


def test_largest_frames_pass() -> None:
    # type, three bytes of ids... one byte each for channel and sequence, four for the length
    largest = Frame(FrameType.MSG, 1, 1, bytes(MAX_FRAME_LEN - 7))
    assert decode_frame(largest.encode())[0] == largest
    control = Frame.of_control(FrameType.ACK, 1, 1, "a" * (MAX_CONTROL_JSON_LEN - 2))
    assert decode_frame(control.encode())[0].control == control.control


def test_payload_is_not_checked_against_the_type_when_encoding() -> None:
    encoded = encode_frame(FrameType.ACK, 1, 1, b"not json")
    assert code_of(encoded) is CodecErrorCode.INVALID_CONTROL_JSON


def test_control_of_a_frame_made_from_bytes_is_parsed_on_demand() -> None:
    assert Frame(FrameType.ACK, 0, 0, b'{"ack":1}').control == {"ack": 1}
    assert Frame(FrameType.ACK, 0, 0, b"null").control is None
    with pytest.raises(CodecError) as caught:
        _ = Frame(FrameType.ACK, 0, 0, b"{").control
    assert caught.value.code is CodecErrorCode.INVALID_CONTROL_JSON


@pytest.mark.parametrize("frame_type", OPAQUE_TYPES)
def test_opaque_frames_have_no_control_value(frame_type: FrameType) -> None:
    with pytest.raises(LocalProtocolError):
        _ = Frame(frame_type, 0, 0, b"{}").control
    with pytest.raises(LocalProtocolError):
        Frame.of_control(frame_type, 0, 0, {})


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"a": b"bytes"}, [object()]])
def test_value_without_json_is_our_own_mistake(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        Frame.of_control(FrameType.ACK, 0, 0, value)  # type: ignore[arg-type]  # the point of the test


def test_equality_and_hash_look_at_the_bytes_only() -> None:
    parsed, _ = decode_frame(encode_frame(FrameType.ACK, 1, 2, b"{}"))
    same = Frame(FrameType.ACK, 1, 2, b"{}")
    assert parsed == same
    assert hash(parsed) == hash(same)
    for other in (
        Frame(FrameType.TYPING, 1, 2, b"{}"),
        Frame(FrameType.ACK, 2, 2, b"{}"),
        Frame(FrameType.ACK, 1, 1, b"{}"),
        Frame(FrameType.ACK, 1, 2, b"{ }"),
        b"{}",
    ):
        assert parsed != other


def test_repr_does_not_show_the_payload() -> None:
    assert repr(Frame(FrameType.MSG, 1, 2, b"secret")) == "Frame(MSG, 1, 2, <6 bytes>)"


def test_frames_have_no_room_for_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Frame(FrameType.MSG, 1, 2, b"").extra = 1  # type: ignore[attr-defined]  # the point of the test


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [([1], [1], 1), ([1, 2, 3], [2, 1], 2), ([1], [2], None), ([1], [], None), ([1, 2], (3, 1, 1), 1)],
)
def test_highest_common_version_wins(ours: list[int], theirs: list[int], expected: int | None) -> None:
    assert negotiate_version(ours, theirs) == expected


def test_own_version_is_supported() -> None:
    assert PROTOCOL_VERSION in SUPPORTED_VERSIONS


@pytest.mark.parametrize("code", CodecErrorCode)
def test_codec_errors_carry_code_and_words(code: CodecErrorCode) -> None:
    error = CodecError(code)
    assert isinstance(error, RemoteProtocolError)
    assert str(error) == code.text
    assert str(CodecError(code, "where")) == f"{code.text}: where"
    assert pickle.loads(pickle.dumps(error)).code is code


@pytest.mark.parametrize("frame_type", CONTROL_TYPES)
def test_control_frames_need_a_payload(frame_type: FrameType) -> None:
    assert code_of(encode_frame(frame_type, 1, 1, b"")) is CodecErrorCode.INVALID_CONTROL_JSON
