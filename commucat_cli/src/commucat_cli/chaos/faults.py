"""Ways of breaking the promise, and what a history shows of them."""

import enum
from collections import Counter

import attrs


class FaultKind(enum.Enum):
    """A way of breaking the promise."""

    LOST = "lost"
    """Acknowledged for a recipient and never delivered to it."""
    INVENTED = "invented"
    """Delivered although nobody sent it so, or although it was refused."""
    OUT_OF_ORDER = "out_of_order"
    """Messages of one sender on one channel, or numbers within a session, in another order."""
    DUPLICATE = "duplicates"
    """Stored more often than it was sent, or delivered twice in one session."""
    RENUMBERED = "renumbered"
    """Redelivered under another number, or another message under the same number."""
    EXCLUDED = "excluded"
    """Delivered to, or accepted for, a device that routes, membership or capabilities exclude."""
    UNCONFIRMED = "unconfirmed"
    """The watermark is above what the device has confirmed."""
    BELOW_WATERMARK = "below_watermark"
    """Delivered again although the session began with it confirmed."""


@attrs.frozen
class Fault:
    """One breach, in words."""

    kind: FaultKind
    text: str


@attrs.frozen(kw_only=True)
class Verdict:
    """What a history shows."""

    acknowledged: int
    """Messages that at least one recipient accepted."""
    delivered: int
    """Pairs of message and recipient."""
    group_changes: int
    """Changes of groups that the server acknowledged."""
    notices: int
    """Pairs of such a change and a device that was told."""
    redelivered: int
    """Deliveries of what the device had before."""
    resent: int
    """Attempts after the first."""
    refused: int
    """Attempts answered by an Error, and recipients left out by an Ack."""
    returned: int
    """Messages that a server of another domain refused for good after the sender's had accepted them."""
    faults: tuple[Fault, ...]

    @property
    def holds(self) -> bool:
        return not self.faults

    def count(self, kind: FaultKind) -> int:
        return sum(fault.kind is kind for fault in self.faults)


def counts(verdict: Verdict) -> dict[str, int]:
    """Faults by kind, every kind named."""
    found = Counter(fault.kind for fault in verdict.faults)
    return {kind.value: found[kind] for kind in FaultKind}
