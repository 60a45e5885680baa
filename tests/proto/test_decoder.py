import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto.decoder import FrameDecoder
from commucat_proto.errors import CodecError, CodecErrorCode
from commucat_proto.frames import MAX_FRAME_LEN, Frame, FrameType, RefusedFrame, decode_frame, encode_frame
from commucat_proto.varint import encode_varint, read_varint
from proto.frame_builders import CONTROL_TYPES, UNREADABLE, frames, raw_frame, split

cuts = st.lists(st.integers(0, 2000), max_size=20)


def msg(payload: bytes = b"hi", sequence: int = 1) -> Frame:
    return Frame(FrameType.MSG, 1, sequence, payload)


@given(st.lists(frames, max_size=6), cuts)
def test_any_split_of_the_stream_gives_the_same_frames(sent: list[Frame], places: list[int]) -> None:
    decoder = FrameDecoder()
    received: list[Frame] = []
    for piece in split(b"".join(frame.encode() for frame in sent), places):
        decoder.feed(piece)
        received += decoder.frames()
    assert received == sent
    assert decoder.buffered == 0


@given(st.lists(frames, max_size=3), st.binary(max_size=60), cuts)
def test_garbage_gives_frames_or_a_codec_error(sent: list[Frame], garbage: bytes, places: list[int]) -> None:
    data = b"".join(frame.encode() for frame in sent) + garbage
    decoder = FrameDecoder()
    received: list[Frame] = []
    failures: list[CodecErrorCode] = []
    for piece in split(data, places):
        decoder.feed(piece)
        try:
            for frame in decoder.frames():
                received.append(frame)
        except CodecError as exc:
            failures.append(exc.code)
    assert received[: len(sent)] == sent
    expected, failure = decode_one_by_one(data)
    assert received == expected
    assert set(failures) == {failure} - {None}


def decode_one_by_one(data: bytes) -> tuple[list[Frame], CodecErrorCode | None]:
    """What a stream of these bytes means, by the decoder that sees all of them at once."""
    found: list[Frame] = []
    offset = 0
    while offset < len(data):
        try:
            frame, used = decode_frame(data, offset)
        except CodecError as exc:
            return found, None if more_bytes_may_help(data[offset:]) else exc.code
        found.append(frame)
        offset += used
    return found, None


def more_bytes_may_help(data: bytes) -> bool:
    """The announced length is itself incomplete, or permitted and not there yet."""
    try:
        announced = read_varint(data, 0, len(data))
    except CodecError:
        return False
    return announced is None or len(data) - announced[1] < announced[0] <= MAX_FRAME_LEN


def test_incomplete_is_none_and_complete_comes_once() -> None:
    decoder = FrameDecoder()
    encoded = msg().encode()
    assert decoder.next_frame() is None
    for place in range(len(encoded) - 1):
        decoder.feed(encoded[place : place + 1])
        assert decoder.next_frame() is None
        assert decoder.buffered == place + 1
    decoder.feed(encoded[-1:])
    assert decoder.next_frame() == msg()
    assert decoder.next_frame() is None


def test_frames_before_the_broken_one_are_kept() -> None:
    decoder = FrameDecoder()
    decoder.feed(msg(sequence=1).encode() + msg(sequence=2).encode() + b"\x01\xff" + msg(sequence=3).encode())
    stream = decoder.frames()
    assert next(stream).sequence == 1
    assert next(stream).sequence == 2
    with pytest.raises(CodecError) as caught:
        next(stream)
    assert caught.value.code is CodecErrorCode.INVALID_FRAME_TYPE


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", CodecErrorCode.UNEXPECTED_EOF),
        (b"\x05", CodecErrorCode.UNEXPECTED_EOF),
        (b"\x05\x80", CodecErrorCode.UNEXPECTED_EOF),
        (b"\x05\x01\x01\x05abcd", CodecErrorCode.UNEXPECTED_EOF),
        (b"\xff", CodecErrorCode.INVALID_FRAME_TYPE),
        (b"\x06\x01\x01\x01{", CodecErrorCode.INVALID_CONTROL_JSON),
    ],
)
def test_malformed_body_that_is_all_there_does_not_stall(body: bytes, code: CodecErrorCode) -> None:
    decoder = FrameDecoder()
    encoded = encode_varint(len(body)) + body
    decoder.feed(encoded[:-1])
    assert decoder.next_frame() is None
    decoder.feed(encoded[-1:])
    with pytest.raises(CodecError) as caught:
        decoder.next_frame()
    assert caught.value.code is code


