"""What the open transaction has changed in memory and not yet written."""

import functools
import json
import sqlite3
from collections.abc import Callable

from commucat_storage import reported
from commucat_storage.device_inbox import OFFSET_COLUMNS, Inbox, offsets_of
from commucat_storage.pending import Pending
from commucat_storage.reported import Reported

_LARGEST_INSERT = 256  # rows in one statement; at most 12 values each, far below SQLite's 32,766

# Values of a row of Pending.rows, and of marked_rows.
_ROW_WIDTH, _MARKED_WIDTH = 7, 10
# Almost every row has the defaults in the last columns, which costs less than to store them.
_INSERT_ROW = """INSERT INTO relay_queue
(position, frame_type, channel, expires_at, size, payload, payload_id) VALUES """
_INSERT_MARKED_ROW = """INSERT INTO relay_queue (position, frame_type, channel, expires_at, size, payload,
payload_id, stranger, reporter, reference) VALUES """
_INSERT_PEER_ROW = """INSERT INTO relay_queue (position, frame_type, channel, expires_at, size, payload,
payload_id, reporter, reference, sender, target, group_id) VALUES """
_INSERT_PAYLOAD = "INSERT INTO relay_payload VALUES "
# An upsert of columns that are not the key leaves user_device's foreign key unchecked.
_UPDATE_OFFSET = f"INSERT INTO inbox_offset ({', '.join(OFFSET_COLUMNS)}) VALUES "  # noqa: S608 - own names
_UPDATE_OFFSET_END = " ON CONFLICT (inbox) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in OFFSET_COLUMNS[2:]
)

# Each takes a JSON array of [first position, last position]. CROSS JOIN keeps the ranges outside.
_IN_RANGES = """FROM json_each(?) AS r
CROSS JOIN relay_queue AS q ON q.position BETWEEN r.value ->> 0 AND r.value ->> 1"""
_MEASURE = f"""SELECT json_group_array(json_array(k, n, s, p, f, b, a)) FROM (
SELECT r.key AS k, count(*) AS n, sum(q.size) AS s, count(q.payload_id) AS p, sum(q.stranger) AS f,
sum(q.size * q.stranger) AS b, count(q.reporter) AS a {_IN_RANGES} GROUP BY r.key)"""  # noqa: S608
_DELETE = f"DELETE FROM relay_queue WHERE position IN (SELECT q.position {_IN_RANGES})"  # noqa: S608
_IN_REPORTED = f"{_IN_RANGES} WHERE q.reporter IS NOT NULL"
_NAME = f"SELECT r.key, q.reporter, q.channel, q.reference, q.expires_at {_IN_REPORTED} LIMIT ?"
_COUNT = f"SELECT r.key, count(*) {_IN_REPORTED} GROUP BY r.key"
_UNREFER = f"""UPDATE relay_payload SET refs = refs - gone.n FROM (
SELECT q.payload_id AS id, count(*) AS n {_IN_RANGES} WHERE q.payload_id IS NOT NULL GROUP BY 1) AS gone
WHERE payload_id = gone.id"""  # noqa: S608
_DELETE_RANGE = "DELETE FROM relay_queue WHERE position BETWEEN ? AND ?"
_DELETE_PAYLOADS = "DELETE FROM relay_payload WHERE refs = 0"


@functools.cache
def _insert_text(head: str, width: int, count: int, tail: str) -> str:
    row = "(" + "?, " * (width - 1) + "?)"
    return head + ", ".join([row] * count) + tail


