"""What a session for the terminal client of 2025 hands over, and in which shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import MAX_CONTROL_JSON_LEN, Frame, FrameType, decode_frame, json_text
from commucat_server.routing.clear_reception import CLEAR, MAX_CLEAR_FRAME, durable_shape, live_shape
from commucat_server.routing.live import LiveSession
from commucat_storage import InboxPage, InboxRow

DURABLE = [
    FrameType.MSG,
    FrameType.GROUP_CREATE,
    FrameType.GROUP_INVITE,
    FrameType.GROUP_EVENT,
    FrameType.CALL_OFFER,
    FrameType.CALL_ANSWER,
    FrameType.CALL_END,
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def clear_live() -> LiveSession:
    numbers = iter(range(3, 10**6))
    live = LiveSession(
        device_id="bob",
        user_id="user",
        token_hash="hash",
        epoch="epoch",
        confirmed=0,
        receives=True,
        delivery_ack=False,
        wake=lambda: None,
        next_sequence=lambda: next(numbers),
        reception=CLEAR,
    )
    live.take_page(InboxPage((), 0, True))
    return live


def taken(live: LiveSession) -> list[Frame]:
    return [decode_frame(encoded)[0] for encoded in live.take()]


@pytest.mark.parametrize("frame_type", DURABLE)
def test_what_the_client_can_read_goes_out_as_it_was_sent(frame_type: FrameType) -> None:
    assert durable_shape(frame_type, b'{"a": 1}') == (frame_type, b'{"a": 1}')


def test_a_key_update_becomes_an_event() -> None:
    shape, text = durable_shape(FrameType.KEY_UPDATE, b'{"device_id":"a","event":"x","public_key":"00"}')

    assert shape is FrameType.GROUP_EVENT
    assert json_text.loads(text) == {
        "device_id": "a",
        "event": "device-key-rotated",
        "public_key": "00",
    }


def test_a_key_update_that_would_not_fit_loses_its_details() -> None:
    largest = json_text.dumps({"x": "y" * (MAX_CONTROL_JSON_LEN - 8)})
    assert len(largest) == MAX_CONTROL_JSON_LEN

    assert durable_shape(FrameType.KEY_UPDATE, largest) == (
        FrameType.GROUP_EVENT,
        b'{"event":"device-key-rotated"}',
    )


@given(
    st.dictionaries(st.sampled_from(("device", "typing", "ttl_ms", "expires_in", "label", "x")), json_values)
)
def test_typing_holds_only_what_is_read_of_it_in_the_right_types(value: dict[str, object]) -> None:
    shape = live_shape(FrameType.TYPING, json_text.dumps({**value, "device": "alice"}))  # type: ignore[dict-item]

    assert shape is not None
    told = json_text.loads(shape[1])
    assert isinstance(told, dict)
    assert told["device"] == "alice"
    kinds = {"device": str, "typing": bool, "ttl_ms": int, "expires_in": int, "label": str}
    assert all(type(told[name]) is kinds[name] for name in told)
    assert all(name not in value or told[name] == value[name] for name in told if name != "device")


@pytest.mark.parametrize("frame_type", [FrameType.VOICE_FRAME, FrameType.VIDEO_FRAME])
def test_media_is_not_for_it(frame_type: FrameType) -> None:
    live = clear_live()

    assert not live.notice(frame_type, 7, b"\x01\x00\x00data")
    assert taken(live) == []


def test_one_message_is_handed_over_at_a_time() -> None:
    live = clear_live()
    for number in (1, 2):
        live.offer(number, FrameType.MSG, 7, b"m")

    assert [frame.sequence for frame in taken(live)] == [1]
    assert live.taken == 1
    assert live.behind


@pytest.mark.parametrize("by_page", [True, False])
def test_a_message_that_no_window_lets_out_ends_the_session_and_stays(by_page: bool) -> None:
    live = clear_live()
    live.offer(1, FrameType.MSG, 7, b"before")
    taken(live)

    if by_page:
        rows = (
            InboxRow(2, FrameType.MSG, 7, bytes(MAX_CLEAR_FRAME)),
            InboxRow(3, FrameType.MSG, 7, b"behind"),
        )
        live.take_page(InboxPage(rows, 3, True))
    else:
        live.offer(2, FrameType.MSG, 7, bytes(MAX_CLEAR_FRAME))

    assert taken(live) == []
    assert (live.cursor, live.taken) == (1, 1)
    assert live.farewell is not None
    assert live.farewell["error"] == "too_large"


def test_notices_have_a_share_of_the_window_for_the_whole_session() -> None:
    live = clear_live()
    payload = json_text.dumps({"entity": "alice", "state": "x" * 1000})

    told = 0
    while live.notice(FrameType.PRESENCE, 0, payload):
        told += 1
        assert len(taken(live)) == 1  # that they are read makes no room
        assert told < 100

    assert 1 <= told <= CLEAR.notices / len(payload)
    live.offer(1, FrameType.MSG, 7, b"m")
    assert [frame.sequence for frame in taken(live)] == [1]
