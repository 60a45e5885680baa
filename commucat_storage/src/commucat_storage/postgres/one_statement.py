"""A whole transaction as one statement: it writes if what it was decided upon is still so, or nothing.

The statement locks the inboxes in the order of every transaction, and compares what cannot change unless
one of these changes: the inbox id, its next number, its watermark, how many rows it has, and the counter of
its relations; and the node of its session, which is to be told. A row that another transaction changed after
the statement began is locked, and compared, as that left it; so what the rest of the statement sees of the
inboxes is current, or is not used.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from commucat_storage.postgres.connection import Connection, Row
from commucat_storage.postgres.pending import PostgresPending
from commucat_storage.postgres.queue_sql import (
    DELETE_ROWS,
    INSERT_PAYLOADS,
    INSERT_PEER_ROWS,
    INSERT_ROWS,
    MEASURE_GONE,
    RETURNING_GONE,
    UPDATE_OFFSETS,
    UPDATE_OFFSETS_LESS,
    numbered,
)

_HELD = """held AS MATERIALIZED (
    SELECT FROM unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[], ?::bigint[])
        AS e (inbox, next_number, confirmed, rows, owner_node, relations)
    JOIN inbox_offset AS o ON o.inbox = e.inbox AND o.next_number = e.next_number
        AND o.confirmed = e.confirmed AND o.rows = e.rows AND o.relations = e.relations
        AND o.owner_node IS NOT DISTINCT FROM e.owner_node
    ORDER BY o.entity_id FOR NO KEY UPDATE OF o
)"""
# Whoever changes a group holds its members' inboxes, so it is looked at behind them. A weaker lock than
# FOR SHARE would not notice a change that was committed after this statement began.
_HELD_GROUPS = """held_groups AS MATERIALIZED (
    SELECT FROM unnest(?::text[], ?::bigint[]) AS e (group_id, version)
    JOIN chat_group AS g ON g.group_id = e.group_id AND g.version = e.version
    WHERE (SELECT count(*) FROM held) >= 0 ORDER BY g.group_id FOR SHARE OF g
)"""
_SAME_SIBLINGS = """(SELECT count(*) = ? AND count(*) FILTER (WHERE d.opaque_id <> ALL (?::text[])) = 0
    FROM user_device AS d WHERE d.user_id = ANY (?::text[]) AND d.status = 'active')"""
_UNCHANGED = "(SELECT unchanged FROM checked)"
# Locked in order: another process may count down the same payloads for other devices.
_RELEASED = """released AS MATERIALIZED (
    SELECT p.payload_id, p.refs, n.n FROM (
        SELECT payload_id, count(*) AS n FROM gone WHERE payload_id IS NOT NULL GROUP BY 1
    ) AS n JOIN relay_payload AS p ON p.payload_id = n.payload_id ORDER BY p.payload_id FOR UPDATE OF p
), lowered AS (
    UPDATE relay_payload AS p SET refs = p.refs - r.n FROM released AS r
    WHERE p.payload_id = r.payload_id AND r.refs > r.n
), dropped AS (
    DELETE FROM relay_payload AS p USING released AS r WHERE p.payload_id = r.payload_id AND r.refs <= r.n
)"""


@attrs.frozen
class Basis:
    """What a transaction was decided upon."""

    inboxes: Sequence[Row]
    """Rows as :data:`INBOX_COLUMNS` has them."""
    groups: Mapping[str, int]
    """Their versions."""
    siblings: Mapping[str, tuple[str, ...]]
    """The active devices of users."""


class OneStatement:
    """What ``pending`` holds, to be stored if ``basis`` holds.

    After a lost connection it may be sent again: it cannot be done twice.
    """

    def __init__(self, basis: Basis, pending: PostgresPending) -> None:
        self._pending = pending
        self._parts: list[str] = []
        self._args: list[object] = []
        self._check(basis)
        if columns := pending.payload_columns():
            self._add(f"payloads AS ({INSERT_PAYLOADS} WHERE {_UNCHANGED})", columns)
        if columns := pending.row_columns():
            self._add(f"stored AS ({INSERT_ROWS} WHERE {_UNCHANGED})", columns)
        if columns := pending.peer_columns():
            self._add(f"sent AS ({INSERT_PEER_ROWS} WHERE {_UNCHANGED})", columns)
        measured = self._delete()
        if columns := pending.offset_columns():
            update = UPDATE_OFFSETS_LESS if measured else UPDATE_OFFSETS
            self._add(f"offsets AS ({update} AND {_UNCHANGED})", columns)
        answer = ", less.* FROM checked LEFT JOIN less ON true" if measured else " FROM checked"
        self._text = numbered(f"WITH {', '.join(self._parts)} SELECT unchanged{answer}")

    async def store(self, connection: Connection) -> bool:
        """Send it; False if the basis does not hold any more, and nothing was stored."""
        rows = await connection.fetch(self._text, *self._args)
        if not rows[0][0]:
            return False
        self._pending.subtract([row[1:] for row in rows if len(row) > 1 and row[1] is not None])
        return True

    def _add(self, part: str, args: Iterable[object]) -> None:
        self._parts.append(part)
        self._args += args

    def _check(self, basis: Basis) -> None:
        # Tuples are taken as they are: some owners are None.
        self._add(_HELD, [tuple(row[place] for row in basis.inboxes) for place in (1, 3, 4, 5, 12, 13)])
        conditions = ["(SELECT count(*) FROM held) = ?"]
        counts: list[object] = [len(basis.inboxes)]
        if basis.groups:
            self._add(_HELD_GROUPS, [list(basis.groups), list(basis.groups.values())])
            conditions.append("(SELECT count(*) FROM held_groups) = ?")
            counts.append(len(basis.groups))
        if basis.siblings:
            devices = [device_id for each in basis.siblings.values() for device_id in each]
            conditions.append(_SAME_SIBLINGS)
            counts += [len(devices), devices, list(basis.siblings)]
        self._add(f"checked AS MATERIALIZED (SELECT {' AND '.join(conditions)} AS unchanged)", counts)

    def _delete(self) -> bool:
        """Add the deletion of what was confirmed; whether it tells what has gone."""
        pending = self._pending
        if not pending.confirmed:
            return False
        shared, partial = pending.deletes_shared(), pending.deletes_uncounted()
        returning = RETURNING_GONE if shared or partial else ""
        self._add(f"gone AS ({DELETE_ROWS} AND {_UNCHANGED} {returning})", pending.deletion_columns())
        if shared:
            self._add(_RELEASED, ())
        if partial:
            self._add(f"less AS MATERIALIZED ({MEASURE_GONE})", ())
        return partial
