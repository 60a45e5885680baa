"""Rows, payloads and inboxes that the open transaction has changed in memory and not yet written."""

import re
from collections.abc import Sequence
from itertools import repeat

from commucat_storage import reported
from commucat_storage.device_inbox import NEVER, Inbox
from commucat_storage.pending import Pending
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.expiry import release_payloads
from commucat_storage.postgres.loaded import NotLoadedError
from commucat_storage.postgres.texts import to_database
from commucat_storage.reported import Reported

BLOCK = 65_536  # of relay_payload_block
_ROW_COLUMNS = 10  # parameters of _INSERT_ROWS
_LATEST = 2**42  # seconds; timestamps of PostgreSQL end in the year 294276

_INSERT_PAYLOADS = """INSERT INTO relay_payload (payload_id, refs, payload)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])"""
_INSERT_ROWS = f"""INSERT INTO relay_queue
(position, frame_type, channel, expires_at, size, payload, payload_id, stranger, reporter, reference)
SELECT n.position, n.frame_type, n.channel,
    CASE WHEN n.expires_at < {_LATEST} THEN to_timestamp(n.expires_at) ELSE 'infinity' END,
    n.size, n.payload, n.payload_id, n.stranger, n.reporter, n.reference
FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::integer[], $6::bytea[],
    $7::bigint[], $8::boolean[], $9::text[], $10::bytea[])
AS n (position, frame_type, channel, expires_at, size, payload, payload_id, stranger, reporter, reference)"""  # noqa: S608
_FIND_SHARED = """SELECT q.payload_id FROM unnest($1::bigint[], $2::bigint[]) AS r (first, last)
JOIN relay_queue AS q ON q.position BETWEEN r.first AND r.last WHERE q.payload_id IS NOT NULL"""
_DELETE_ROWS = """WITH gone AS (
    DELETE FROM relay_queue AS q
    USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS r (first, last, counted)
    WHERE q.position BETWEEN r.first AND r.last
    RETURNING q.position, r.counted, q.size, q.payload_id, q.stranger, q.reporter
)
SELECT position >> 32, count(*), sum(size)::bigint, count(payload_id), count(*) FILTER (WHERE stranger),
    coalesce(sum(size) FILTER (WHERE stranger), 0)::bigint, count(reporter)
FROM gone WHERE position > counted GROUP BY 1"""
_REPORTED = """FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS r (first, last, place)
JOIN relay_queue AS q ON q.position BETWEEN r.first AND r.last WHERE q.reporter IS NOT NULL"""
_NAME = f"""SELECT r.place - 1, q.reporter, q.channel, q.reference,
    extract(epoch FROM least(q.expires_at, to_timestamp({_LATEST})))::bigint
{_REPORTED} ORDER BY r.place, q.position LIMIT $3"""  # noqa: S608
_COUNT = f"SELECT r.place - 1, count(*) {_REPORTED} GROUP BY r.place"
_UPDATE_OFFSETS = """UPDATE inbox_offset AS o SET next_number = n.next_number, confirmed = n.confirmed,
    rows = n.rows, bytes = n.bytes, shared = n.shared, earliest = n.earliest,
    stranger_rows = n.stranger_rows, stranger_bytes = n.stranger_bytes, reports = n.reports,
    updated_at = now()
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
AS n (inbox, next_number, confirmed, rows, bytes, shared, earliest, stranger_rows, stranger_bytes, reports)
WHERE o.inbox = n.inbox"""
# One round trip less for almost every transaction; the parameters of the update follow the others.
_INSERT_AND_UPDATE = f"WITH stored AS ({_INSERT_ROWS}) " + re.sub(
    r"\$(\d+)", lambda place: f"${int(place[1]) + _ROW_COLUMNS}", _UPDATE_OFFSETS
)