def whole_frames(decoder: FrameDecoder) -> list[Frame | RefusedFrame]:
    found: list[Frame | RefusedFrame] = []
    while (frame := decoder.next_whole()) is not None:
        found.append(frame)
    return found


@pytest.mark.parametrize("why", UNREADABLE)
@pytest.mark.parametrize("frame_type", [FrameType.JOIN, FrameType.ACK, FrameType.ERROR])
def test_unreadable_json_is_refused_by_name_and_the_next_frames_come(frame_type: FrameType, why: str) -> None:
    payload, code = UNREADABLE[why]
    decoder = FrameDecoder()
    decoder.feed(
        msg(sequence=1).encode() + raw_frame(frame_type, 300, 70_000, payload) + msg(sequence=2).encode()
    )

    before, refused, after = whole_frames(decoder)

    assert (before, after) == (msg(sequence=1), msg(sequence=2))
    assert isinstance(refused, RefusedFrame)
    assert (refused.type, refused.channel, refused.sequence) == (frame_type, 300, 70_000)
    assert refused.code is code
    assert repr(refused) == f"RefusedFrame({frame_type.name}, 300, 70000, {code.value})"
    assert decoder.buffered == 0


@pytest.mark.parametrize("why", UNREADABLE)
def test_unreadable_json_breaks_the_stream_of_a_strict_reader(why: str) -> None:
    payload, code = UNREADABLE[why]
    data = raw_frame(FrameType.JOIN, 1, 1, payload)
    decoder = FrameDecoder()
    decoder.feed(data + msg().encode())
    for _ in range(2):
        with pytest.raises(CodecError) as caught:
            decoder.next_frame()
        assert caught.value.code is code
    with pytest.raises(CodecError) as caught:
        decode_frame(data)
    assert caught.value.code is code


def test_lost_borders_break_the_stream_for_every_reader() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"\x06\x06\x01\x01\x05{}")
    for _ in range(2):
        with pytest.raises(CodecError) as caught:
            decoder.next_whole()
        assert caught.value.code is CodecErrorCode.UNEXPECTED_EOF


raw_frames = st.builds(
    raw_frame, st.sampled_from(CONTROL_TYPES), st.just(1), st.just(2), st.binary(max_size=8)
)


@given(st.lists(frames.map(Frame.encode) | raw_frames, max_size=6), cuts)
def test_whatever_payloads_hold_every_frame_is_read_or_refused(sent: list[bytes], places: list[int]) -> None:
    decoder = FrameDecoder()
    found: list[Frame | RefusedFrame] = []
    for piece in split(b"".join(sent), places):
        decoder.feed(piece)
        found += whole_frames(decoder)
    assert len(found) == len(sent)
    for frame, encoded in zip(found, sent, strict=True):
        strict = FrameDecoder()
        strict.feed(encoded)
        if isinstance(frame, Frame):
            assert strict.next_frame() == frame
        else:
            with pytest.raises(CodecError) as caught:
                strict.next_frame()
            assert caught.value.code is frame.code


def test_broken_stays_broken_and_keeps_nothing() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"\x06\x06\x01\x01\x02{x")
    with pytest.raises(CodecError) as first:
        decoder.next_frame()
    decoder.feed(msg().encode() * 1000)
    assert decoder.buffered == 0
    with pytest.raises(CodecError) as second:
        decoder.next_frame()
    assert str(second.value) == str(first.value)
    assert second.value is not first.value


