"""Frames for tests: Hypothesis strategies, frames no codec writes, and the ways a network splits bytes."""

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from commucat_proto.errors import CodecErrorCode
from commucat_proto.frames import MAX_CHANNEL_ID, MAX_CONTROL_JSON_LEN, MAX_SEQUENCE, Frame, FrameType
from commucat_proto.varint import encode_varint

OPAQUE_TYPES = [frame_type for frame_type in FrameType if frame_type.is_opaque]
CONTROL_TYPES = [frame_type for frame_type in FrameType if not frame_type.is_opaque]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)

# Sizes around the places where a varint grows.
numbers = st.one_of(
    st.integers(0, MAX_CHANNEL_ID),
    st.sampled_from([0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MAX_SEQUENCE]),
)
opaque_frames = st.builds(Frame, st.sampled_from(OPAQUE_TYPES), numbers, numbers, st.binary(max_size=300))
control_frames = st.builds(Frame.of_control, st.sampled_from(CONTROL_TYPES), numbers, numbers, json_values)
frames = opaque_frames | control_frames


UNREADABLE = {
    "too long": (b'"%s"' % (b"x" * (MAX_CONTROL_JSON_LEN - 1)), CodecErrorCode.CONTROL_TOO_LARGE),
    "nested too deeply": (b"[" * 128 + b"]" * 128, CodecErrorCode.INVALID_CONTROL_JSON),
    "absurdly nested": (b"[" * 200_000, CodecErrorCode.INVALID_CONTROL_JSON),
    "no JSON": (b"{", CodecErrorCode.INVALID_CONTROL_JSON),
    "empty": (b"", CodecErrorCode.INVALID_CONTROL_JSON),
    "not UTF-8": (b'"\xff"', CodecErrorCode.INVALID_CONTROL_JSON),
    "a lone surrogate": (b'"\\ud800"', CodecErrorCode.INVALID_CONTROL_JSON),
}
"""Payloads of control frames whose borders are intact: (JSON, why nobody reads it)."""


def raw_frame(frame_type: FrameType, channel: int, sequence: int, payload: bytes) -> bytes:
    """The bytes of a frame that a careful writer would refuse to write."""
    head = bytes((frame_type,)) + b"".join(map(encode_varint, (channel, sequence, len(payload))))
    return encode_varint(len(head) + len(payload)) + head + payload


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes in pieces, cut at the given places (taken modulo the length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:stop] for start, stop in pairwise(places)]