class PayloadIds:
    """Ids for shared payloads, taken from the database a block at a time; gaps do not matter."""

    def __init__(self) -> None:
        self._next = self._end = 0

    async def reserve(self, connection: Connection, count: int) -> None:
        """Make sure that ``count`` more ids can be taken."""
        if self._end - self._next < count:
            blocks = -(-count // BLOCK)
            # A sequence is not rolled back, so the block is this process's whatever becomes of the rest.
            # Several blocks need not be neighbours: then only the last one is used, if it is enough.
            taken = [
                await connection.fetchval("SELECT nextval('relay_payload_block')") for _ in range(blocks)
            ]
            while taken[-1] - taken[0] != (blocks - 1) * BLOCK:
                taken = [*taken[1:], await connection.fetchval("SELECT nextval('relay_payload_block')")]
            self._next, self._end = taken[0], taken[-1] + BLOCK

    def take(self) -> int:
        """The next id."""
        assert self._next < self._end, "reserve was called"
        self._next += 1
        return self._next - 1


class PostgresPending(Pending):
    """Writes what a transaction has changed with a handful of statements; made anew for each."""

    __slots__ = ("_payload_ids", "_payloads", "_watermarks")

    def __init__(self, payload_ids: PayloadIds, watermarks: dict[Inbox, int]) -> None:
        super().__init__()
        self._payload_ids = payload_ids
        self._watermarks = watermarks
        """Up to where each inbox has no rows any more."""
        self._payloads: list[tuple[int, int, bytes]] = []

    def discard(self) -> None:
        super().discard()
        self._payloads = []

    def share(self, payload: bytes, refs: int) -> int:
        payload_id = self._payload_ids.take()
        self._payloads.append((payload_id, refs, payload))
        return payload_id

    def flush(self) -> None:
        """Asked for where a full inbox may have room, because something of it was just confirmed."""
        raise NotLoadedError(stepwise=True)

    async def write(self, connection: Connection) -> None:
        """Write everything since the last time."""
        if self._payloads:
            await connection.execute(_INSERT_PAYLOADS, *zip(*self._payloads, strict=True))
        columns = self._columns() if self.rows or self.marked_rows else []
        if columns and self._confirms_new_rows(columns[0]):
            await connection.execute(_INSERT_ROWS, *columns)
            columns = []
        if self.reported:
            await _fill(self.reported, connection)  # before the rows are gone
        if self.confirmed:
            await self._delete_confirmed(connection)
        if self.dirty:
            offsets = [
                (
                    inbox.inbox,
                    inbox.next_number,
                    inbox.confirmed,
                    inbox.rows,
                    inbox.bytes,
                    inbox.shared,
                    inbox.earliest,
                    inbox.stranger_rows,
                    inbox.stranger_bytes,
                    inbox.reports,
                )
                for inbox in self.dirty
            ]
            update = zip(*offsets, strict=True)
            if columns:
                await connection.execute(_INSERT_AND_UPDATE, *columns, *update)
            else:
                await connection.execute(_UPDATE_OFFSETS, *update)
        self.discard()

    def _confirms_new_rows(self, positions: Sequence[object]) -> bool:
        """Whether rows are to be deleted that are not even stored."""
        if not self.confirmed:
            return False
        last = {inbox.inbox: inbox.base + inbox.confirmed for inbox in self.confirmed}
        return any(
            position <= last.get(position >> 32, -1) for position in positions if isinstance(position, int)
        )

    def _columns(self) -> list[Sequence[object]]:
        plain, marked = self.rows, self.marked_rows
        count = len(plain) // 7
        columns: list[Sequence[object]] = [plain[index::7] + marked[index::10] for index in range(7)]
        columns.append([False] * count + marked[7::10])
        # A tuple is taken as it is: texts are encoded here because some are None.
        reporters = (None if name is None else to_database(str(name)) for name in marked[8::10])
        columns.append((*repeat(None, count), *reporters))
        columns.append((*repeat(None, count), *marked[9::10]))
        return columns

    async def _delete_confirmed(self, connection: Connection) -> None:
        inboxes = list(self.confirmed)
        counted = [inbox.base + number for inbox, number in self.confirmed.items()]
        # Not from 1 on: what was deleted before stays in the index until it is vacuumed.
        first = [inbox.base + self._watermarks[inbox] + 1 for inbox in inboxes]
        last = [inbox.base + inbox.confirmed for inbox in inboxes]
        if any(self._has_shared(inbox) for inbox in inboxes):
            shared = await connection.fetch(_FIND_SHARED, first, last)
            await release_payloads(connection, [payload_id for [payload_id] in shared])
        gone = {row[0]: row for row in await connection.fetch(_DELETE_ROWS, first, last, counted)}
        for inbox in inboxes:
            self._watermarks[inbox] = inbox.confirmed
            if inbox.inbox in gone:
                _, rows, size, shared_rows, stranger_rows, stranger_bytes, reports = gone[inbox.inbox]
                inbox.rows -= rows
                inbox.bytes -= size
                inbox.shared -= shared_rows
                inbox.reports -= reports
                inbox.stranger_rows -= stranger_rows
                inbox.stranger_bytes -= stranger_bytes
            if inbox.rows == 0:
                inbox.earliest = NEVER


async def _fill(asked: Reported, connection: Connection) -> None:
    first, last = zip(*asked.ranges(), strict=True)
    rows = await connection.fetch(_NAME, first, last, reported.MAX_REPORTS + 1)
    all_of: dict[int, int] = {}
    if len(rows) > reported.MAX_REPORTS:
        del rows[reported.MAX_REPORTS :]
        all_of = dict(await connection.fetch(_COUNT, first, last))
    asked.complete([(row[0], row[1], row[2], row[3], row[4]) for row in rows], all_of)
