"""Records of single deliveries, for operators that ask for them (``ledger.deliveries``).

A line for each message would cost as much as the message. So the way of a message only appends a tuple to a
list; a task makes records of what has gathered, many deliveries in each. The list is bounded: what does not
fit is counted and told in the next record.
"""

from collections.abc import Callable, Sequence
from typing import Any

import trio
from blake3 import blake3

from commucat_server.ops.audit import Audit
from commucat_storage import Confirm, ConfirmOutcome, Operation, Outcome, Submission, SubmissionOutcome

PAUSE = 0.25
"""Seconds in which deliveries gather for one record."""
ENTRIES = 256
"""Deliveries in a record; some 60 KiB."""
MAX_GATHERED = 65_536
"""Deliveries that may wait for the task: a second of the fastest server, and some ten megabytes."""

_Entry = tuple[str, int, int, str, str, int, bytes]


class DeliveryAudit:
    """Gathers what was committed and confirmed. ``is_live`` tells whether a device is connected."""

    def __init__(self, audit: Audit, is_live: Callable[[str], bool]) -> None:
        self._audit = audit
        self._is_live = is_live
        self._gathered: list[_Entry] = []
        self._left_out = 0
        self._some = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Makes records; never returns. Cancelled, it makes them of what waits."""
        try:
            while True:
                if not self._gathered and not self._left_out:
                    await self._some.park()
                await trio.sleep(PAUSE)
                self.flush()
        finally:
            self.flush()

    def committed(self, batch: Sequence[Operation], outcomes: Sequence[Outcome]) -> None:
        """What one batch stored or confirmed; in the journal's completion call, so without waiting."""
        for operation, outcome in zip(batch, outcomes, strict=True):
            if isinstance(operation, Submission) and isinstance(outcome, SubmissionOutcome):
                # Before anything else: the payload itself must not be kept alive by the audit.
                accepted = outcome.accepted + outcome.copied
                digest = blake3(operation.payload).digest() if accepted else b""
                for device_id, number in accepted:
                    result = "online" if self._is_live(device_id) else "queued"
                    if "@" in device_id:
                        result = "federated"
                    entry = (
                        result,
                        operation.channel,
                        operation.frame_type,
                        operation.sender,
                        device_id,
                        number,
                        digest,
                    )
                    self._gather(entry)
            elif isinstance(operation, Confirm) and isinstance(outcome, ConfirmOutcome) and outcome.applied:
                self._gather(("confirmed", 0, 0, "", operation.device_id, outcome.watermark, b""))

    def expired(self, messages: int) -> None:
        """Messages that were deleted without being confirmed."""
        self._audit.record(
            blake3(f"expired:{messages}".encode()).digest(),
            {"scope": "delivery", "result": "expired", "messages": messages},
        )

    def flush(self) -> None:
        """Make records of everything that has gathered."""
        gathered, self._gathered = self._gathered, []
        left_out, self._left_out = self._left_out, 0
        for start in range(0, len(gathered), ENTRIES):
            entries = gathered[start : start + ENTRIES]
            digest = blake3(b"".join(entry[6] for entry in entries)).digest()
            self._audit.record(digest, {"scope": "delivery", "entries": [_json(entry) for entry in entries]})
        if left_out:
            self._audit.record(
                blake3(f"left-out:{left_out}".encode()).digest(),
                {"scope": "delivery", "result": "left out", "entries_left_out": left_out},
            )

    def _gather(self, entry: _Entry) -> None:
        if len(self._gathered) >= MAX_GATHERED:
            self._left_out += 1
            return
        self._gathered.append(entry)
        if len(self._gathered) == 1:
            self._some.unpark_all()


def _json(entry: _Entry) -> dict[str, Any]:
    result, channel, frame_type, sender, target, number, digest = entry
    if result == "confirmed":
        return {"result": result, "target": target, "number": number}
    return {
        "result": result,
        "channel_id": channel,
        "frame_type": int(frame_type),
        "sender": sender,
        "target": target,
        "number": number,
        "digest": digest.hex(),
    }