def test_announced_length_over_the_limit_fails_before_its_bytes_come() -> None:
    for limit, announced in ((100, 101), (200, 201), (MAX_FRAME_LEN, MAX_FRAME_LEN + 1), (2**40, 2**30)):
        decoder = FrameDecoder(limit)
        decoder.feed(encode_varint(announced))
        with pytest.raises(CodecError) as caught:
            decoder.next_frame()
        assert caught.value.code is CodecErrorCode.FRAME_TOO_LARGE
        assert decoder.buffered == 0


@pytest.mark.parametrize("limit", [100, 1000])
def test_frame_at_the_limit_passes(limit: int) -> None:
    header = len(encode_frame(FrameType.MSG, 1, 1, bytes(limit - 10))) - (limit - 10)
    outer = len(encode_varint(limit))
    frame = msg(bytes(limit - (header - outer)))
    decoder = FrameDecoder(limit)
    decoder.feed(frame.encode())
    assert decoder.next_frame() == frame
    decoder.feed(msg(frame.payload + b"x").encode())
    with pytest.raises(CodecError):
        decoder.next_frame()


def test_outer_varint_that_never_ends_is_broken() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"\xff" * 9)
    assert decoder.next_frame() is None
    decoder.feed(b"\xff")
    with pytest.raises(CodecError) as caught:
        decoder.next_frame()
    assert caught.value.code is CodecErrorCode.VARINT_OVERFLOW


def test_rest_is_handed_over_and_forgotten() -> None:
    decoder = FrameDecoder()
    decoder.feed(msg().encode() + b"\xffcipher")
    assert decoder.next_frame() == msg()
    assert decoder.take_rest() == b"\xffcipher"
    assert decoder.buffered == 0
    assert decoder.take_rest() == b""
    decoder.feed(msg().encode())
    assert decoder.next_frame() == msg()


def test_a_long_backlog_is_compacted_and_loses_nothing() -> None:
    decoder = FrameDecoder()
    one = [msg(bytes([n % 256]) * (n % 700), n) for n in range(1, 2000)]
    encoded = b"".join(frame.encode() for frame in one)
    received: list[Frame] = []
    for start in range(0, len(encoded), 5000):
        decoder.feed(encoded[start : start + 5000])
        # Always leave some frames behind, so that the offset is never at the end.
        while decoder.buffered > 60_000 and (frame := decoder.next_frame()) is not None:
            received.append(frame)
    received += decoder.frames()
    assert received == one


def test_fed_bytes_may_be_changed_afterwards() -> None:
    decoder = FrameDecoder()
    chunk = bytearray(msg().encode())
    decoder.feed(chunk)
    chunk[:] = bytes(len(chunk))
    frame = decoder.next_frame()
    decoder.feed(b"more")
    assert frame == msg()


def test_a_refused_frame_keeps_no_more_memory_than_a_good_one() -> None:
    """One read may bring tens of thousands, and they wait while their sender does not read its answers."""

    def kept(payload: bytes) -> int:
        count = 2_000
        decoder = FrameDecoder()
        decoder.feed(raw_frame(FrameType.TYPING, 1, 1, payload) * count)
        tracemalloc.start()
        found = whole_frames(decoder)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(found) == count
        return size

    assert kept(b"") < 2 * kept(b"{}")
    assert kept(b"x" * 3_000) < 2 * kept(b"{}")


def test_frames_that_were_handed_out_are_not_kept() -> None:
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        decoder.feed(msg(bytes(1024 * 1024)).encode())
        assert [len(frame.payload) for frame in decoder.frames()] == [1024 * 1024]
        assert tracemalloc.get_traced_memory()[0] < 64 * 1024
    finally:
        tracemalloc.stop()
