"""Hypothesis strategies for frames, their JSON, and the ways a network splits bytes."""

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from commucat_proto.frames import MAX_CHANNEL_ID, MAX_SEQUENCE, Frame, FrameType

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


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes in pieces, cut at the given places (taken modulo the length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:stop] for start, stop in pairwise(places)]