class SqlitePending(Pending):
    """Writes what a transaction has changed with few statements.

    Each statement gives other threads the chance to take the interpreter lock, and getting it back
    takes milliseconds; what counts is statements, not rows.
    """

    __slots__ = ("_connection", "_next_payload", "_open_transaction", "_payloads")

    def __init__(self, connection: sqlite3.Connection, open_transaction: Callable[[], None]) -> None:
        """``open_transaction`` is called before something is written, if none is open."""
        super().__init__()
        self._connection = connection
        self._open_transaction = open_transaction
        self._payloads: list[object] = []
        self._next_payload: int | None = None

    def discard(self) -> None:
        super().discard()
        self._payloads = []
        self._next_payload = None

    def share(self, payload: bytes, refs: int) -> int:
        payload_id = self._next_payload
        if payload_id is None:
            [newest] = self._connection.execute("SELECT max(payload_id) FROM relay_payload").fetchone()
            payload_id = (newest or 0) + 1
        self._next_payload = payload_id + 1
        self._payloads += (payload_id, refs, payload)
        return payload_id

    def flush(self) -> None:
        if not self._connection.in_transaction:
            self._open_transaction()
        if self._payloads:
            self._insert(_INSERT_PAYLOAD, 3, self._payloads)
            self._payloads = []
        if self.rows:
            self._insert(_INSERT_ROW, _ROW_WIDTH, self.rows)
            self.rows = []
        if self.marked_rows:
            self._insert(_INSERT_MARKED_ROW, _MARKED_WIDTH, self.marked_rows)
            self.marked_rows = []
        if self.peer_rows:
            self._insert(_INSERT_PEER_ROW, 12, self.peer_rows)
            self.peer_rows = []
        if self.confirmed:
            if self.reported:
                _fill(self.reported, self._connection)  # behind the inserts, before the rows are gone
            self._delete_confirmed()
            self.confirmed = {}
            self._sharing.clear()
        if self.dirty:
            offsets: list[object] = []
            for each in self.offsets():
                offsets += each
            self._insert(_UPDATE_OFFSET, len(OFFSET_COLUMNS), offsets, _UPDATE_OFFSET_END)
            self.dirty = {}

    # -- for a short commit ----------------------------------------------------------------------

    def written(self) -> None:
        """Everything is in the database."""
        self._clear()

    def plain_rows(self) -> list[tuple[object, ...]] | None:
        """The rows as position, frame type, channel, expiry, size, payload, whether it is a stranger's,
        reporter and reference; None if there are others, as in an outbox or for many."""
        if self._payloads or self.peer_rows:
            return None
        rows: list[tuple[object, ...]] = []
        for start in range(0, len(self.rows), _ROW_WIDTH):
            if self.rows[start + 5] is None:
                return None
            rows.append((*self.rows[start : start + 6], False, None, None))
        marked = self.marked_rows
        for start in range(0, len(marked), _MARKED_WIDTH):
            if marked[start + 5] is None:
                return None
            rows.append((*marked[start : start + 6], *marked[start + 7 : start + _MARKED_WIDTH]))
        return rows

    def ranges_to_delete(self) -> list[tuple[object, ...]] | None:
        """First and last position of what was confirmed; None if something must be read before it goes."""
        if not self.confirmed:
            return []
        if self.reported:
            return None
        ranges: list[tuple[object, ...]] = []
        for inbox, counted in self.confirmed.items():
            if counted < inbox.confirmed or self._has_shared(inbox):
                return None
            ranges.append((inbox.base, inbox.base + inbox.confirmed))
        return ranges

    def offsets(self) -> list[tuple[object, ...]]:
        """Where each inbox that changed stands, in the order of :data:`OFFSET_COLUMNS`."""
        return [offsets_of(inbox) for inbox in self.dirty]

    # -- deleting --------------------------------------------------------------------------------

    def _delete_confirmed(self) -> None:
        ranges = []
        partly = []  # inboxes of which something stays: what goes must be counted
        shared = []
        for inbox, counted in self.confirmed.items():
            last = inbox.base + inbox.confirmed
            wanted = [inbox.base, last]
            ranges.append(wanted)
            if self._has_shared(inbox):
                shared.append(wanted)
            if counted < inbox.confirmed:
                partly.append((inbox, [inbox.base + counted + 1, last]))
        if partly:
            self._subtract(partly)
        if shared:
            self._connection.execute(_UNREFER, (json.dumps(shared),))
            self._connection.execute(_DELETE_PAYLOADS)
        if len(ranges) == 1:
            self._connection.execute(_DELETE_RANGE, ranges[0])
        else:
            self._connection.execute(_DELETE, (json.dumps(ranges),))

    def _subtract(self, partly: list[tuple[Inbox, list[int]]]) -> None:
        wanted = json.dumps([each for _, each in partly])
        [counted] = self._connection.execute(_MEASURE, (wanted,)).fetchone()
        for index, rows, size, shared, stranger_rows, stranger_bytes, reports in json.loads(counted):
            inbox = partly[index][0]
            inbox.rows -= rows
            inbox.bytes -= size
            inbox.shared -= shared
            inbox.reports -= reports
            inbox.stranger_rows -= stranger_rows
            inbox.stranger_bytes -= stranger_bytes

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


def _fill(asked: Reported, connection: sqlite3.Connection) -> None:
    ranges = json.dumps(asked.ranges())
    rows = connection.execute(_NAME, (ranges, reported.MAX_REPORTS + 1)).fetchall()
    all_of: dict[int, int] = {}
    if len(rows) > reported.MAX_REPORTS:
        del rows[reported.MAX_REPORTS :]
        all_of = dict(connection.execute(_COUNT, (ranges,)).fetchall())
    asked.complete(rows, all_of)
