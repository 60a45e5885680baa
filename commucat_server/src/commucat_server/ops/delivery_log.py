"""A log line for each delivery, for an operator who looks for one. Only at level debug, and then it costs.

Who is not told pays nothing: at any other level the inbox does not even ask.
"""

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from commucat_server.routing.inbox import Inbox
from commucat_server.routing.registry import Registry
from commucat_storage import Operation, Outcome, Submission, SubmissionOutcome

log = structlog.get_logger("commucat.delivery")

_Told = Callable[[Sequence[Operation], Sequence[Outcome]], None]


class DeliveryLog:
    """Listens to the inbox while it is told to, beside whoever listens already."""

    def __init__(self, inbox: Inbox, registry: Registry) -> None:
        self._inbox = inbox
        self._registry = registry
        self._before: _Told | None = inbox.on_commit

    def tell(self, wanted: bool) -> None:
        """Begin or end."""
        self._inbox.on_commit = self._committed if wanted else self._before

    def _committed(self, batch: Sequence[Operation], outcomes: Sequence[Outcome]) -> None:
        if self._before is not None:
            self._before(batch, outcomes)
        for operation, outcome in zip(batch, outcomes, strict=True):
            if isinstance(operation, Submission) and isinstance(outcome, SubmissionOutcome):
                for device_id, number in outcome.accepted + outcome.copied:
                    self._told(operation, device_id, number)

    def _told(self, operation: Submission, device_id: str, number: int) -> None:
        members: dict[str, Any] = {
            "target": device_id,
            "sender": operation.sender,
            "channel": operation.channel,
            "frame": operation.frame_type,
            "number": number,
            # Nobody of this node takes it now: it waits in the inbox.
            "relay": self._registry.receiver(device_id) is None,
        }
        log.debug("delivered frame", **members)
