import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import MAX_FRAME_LEN, MAX_SEQUENCE, CodecError, CodecErrorCode
from commucat_proto.frames import Frame, FrameTemplate, FrameType, encode_frame
from proto.frame_builders import frames


@given(frames, st.lists(st.integers(0, MAX_SEQUENCE), max_size=5))
def test_a_template_gives_the_frame_under_every_sequence(frame: Frame, sequences: list[int]) -> None:
    template = FrameTemplate(frame.type, frame.channel, frame.payload)
    for sequence in (0, *sequences, MAX_SEQUENCE):
        expected = encode_frame(frame.type, frame.channel, sequence, frame.payload)
        assert template.encode(sequence) == expected


@pytest.mark.parametrize("sequence", [-1, MAX_SEQUENCE + 1])
def test_sequences_beyond_32_bits_are_refused(sequence: int) -> None:
    with pytest.raises(CodecError) as caught:
        FrameTemplate(FrameType.MSG, 1, b"").encode(sequence)
    assert caught.value.code is CodecErrorCode.SEQUENCE_TOO_LARGE


def test_a_longer_sequence_may_make_a_frame_too_large() -> None:
    # A type, channel 1, a sequence of one byte and a length of four (docs/protocol.md, "Frame").
    longest = MAX_FRAME_LEN - 7
    template = FrameTemplate(FrameType.MSG, 1, bytes(longest))
    assert len(template.encode(127)) > MAX_FRAME_LEN
    with pytest.raises(CodecError) as caught:
        template.encode(128)
    assert caught.value.code is CodecErrorCode.FRAME_TOO_LARGE
    with pytest.raises(CodecError) as caught:
        FrameTemplate(FrameType.MSG, 1, bytes(longest + 1))
    assert caught.value.code is CodecErrorCode.FRAME_TOO_LARGE
