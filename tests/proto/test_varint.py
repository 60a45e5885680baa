import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto.errors import CodecError, CodecErrorCode, LocalProtocolError
from commucat_proto.varint import MAX_VARINT, MAX_VARINT_LEN, decode_varint, encode_varint, read_varint

# Every place where the encoding grows by a byte, and both ends.
EDGES = sorted({value for bits in range(0, 64, 7) for value in (2**bits - 1, 2**bits)} | {MAX_VARINT})


def reference_encode(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


@pytest.mark.parametrize("value", EDGES)
def test_encoding_grows_where_leb128_does(value: int) -> None:
    assert encode_varint(value) == reference_encode(value)
    assert decode_varint(encode_varint(value)) == (value, len(encode_varint(value)))


@given(st.integers(0, MAX_VARINT) | st.integers(0, 2**36), st.binary(max_size=3), st.binary(max_size=3))
def test_round_trip_between_other_bytes(value: int, before: bytes, after: bytes) -> None:
    encoded = encode_varint(value)
    assert encoded == reference_encode(value)
    data = before + encoded + after
    assert decode_varint(data, len(before)) == (value, len(before) + len(encoded))


@given(st.integers(0, MAX_VARINT))
def test_every_prefix_is_incomplete_not_broken(value: int) -> None:
    encoded = encode_varint(value)
    for end in range(len(encoded)):
        assert read_varint(encoded, 0, end) is None
        with pytest.raises(CodecError) as caught:
            decode_varint(encoded[:end])
        assert caught.value.code is CodecErrorCode.UNEXPECTED_EOF


@given(st.binary(max_size=12))
def test_garbage_gives_a_value_or_a_codec_error(data: bytes) -> None:
    last = next((place for place, byte in enumerate(data[:MAX_VARINT_LEN]) if byte < 0x80), None)
    if last is not None:
        value, used = decode_varint(data)
        assert 0 <= value <= MAX_VARINT
        assert used == last + 1
        return
    with pytest.raises(CodecError) as caught:
        decode_varint(data)
    too_long = len(data) >= MAX_VARINT_LEN
    assert caught.value.code is (
        CodecErrorCode.VARINT_OVERFLOW if too_long else CodecErrorCode.UNEXPECTED_EOF
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_reads_any_kind_of_buffer(kind: type) -> None:
    assert read_varint(kind(b"\xac\x02\x00"), 0, 3) == (300, 2)


def test_overflow_is_known_at_the_tenth_byte() -> None:
    with pytest.raises(CodecError) as caught:
        read_varint(b"\x80" * 10, 0, 10)
    assert caught.value.code is CodecErrorCode.VARINT_OVERFLOW
    assert read_varint(b"\x80" * 10, 0, 9) is None


@pytest.mark.parametrize("value", [-1, -(2**70), MAX_VARINT + 1])
def test_values_beyond_64_bits_are_our_own_mistake(value: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_varint(value)
