"""How a peer is told that an event is refused: by status, title and detail, which peers of 2025 know."""

from typing import Final

import attrs

from commucat_storage import RefusalReason


class RefusedEventError(Exception):
    """The event is refused; the caller answers with :attr:`refusal`."""

    def __init__(self, refusal: "EventRefusal") -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


@attrs.frozen
class EventRefusal:
    """4xx but 403, 408 and 429 are final: the peer gives the event up and tells its sender."""

    status: int
    title: str
    detail: str

    def raised(self) -> RefusedEventError:
        """As an exception."""
        return RefusedEventError(self)


UNREADABLE: Final = EventRefusal(400, "InvalidRequest", "invalid JSON payload")
EMPTY: Final = EventRefusal(400, "InvalidRequest", "request body required")
UNKNOWN_PEER: Final = EventRefusal(403, "UnknownPeer", "origin not allowed")
SIGNATURE: Final = EventRefusal(403, "InvalidSignature", "signature verification failed")
SCOPE: Final = EventRefusal(403, "InvalidScope", "the event is for another server")
CLOCK: Final = EventRefusal(403, "StaleEvent", "created_at is too far from now; are both clocks right?")
PAYLOAD: Final = EventRefusal(400, "InvalidPayload", "unsupported federation payload")
NO_TARGET: Final = EventRefusal(400, "InvalidTarget", "missing target device")
OTHER_DOMAIN: Final = EventRefusal(400, "InvalidTarget", "target domain mismatch")
SENDER: Final = EventRefusal(400, "InvalidPayload", "the sender is no device of the origin")
FRAME_TYPE: Final = EventRefusal(400, "InvalidFrame", "frames of this type do not travel between servers")
NO_DEVICE: Final = EventRefusal(404, "UnknownDevice", "device not found")
NO_USER: Final = EventRefusal(404, "NotFound", "user not found")
NOT_STORED: Final = EventRefusal(500, "DeliveryFailed", "the event was not stored; try again")

LATER: Final = frozenset({RefusalReason.DISK_LOW})
"""Reasons that pass: the peer is to try again."""
_BY_REASON: Final = {
    RefusalReason.UNKNOWN_DEVICE: NO_DEVICE,
    RefusalReason.REVOKED: EventRefusal(404, "UnknownDevice", "device was revoked"),
    RefusalReason.CHANNEL_CONFLICT: EventRefusal(
        409, "ChannelConflict", "the device uses this channel for another conversation"
    ),
    RefusalReason.QUOTA: EventRefusal(409, "QuotaExceeded", "the device's inbox is full"),
}


def refusal_of(reason: RefusalReason) -> EventRefusal:
    """What the peer is told when the receiver refuses; not for reasons that pass."""
    return _BY_REASON.get(reason) or EventRefusal(409, "Refused", reason.value)
