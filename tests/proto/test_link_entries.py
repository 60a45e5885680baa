"""What servers tell each other of linked accounts: what is written is read, and nothing else is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import json_text
from commucat_proto.federation import (
    LINK,
    MAX_TOLD_DEVICES,
    OFFSETS,
    DeviceOffset,
    LinkEntry,
    OffsetsEntry,
    RelayedFormatError,
    TypedEntry,
    link_entry_of,
)

NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="@"), min_size=1, max_size=40
)
VERSIONS = st.integers(0, 253_402_300_799_999_999)


@st.composite
def offsets(draw: st.DrawFn) -> DeviceOffset:
    ahead = draw(st.integers(1, 2**32))
    confirmed = draw(st.integers(0, ahead - 1))
    return DeviceOffset(
        device=draw(NAMES),
        epoch=draw(NAMES),
        next=ahead,
        confirmed=confirmed,
        waiting=draw(st.integers(0, ahead - 1 - confirmed)),
    )


LINKS = st.builds(
    LinkEntry, user=NAMES, account=NAMES, word=st.sampled_from(["asks", "agrees", "ends"]), version=VERSIONS
)
TOLD = st.builds(
    OffsetsEntry,
    user=NAMES,
    account=NAMES,
    version=VERSIONS,
    offsets=st.lists(offsets(), max_size=MAX_TOLD_DEVICES, unique_by=lambda each: each.device).map(tuple),
)


@given(LINKS | TOLD)
def test_what_is_written_is_read(entry: LinkEntry | OffsetsEntry) -> None:
    kind = LINK if isinstance(entry, LinkEntry) else OFFSETS
    wire = TypedEntry(event_id="1", type=kind, value=entry.to_wire()).to_wire()
    assert link_entry_of(json_text.loads(json_text.dumps(wire))) == entry


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(LINKS | TOLD, st.sampled_from(["user", "account", "word", "version", "offsets"]), JUNK)
def test_junk_is_refused_and_raises_nothing_else(
    entry: LinkEntry | OffsetsEntry, member: str, junk: Any
) -> None:
    kind = LINK if isinstance(entry, LinkEntry) else OFFSETS
    wire: Any = {**entry.to_wire(), "type": kind, member: junk}
    try:
        read = link_entry_of(wire)
    except RelayedFormatError:
        return
    # Then it was no junk: what was read says the same again, or the member is one of the other kind.
    assert read is not None
    assert read.to_wire() == {name: wire[name] for name in entry.to_wire()}


@given(JUNK)
def test_other_payloads_are_none_of_these(value: Any) -> None:
    assert link_entry_of(value) is None


@pytest.mark.parametrize("kind", [LINK, OFFSETS])
def test_an_entry_needs_its_members(kind: str) -> None:
    with pytest.raises(RelayedFormatError):
        link_entry_of({"type": kind})
