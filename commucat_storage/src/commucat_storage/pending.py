"""Rows and inboxes that the open transaction has changed in memory and not yet written."""

import abc

from commucat_storage.device_inbox import NEVER, Inbox
from commucat_storage.reported import Reported


class Pending(abc.ABC):
    """Collects what a transaction writes, so that it takes a few statements; a backend writes it.

    The lists are flat, one value after the other: position, frame type, channel, expiry, size, payload and
    payload id of each row, and for a marked row also whether it is a stranger's, who wants to know what
    becomes of it, and by which reference. For a row of an outbox, instead: who wants to know, by which
    reference, the sender, the target, and the group.
    """

    __slots__ = ("_sharing", "confirmed", "dirty", "marked_rows", "peer_rows", "reported", "rows")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.rows: list[object] = []
        self.marked_rows: list[object] = []
        """Rows of strangers, and those that are to be reported."""
        self.peer_rows: list[object] = []
        """Rows of outboxes."""
        self.dirty: dict[Inbox, None] = {}
        self.confirmed: dict[Inbox, int] = {}
        """Inboxes to delete from; up to which number what goes is no longer in their counts."""
        self._sharing: set[Inbox] = set()
        """Those that had rows with shared payloads when their counts were set to nothing."""
        self.reported = Reported()
        """Confirmations whose outcome is to name rows."""

    @property
    def is_empty(self) -> bool:
        """Nothing has changed since the last flush."""
        # What is in a list is counted in an inbox.
        return not (self.dirty or self.confirmed)

    @abc.abstractmethod
    def share(self, payload: bytes, refs: int) -> int:
        """Add a payload that ``refs`` rows will refer to; its id."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Write everything since the last flush."""

    def discard(self) -> None:
        """Forget what was not written, after a rollback."""
        self._clear()

    def confirm(self, inbox: Inbox, number: int) -> None:
        """Delete what the inbox has up to ``number``, above what was confirmed before."""
        inbox.confirmed = number
        if number == inbox.next_number - 1:
            # Nothing stays, so nothing need be counted: the usual case of a receiver that keeps up.
            if inbox.shared:
                self._sharing.add(inbox)
            inbox.rows = inbox.bytes = inbox.shared = inbox.reports = 0
            inbox.stranger_rows = inbox.stranger_bytes = 0
            inbox.sizes = None
            inbox.earliest = NEVER
            self.confirmed[inbox] = number
        elif inbox.sizes is not None:
            gone = max(0, number + len(inbox.sizes) + 1 - inbox.next_number)
            inbox.rows -= gone
            inbox.bytes -= sum(inbox.sizes[:gone])
            del inbox.sizes[:gone]
            self.confirmed[inbox] = number
        else:
            self.confirmed.setdefault(inbox, 0)
        self.dirty[inbox] = None

    def _has_shared(self, inbox: Inbox) -> bool:
        """Whether what goes from the inbox may refer to shared payloads."""
        return inbox.shared > 0 or inbox in self._sharing
