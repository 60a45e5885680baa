"""Reports of what became of messages: their JSON, and what is none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import (
    DELIVERY_STATUS_EVENT,
    MAX_CONTROL_JSON_LEN,
    MAX_REPORTED,
    DeliveryReport,
    DeliveryStatus,
    ExpiryReason,
    Frame,
    FrameType,
    is_delivery_report,
    is_message_id,
    json_text,
    read_delivery_report,
)

GOOD: dict[str, Any] = {
    "event": "delivery-status",
    "status": "delivered",
    "device": "bob-phone",
    "channel": 7,
    "messages": ["0123456789abcdef" * 2],
}
message_ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
fates = st.one_of(
    st.just((DeliveryStatus.DELIVERED, None)),
    st.tuples(st.just(DeliveryStatus.EXPIRED), st.sampled_from(ExpiryReason)),
)


def frame_of(value: Any, channel: int = 0, frame_type: FrameType = FrameType.GROUP_EVENT) -> Frame:
    return Frame.of_control(frame_type, channel, 9, value)


@given(
    fates,
    st.text(min_size=1, max_size=128),
    st.integers(0, 2**32 - 1),
    st.lists(message_ids, max_size=3).map(tuple),
)
def test_a_report_reads_back_as_it_was_written(
    fate: tuple[DeliveryStatus, ExpiryReason | None], device: str, channel: int, messages: tuple[str, ...]
) -> None:
    status, reason = fate
    report = DeliveryReport(status=status, device=device, channel=channel, messages=messages, reason=reason)
    frame = frame_of(report.to_wire())

    assert is_delivery_report(frame)
    assert read_delivery_report(frame) == report


def test_the_largest_report_fits_a_control_frame() -> None:
    largest = DeliveryReport(
        status=DeliveryStatus.DELIVERED,
        device="\U0001f600" * 128,
        channel=2**32 - 1,
        messages=("f" * 32,) * MAX_REPORTED,
    )

    assert len(json_text.dumps(largest.to_wire())) <= MAX_CONTROL_JSON_LEN
    assert MAX_REPORTED >= 500


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "read"},
        {"status": 1},
        {"status": "expired"},
        {"status": "expired", "reason": "boredom"},
        {"device": 5},
        {"channel": "7"},
        {"channel": True},
        {"messages": "0123456789abcdef" * 2},
        {"messages": ["0123456789abcdef"]},
        {"messages": ["z" * 32]},
        {"messages": [None]},
    ],
)
def test_a_malformed_report_says_nothing(changes: dict[str, Any]) -> None:
    frame = frame_of(GOOD | changes)

    assert is_delivery_report(frame)
    assert read_delivery_report(frame) is None


@pytest.mark.parametrize(
    "frame",
    [
        frame_of(GOOD, channel=7),
        frame_of(GOOD, frame_type=FrameType.GROUP_INVITE),
        frame_of(GOOD | {"event": "delivery-status "}),
        frame_of([DELIVERY_STATUS_EVENT]),
        Frame(type=FrameType.MSG, channel=0, sequence=1, payload=json_text.dumps(GOOD)),
    ],
)
def test_other_frames_are_no_reports(frame: Frame) -> None:
    assert not is_delivery_report(frame)
    assert read_delivery_report(frame) is None


def test_an_id_of_a_message_is_32_hexadecimal_digits() -> None:
    assert is_message_id("0123456789abcdefABCDEF0123456789")
    assert not any(map(is_message_id, ("", "0" * 31, "0" * 33, "g" * 32, b"0" * 32, None, "\u0660" * 32)))
