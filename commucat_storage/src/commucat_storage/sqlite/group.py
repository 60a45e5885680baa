"""One transaction of the journal: operations are applied to remembered inboxes, then written.

The number of SQL statements does not grow with the number of messages. Each statement makes
Python give up the interpreter lock several times, and getting it back from a busy event loop
takes milliseconds; what counts is statements, not rows.
"""

import functools
import json
import sqlite3
from collections.abc import Sequence

from commucat_storage.inbox import (
    MAX_INBOX_NUMBER,
    Confirm,
    ConfirmOutcome,
    DropRoute,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    RouteOutcome,
    SetRoute,
    Submission,
    SubmissionOutcome,
)
from commucat_storage.sqlite.inboxes import NEVER, Inbox, InboxCache
from commucat_storage.sqlite.settings import SqliteSettings

_LARGEST_INSERT = 256  # rows in one statement; 7 values each, far below SQLite's 32,766

_INSERT_ROW = "INSERT INTO relay_queue VALUES "
_INSERT_PAYLOAD = "INSERT INTO relay_payload VALUES "
# An upsert of columns that are not the key leaves user_device's foreign key unchecked.
_UPDATE_OFFSET = "INSERT INTO inbox_offset VALUES "
_UPDATE_OFFSET_END = """ ON CONFLICT (inbox) DO UPDATE SET next_number = excluded.next_number,
confirmed = excluded.confirmed, rows = excluded.rows, bytes = excluded.bytes,
shared = excluded.shared, earliest = excluded.earliest"""

# Each takes a JSON array of [first position, last position]. CROSS JOIN keeps the ranges outside.
_IN_RANGES = """FROM json_each(?) AS r
CROSS JOIN relay_queue AS q ON q.position BETWEEN r.value ->> 0 AND r.value ->> 1"""
_MEASURE = f"""SELECT json_group_array(json_array(k, n, s, p)) FROM (
SELECT r.key AS k, count(*) AS n, sum(q.size) AS s, count(q.payload_id) AS p {_IN_RANGES} GROUP BY r.key)"""  # noqa: S608
_DELETE = f"DELETE FROM relay_queue WHERE position IN (SELECT q.position {_IN_RANGES})"  # noqa: S608
_UNREFER = f"""UPDATE relay_payload SET refs = refs - gone.n FROM (
SELECT q.payload_id AS id, count(*) AS n {_IN_RANGES} WHERE q.payload_id IS NOT NULL GROUP BY 1) AS gone
WHERE payload_id = gone.id"""  # noqa: S608
_DELETE_PAYLOADS = "DELETE FROM relay_payload WHERE refs = 0"


@functools.cache
def _insert_text(head: str, width: int, count: int, tail: str) -> str:
    row = "(" + "?, " * (width - 1) + "?)"
    return head + ", ".join([row] * count) + tail


_NO_ROUTE = SubmissionOutcome((), (Refusal(device_id="", reason=RefusalReason.NO_ROUTE),))
_SENDER_REVOKED = SubmissionOutcome((), (Refusal(device_id="", reason=RefusalReason.REVOKED),))
_ROUTE_STORED = RouteOutcome()


