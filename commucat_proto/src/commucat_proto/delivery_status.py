"""Reports of what became of a message, from the server to its sender (docs/protocol.md, "Delivery reports").

A report is a GroupEvent frame of the server on channel 0. No client can send one: its event
name is refused.
"""

import enum
import string
from typing import Any

import attrs

from commucat_proto.frames import MAX_CONTROL_JSON_LEN, Frame, FrameType

DELIVERY_STATUS_EVENT = "delivery-status"
REPORT_CHANNEL = 0
MESSAGE_ID_DIGITS = 32
MAX_REPORTED = (MAX_CONTROL_JSON_LEN - 1024) // (MESSAGE_ID_DIGITS + 3)
"""Messages that one report may name: each takes its digits, two quotes and a comma. The rest of the JSON,
with a device id of 128 characters, fits the 1,024 bytes that are left."""


class DeliveryStatus(enum.Enum):
    """What became of a message for one of its receivers."""

    DELIVERED = "delivered"
    """The receiver has confirmed it."""
    EXPIRED = "expired"
    """It was deleted before that."""


class ExpiryReason(enum.Enum):
    """Why a message was deleted before its receiver had confirmed it."""

    TTL = "ttl"
    """It was kept as long as the server keeps messages."""
    REVOKED = "revoked"
    """The receiver was revoked."""
    REFUSED = "refused"
    """The receiver's server, of another domain, will not take it."""


@attrs.frozen(kw_only=True)
class DeliveryReport:
    """What became of some messages for one receiver. ``reason`` is given with ``EXPIRED`` only."""

    status: DeliveryStatus
    device: str
    channel: int
    """The channel on which the messages were sent."""
    messages: tuple[str, ...]
    """Their ids, 32 hexadecimal digits each, as the Acks gave them; at most :data:`MAX_REPORTED`."""
    reason: ExpiryReason | None = None

    def to_wire(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "event": DELIVERY_STATUS_EVENT,
            "status": self.status.value,
            "device": self.device,
            "channel": self.channel,
            "messages": list(self.messages),
        }
        if self.reason is not None:
            value["reason"] = self.reason.value
        return value


def is_delivery_report(frame: Frame) -> bool:
    """Whether the frame says that it is a report, well formed or not."""
    if frame.type is not FrameType.GROUP_EVENT or frame.channel != REPORT_CHANNEL:
        return False
    value = frame.control
    return isinstance(value, dict) and value.get("event") == DELIVERY_STATUS_EVENT


def read_delivery_report(frame: Frame) -> DeliveryReport | None:
    """The report in a frame from the server; None for any other frame, and for a malformed report."""
    if not is_delivery_report(frame):
        return None
    value = frame.control
    assert isinstance(value, dict), "is_delivery_report looked"
    device, channel, messages = value.get("device"), value.get("channel"), value.get("messages")
    if not isinstance(device, str) or not isinstance(channel, int) or isinstance(channel, bool):
        return None
    if not isinstance(messages, list) or not all(is_message_id(each) for each in messages):
        return None
    try:
        status = DeliveryStatus(value.get("status"))
        reason = ExpiryReason(value["reason"]) if status is DeliveryStatus.EXPIRED else None
    except (KeyError, ValueError):
        return None
    return DeliveryReport(
        status=status, device=device, channel=channel, messages=tuple(messages), reason=reason
    )


def is_message_id(value: object) -> bool:
    """Whether this is an id as the server gives them to messages."""
    return isinstance(value, str) and len(value) == MESSAGE_ID_DIGITS and set(value) <= set(string.hexdigits)
