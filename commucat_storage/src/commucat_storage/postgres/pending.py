"""Rows, payloads and inboxes that the open transaction has changed in memory and not yet written."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import attrgetter

from commucat_storage import reported
from commucat_storage.device_inbox import NEVER, OFFSET_COLUMNS, Inbox
from commucat_storage.pending import Pending
from commucat_storage.postgres import queue_sql
from commucat_storage.postgres.connection import Connection, Row
from commucat_storage.postgres.expiry import release_payloads
from commucat_storage.postgres.loaded import NotLoadedError
from commucat_storage.postgres.texts import to_database

BLOCK = 65_536  # of relay_payload_block

_INSERT_PAYLOADS = queue_sql.numbered(queue_sql.INSERT_PAYLOADS)
_INSERT_ROWS = queue_sql.numbered(queue_sql.INSERT_ROWS)
_INSERT_PEER_ROWS = queue_sql.numbered(queue_sql.INSERT_PEER_ROWS)
_UPDATE_OFFSETS = queue_sql.numbered(queue_sql.UPDATE_OFFSETS)
# One round trip less for almost every transaction.
_INSERT_AND_UPDATE = queue_sql.numbered(
    f"WITH stored AS ({queue_sql.INSERT_ROWS}) {queue_sql.UPDATE_OFFSETS}"
)
_FIND_SHARED = queue_sql.numbered(queue_sql.FIND_SHARED)
_DELETE_AND_MEASURE = queue_sql.numbered(queue_sql.DELETE_AND_MEASURE)
_NAME_REPORTED = queue_sql.numbered(queue_sql.NAME_REPORTED)
_COUNT_REPORTED = queue_sql.numbered(queue_sql.COUNT_REPORTED)
_offsets = attrgetter(*(name for name in OFFSET_COLUMNS if name != "epoch"))


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
        """Write everything since the last time, in the open transaction of ``connection``."""
        if columns := self.payload_columns():
            await connection.execute(_INSERT_PAYLOADS, *columns)
        if columns := self.peer_columns():
            await connection.execute(_INSERT_PEER_ROWS, *columns)
        columns = self.row_columns()
        if self.confirms_new_rows():
            await connection.execute(_INSERT_ROWS, *columns)
            columns = []
        await self.name_reported(connection)
        if self.confirmed:
            await self._delete_confirmed(connection)
        if update := self.offset_columns():
            if columns:
                await connection.execute(_INSERT_AND_UPDATE, *columns, *update)
            else:
                await connection.execute(_UPDATE_OFFSETS, *update)
        self.discard()

    async def name_reported(self, connection: Connection) -> None:
        """Complete the outcomes that are to name rows; before the rows are gone."""
        if not self.reported:
            return
        first, last = zip(*self.reported.ranges(), strict=True)
        rows = await connection.fetch(_NAME_REPORTED, first, last, reported.MAX_REPORTS + 1)
        all_of: dict[int, int] = {}
        if len(rows) > reported.MAX_REPORTS:
            del rows[reported.MAX_REPORTS :]
            all_of = dict(await connection.fetch(_COUNT_REPORTED, first, last))
        self.reported.complete([(row[0], row[1], row[2], row[3], row[4]) for row in rows], all_of)

    def confirms_new_rows(self) -> bool:
        """Whether rows are to be deleted that are not even stored."""
        if not self.confirmed:
            return False
        last = {inbox.inbox: inbox.base + inbox.confirmed for inbox in self.confirmed}
        return any(
            position <= last.get(position >> 32, -1)
            for position in (*self.rows[::7], *self.marked_rows[::10], *self.peer_rows[::12])
            if isinstance(position, int)
        )

    def deletes_shared(self) -> bool:
        """Whether what goes may refer to shared payloads."""
        return any(self._has_shared(inbox) for inbox in self.confirmed)

    def deletes_uncounted(self) -> bool:
        """Whether what goes is still in the counts of an inbox."""
        return any(counted < inbox.confirmed for inbox, counted in self.confirmed.items())

    # -- arrays for the parameters of the statements -----------------------------------------------

    def payload_columns(self) -> list[Sequence[object]]:
        """Of new payloads; nothing if there are none."""
        return list(zip(*self._payloads, strict=True))

    def row_columns(self) -> list[Sequence[object]]:
        """Of new rows; nothing if there are none."""
        plain, marked = self.rows, self.marked_rows
        if not (plain or marked):
            return []
        count = len(plain) // 7
        columns: list[Sequence[object]] = [plain[index::7] + marked[index::10] for index in range(7)]
        columns.append([False] * count + marked[7::10])
        # A tuple is taken as it is: texts are encoded here because some are None.
        reporters = (None if name is None else to_database(str(name)) for name in marked[8::10])
        columns.append((*repeat(None, count), *reporters))
        columns.append((*repeat(None, count), *marked[9::10]))
        return columns

    def peer_columns(self) -> list[Sequence[object]]:
        """Of new rows of outboxes; nothing if there are none."""
        rows = self.peer_rows
        if not rows:
            return []
        columns: list[Sequence[object]] = [rows[index::12] for index in range(12)]
        columns[7] = tuple(None if name is None else to_database(str(name)) for name in rows[7::12])
        # A tuple is taken as it is: some are None.
        columns[11] = tuple(rows[11::12])
        return columns

    def offset_columns(self) -> list[Sequence[object]]:
        """Of changed inboxes; nothing if there are none."""
        return list(zip(*map(_offsets, self.dirty), strict=True))

    def deletion_columns(self) -> list[Sequence[object]]:
        """First and last position to be deleted of each inbox, and the last that is no longer counted."""
        return [
            # Not from 1 on: what was deleted before stays in the index until it is vacuumed.
            [inbox.base + self._watermarks[inbox] + 1 for inbox in self.confirmed],
            [inbox.base + inbox.confirmed for inbox in self.confirmed],
            [inbox.base + number for inbox, number in self.confirmed.items()],
        ]

    def subtract(self, measured: Iterable[Row]) -> None:
        """Take from the counts what has gone: rows as :data:`MEASURE_GONE` has them."""
        gone = {row[0]: row for row in measured}
        for inbox in self.confirmed:
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

    async def _delete_confirmed(self, connection: Connection) -> None:
        columns = self.deletion_columns()
        if self.deletes_shared():
            shared = await connection.fetch(_FIND_SHARED, *columns[:2])
            await release_payloads(connection, [payload_id for [payload_id] in shared])
        self.subtract(await connection.fetch(_DELETE_AND_MEASURE, *columns))