class Group:
    """The open transaction of the writer: applies operations, and writes what they changed.

    ``apply`` changes only memory, except for routes; ``flush`` writes the rest. Whoever looks
    into the database in between must flush first.
    """

    def __init__(self, connection: sqlite3.Connection, inboxes: InboxCache, settings: SqliteSettings) -> None:
        self._connection = connection
        self._inboxes = inboxes
        self._settings = settings
        self._rows: list[object] = []
        self._payloads: list[object] = []
        self._dirty: dict[Inbox, None] = {}
        self._confirmed: dict[Inbox, None] = {}
        self._next_payload: int | None = None
        self._disk_is_low = False
        self.stored = 0
        """How many rows the transaction stores so far, at most."""

    def begin(self, *, disk_is_low: bool) -> None:
        """A transaction begins; with ``disk_is_low`` every message in it is refused."""
        self.stored = 0
        self._disk_is_low = disk_is_low

    def apply(self, batch: Sequence[Operation]) -> tuple[Outcome, ...]:
        """Apply the operations in their order; one outcome for each."""
        outcomes: list[Outcome] = []
        for operation in batch:
            # By far the most frequent first.
            if type(operation) is Submission:
                outcomes.append(self._submit(operation))
            elif type(operation) is Confirm:
                outcomes.append(self._confirm(operation))
            elif type(operation) is SetRoute:
                outcomes.append(self._set_route(operation))
            elif type(operation) is DropRoute:
                outcomes.append(self._drop_route(operation))
            else:
                raise TypeError(f"not an operation: {operation!r}")
        return tuple(outcomes)

    def discard(self) -> None:
        """Forget what was not written, after a rollback."""
        self._rows = []
        self._payloads = []
        self._dirty = {}
        self._confirmed = {}
        self._next_payload = None

    # -- messages --------------------------------------------------------------------------------

    def _submit(self, message: Submission) -> SubmissionOutcome:
        recipients = message.recipients
        if message.sender and self._inboxes.get(message.sender).refusal is RefusalReason.REVOKED:
            return _SENDER_REVOKED
        if recipients is None:
            route = self._inboxes.get(message.sender).routes.get(message.channel) if message.sender else None
            if route is None:
                return _NO_ROUTE
            recipients = tuple(sorted(route.members))
        if len(recipients) > 1:
            recipients = tuple(dict.fromkeys(recipients))
            self._inboxes.prefetch(recipients)
        size = len(message.payload)
        self.stored += len(recipients)
        refused: list[Refusal] = []
        accepting: list[tuple[str, Inbox]] = []
        for device_id in recipients:
            if device_id == message.sender and device_id:
                continue
            inbox = self._inboxes.get(device_id)
            reason = self._reason_to_refuse(inbox, message, size)
            if reason is None:
                accepting.append((device_id, inbox))
            else:
                refused.append(Refusal(device_id=device_id, reason=reason))
        if len(accepting) == 1:
            accepted: tuple[tuple[str, int], ...] = (
                self._store(accepting[0], message, size, message.payload, None),
            )
        elif accepting:
            payload_id = self._share(message.payload, len(accepting))
            accepted = tuple(self._store(each, message, size, None, payload_id) for each in accepting)
        elif refused:
            accepted = ()
        else:
            # A route with nobody else on it: told, or the sender would believe that it was heard.
            return _NO_ROUTE
        return SubmissionOutcome(accepted, tuple(refused))

    def _reason_to_refuse(self, inbox: Inbox, message: Submission, size: int) -> RefusalReason | None:
        if inbox.refusal is not None:
            return inbox.refusal
        if message.sender and inbox.routes:
            route = inbox.routes.get(message.channel)
            if route is not None and message.sender not in route.members:
                return RefusalReason.CHANNEL_CONFLICT
        if self._disk_is_low:
            return RefusalReason.DISK_LOW
        if inbox.next_number > MAX_INBOX_NUMBER:
            return RefusalReason.QUOTA
        if self._is_full(inbox, size):
            if inbox not in self._confirmed:
                return RefusalReason.QUOTA
            # What was confirmed in this very transaction is counted only when it is deleted.
            self.flush()
            if self._is_full(inbox, size):
                return RefusalReason.QUOTA
        return None

    def _is_full(self, inbox: Inbox, size: int) -> bool:
        return inbox.rows >= self._settings.max_rows or inbox.bytes + size > self._settings.max_bytes

    def _store(
        self,
        recipient: tuple[str, Inbox],
        message: Submission,
        size: int,
        payload: bytes | None,
        payload_id: int | None,
    ) -> tuple[str, int]:
        device_id, inbox = recipient
        number = inbox.next_number
        inbox.next_number = number + 1
        inbox.rows += 1
        inbox.bytes += size
        if payload is None:
            inbox.shared += 1
        expires_at = message.expires_at
        if expires_at < inbox.earliest:
            inbox.earliest = expires_at
        self._rows += (
            inbox.base + number,
            message.frame_type,
            message.channel,
            expires_at,
            size,
            payload,
            payload_id,
        )
        self._dirty[inbox] = None
        return device_id, number

    def _share(self, payload: bytes, refs: int) -> int:
        payload_id = self._next_payload
        if payload_id is None:
            [newest] = self._connection.execute("SELECT max(payload_id) FROM relay_payload").fetchone()
            payload_id = (newest or 0) + 1
        self._next_payload = payload_id + 1
        self._payloads += (payload_id, refs, payload)
        return payload_id

    def _confirm(self, confirm: Confirm) -> ConfirmOutcome:
        inbox = self._inboxes.get(confirm.device_id)
        number = confirm.number
        if (
            not inbox.known
            or confirm.epoch != inbox.epoch
            or not inbox.confirmed <= number < inbox.next_number
        ):
            return ConfirmOutcome(False, inbox.confirmed)
        if number > inbox.confirmed:
            inbox.confirmed = number
            self._confirmed[inbox] = None
            self._dirty[inbox] = None
        return ConfirmOutcome(True, number)

    # -- routes ----------------------------------------------------------------------------------

    def _set_route(self, operation: SetRoute) -> RouteOutcome:
        inbox = self._inboxes.get(operation.device_id)
        if inbox.refusal is not None:
            return RouteOutcome(inbox.refusal)
        replaced = inbox.routes.get(operation.channel)
        members = (
            inbox.route_members + len(operation.route.members) - (len(replaced.members) if replaced else 0)
        )
        if (replaced is None and len(inbox.routes) >= self._settings.max_routes) or (
            members > max(self._settings.max_route_members, inbox.route_members)
        ):
            return RouteOutcome(RefusalReason.TOO_MANY_ROUTES)
        self._connection.execute(
            "INSERT OR REPLACE INTO route VALUES (?, ?, ?, ?)",
            (
                operation.device_id,
                operation.channel,
                int(operation.route.relay),
                json.dumps(sorted(operation.route.members)),
            ),
        )
        inbox.routes[operation.channel] = operation.route
        inbox.route_members = members
        self._inboxes.weigh(len(operation.route.members))
        return _ROUTE_STORED

    def _drop_route(self, operation: DropRoute) -> RouteOutcome:
        inbox = self._inboxes.get(operation.device_id)
        if not inbox.known:
            return RouteOutcome(RefusalReason.UNKNOWN_DEVICE)
        dropped = inbox.routes.pop(operation.channel, None)
        if dropped is not None:
            inbox.route_members -= len(dropped.members)
            self._connection.execute(
                "DELETE FROM route WHERE device_id = ? AND channel = ?",
                (operation.device_id, operation.channel),
            )
        return _ROUTE_STORED

    # -- writing ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write everything that was applied since the last flush."""
        if self._payloads:
            self._insert(_INSERT_PAYLOAD, 3, self._payloads)
            self._payloads = []
        if self._rows:
            self._insert(_INSERT_ROW, 7, self._rows)
            self._rows = []
        if self._confirmed:
            self._delete_confirmed()
            self._confirmed = {}
        if self._dirty:
            offsets: list[object] = []
            for inbox in self._dirty:
                offsets += (
                    inbox.inbox,
                    inbox.epoch,
                    inbox.next_number,
                    inbox.confirmed,
                    inbox.rows,
                    inbox.bytes,
                    inbox.shared,
                    inbox.earliest,
                )
            self._insert(_UPDATE_OFFSET, 8, offsets, _UPDATE_OFFSET_END)
            self._dirty = {}

    def _delete_confirmed(self) -> None:
        ranges = []
        partly = []  # inboxes of which something stays: what goes must be counted
        shared = []
        for inbox in self._confirmed:
            wanted = [inbox.base, inbox.base + inbox.confirmed]
            ranges.append(wanted)
            if inbox.shared:
                shared.append(wanted)
            if inbox.confirmed == inbox.next_number - 1:
                inbox.rows = inbox.bytes = inbox.shared = 0
                inbox.earliest = NEVER
            else:
                partly.append((inbox, wanted))
        if partly:
            self._subtract(partly)
        if shared:
            self._connection.execute(_UNREFER, (json.dumps(shared),))
            self._connection.execute(_DELETE_PAYLOADS)
        self._connection.execute(_DELETE, (json.dumps(ranges),))

    def _subtract(self, partly: list[tuple[Inbox, list[int]]]) -> None:
        wanted = json.dumps([each for _, each in partly])
        [counted] = self._connection.execute(_MEASURE, (wanted,)).fetchone()
        for index, rows, size, shared in json.loads(counted):
            inbox = partly[index][0]
            inbox.rows -= rows
            inbox.bytes -= size
            inbox.shared -= shared

    def _insert(self, head: str, width: int, values: list[object], tail: str = "") -> None:
        """Insert rows given as one flat list, in as few statements as powers of two allow."""
        start = 0
        left = len(values) // width
        while left:
            count = min(_LARGEST_INSERT, 1 << (left.bit_length() - 1))
            end = start + count * width
            self._connection.execute(_insert_text(head, width, count, tail), values[start:end])
            start = end
            left -= count
