"""Messages between servers: what is written is read again, and nothing else is read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import Frame, FrameType, json_text
from commucat_proto.federation import (
    MAX_BATCH,
    RelayedFormatError,
    RelayedMessage,
    batch_of_wire,
    batch_to_wire,
    message_of_batch,
)

ids = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=64)
messages = st.builds(
    RelayedMessage,
    event_id=ids,
    frame=st.builds(
        Frame, st.just(FrameType.MSG), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary()
    ),
    sender=st.none() | ids,
    target=ids,
    sender_user=st.none() | ids,
    expires_at=st.none() | st.integers(0, 2**63),
    report=st.none() | st.just("0123456789abcdef" * 2),
)


def message(**changes: Any) -> dict[str, Any]:
    """A message as a peer of 2025 writes it."""
    return {
        "channel": 7,
        "sequence": 3,
        "payload": Frame(FrameType.MSG, 7, 3, b"sealed").encode().hex(),
        "sender": "dev-1",
        "target": "dev-2@b.example",
        "peer_endpoint": "https://b.example",
    } | changes


def refused(value: Any, **limits: int) -> RelayedFormatError:
    with pytest.raises(RelayedFormatError) as caught:
        RelayedMessage.from_wire(value, "evt-1", **limits)
    return caught.value


@given(messages)
def test_what_is_written_is_read_again(one: RelayedMessage) -> None:
    text = json_text.dumps(one.to_wire())
    assert RelayedMessage.from_wire(json_text.loads(text), one.event_id) == one


@given(st.lists(messages, min_size=1, max_size=5))
def test_a_batch_keeps_the_messages_and_their_order(many: list[RelayedMessage]) -> None:
    entries = batch_of_wire(json_text.loads(json_text.dumps(batch_to_wire(many))))
    assert entries is not None
    assert [message_of_batch(entry) for entry in entries] == many


def test_a_peer_of_2025_is_understood() -> None:
    read = RelayedMessage.from_wire(message(), "evt-1")
    assert (read.frame.payload, read.sender, read.target) == (b"sealed", "dev-1", "dev-2@b.example")
    assert (read.sender_user, read.expires_at, read.report) == (None, None, None)


@given(messages)
def test_a_peer_is_told_nothing_that_it_does_not_need(one: RelayedMessage) -> None:
    members = {"channel", "sequence", "payload", "sender", "target", "sender_user", "expires_at", "report"}
    assert set(one.to_wire()) <= members


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {},
        message(payload=None),
        message(payload=7),
        message(target=None),
        message(target=["x"]),
        message(target="x" * 400),
        message(sender=7),
        message(sender="x" * 400),
        message(channel="7"),
        message(channel=-1),
        message(channel=2**64),
        message(channel=True),
        message(expires_at="tomorrow"),
        message(sender_user={}),
    ],
)
def test_other_payloads_are_refused(value: Any) -> None:
    assert str(refused(value)) == "unsupported federation payload"


@pytest.mark.parametrize(
    ("changes", "title", "detail"),
    [
        ({"payload": "0g"}, "InvalidPayload", "payload hex decode failed"),
        ({"payload": "ff"}, "InvalidFrame", "frame decode failed: not exactly one frame"),
        ({"payload": "020500"}, "InvalidFrame", "frame decode failed: unexpected end of frame"),
        ({"payload": ""}, "InvalidFrame", "frame decode failed: not exactly one frame"),
        ({"channel": 8}, "InvalidPayload", "channel is not that of the frame"),
        ({"report": "12"}, "InvalidPayload", "report must be 32 hexadecimal digits"),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], title: str, detail: str) -> None:
    error = refused(message(**changes))
    assert (error.title, str(error)) == (title, detail)


def test_two_frames_are_not_one() -> None:
    twice = message()["payload"] * 2
    assert refused(message(payload=twice)).title == "InvalidFrame"


def test_a_frame_above_the_limit_is_refused() -> None:
    large = Frame(FrameType.MSG, 7, 3, bytes(5000)).encode().hex()
    assert str(refused(message(payload=large), max_frame=4096)) == "frame decode failed: frame exceeds limits"


@pytest.mark.parametrize("event_id", ["", "x" * 129, "a\nb"])
def test_an_id_that_cannot_be_kept_is_refused(event_id: str) -> None:
    with pytest.raises(RelayedFormatError, match="event_id"):
        RelayedMessage.from_wire(message(), event_id)


@pytest.mark.parametrize("entries", [None, {}, [], [1] * (MAX_BATCH + 1)])
def test_a_batch_has_a_bounded_number_of_entries(entries: Any) -> None:
    with pytest.raises(RelayedFormatError, match="1 to 512"):
        batch_of_wire({"type": "messages", "messages": entries})


@pytest.mark.parametrize("entry", [None, 7, {}, {"event_id": 7}, message()])
def test_an_entry_without_an_id_is_no_message(entry: Any) -> None:
    with pytest.raises(RelayedFormatError):
        message_of_batch(entry)


def test_other_payloads_are_no_batch() -> None:
    assert batch_of_wire(message()) is None
    assert batch_of_wire([]) is None
