"""Statements that write the queue. Each ``?`` is a parameter, so that statements can be put together."""

from commucat_storage.device_inbox import NEVER

LATEST = 2**42  # seconds; timestamps of PostgreSQL end in the year 294276


def numbered(statement: str, first: int = 1) -> str:
    """The statement with ``$1``, ``$2`` and so on, beginning with ``first``."""
    first_piece, *pieces = statement.split("?")
    return first_piece + "".join(f"${number}{piece}" for number, piece in enumerate(pieces, first))


INSERT_PAYLOADS = """INSERT INTO relay_payload (payload_id, refs, payload)
SELECT * FROM unnest(?::bigint[], ?::bigint[], ?::bytea[]) AS n"""
INSERT_ROWS = f"""INSERT INTO relay_queue
(position, frame_type, channel, expires_at, size, payload, payload_id, stranger, reporter, reference)
SELECT n.position, n.frame_type, n.channel,
    CASE WHEN n.expires_at < {LATEST} THEN to_timestamp(n.expires_at) ELSE 'infinity' END,
    n.size, n.payload, n.payload_id, n.stranger, n.reporter, n.reference
FROM unnest(?::bigint[], ?::smallint[], ?::bigint[], ?::bigint[], ?::integer[], ?::bytea[],
    ?::bigint[], ?::boolean[], ?::text[], ?::bytea[])
AS n (position, frame_type, channel, expires_at, size, payload, payload_id, stranger, reporter, reference)"""  # noqa: S608
# The same for rows of outboxes, which nobody is a stranger to.
_OF_PEERS = """position, frame_type, channel, expires_at, size, payload, payload_id, reporter, reference,
    sender, target, group_id"""
INSERT_PEER_ROWS = f"""INSERT INTO relay_queue ({_OF_PEERS})
SELECT n.position, n.frame_type, n.channel,
    CASE WHEN n.expires_at < {LATEST} THEN to_timestamp(n.expires_at) ELSE 'infinity' END,
    n.size, n.payload, n.payload_id, n.reporter, n.reference, n.sender, n.target, n.group_id
FROM unnest(?::bigint[], ?::smallint[], ?::bigint[], ?::bigint[], ?::integer[], ?::bytea[],
    ?::bigint[], ?::text[], ?::bytea[], ?::text[], ?::text[], ?::text[])
AS n ({_OF_PEERS})"""  # noqa: S608

FIND_SHARED = """SELECT q.payload_id FROM unnest(?::bigint[], ?::bigint[]) AS r (first, last)
JOIN relay_queue AS q ON q.position BETWEEN r.first AND r.last WHERE q.payload_id IS NOT NULL"""
DELETE_ROWS = """DELETE FROM relay_queue AS q
USING unnest(?::bigint[], ?::bigint[], ?::bigint[]) AS r (first, last, counted)
WHERE q.position BETWEEN r.first AND r.last"""
RETURNING_GONE = "RETURNING q.position, r.counted, q.size, q.payload_id, q.stranger, q.reporter"
# What goes of each inbox, but not what was counted before.
MEASURE_GONE = """SELECT position >> 32 AS inbox, count(*) AS rows, sum(size)::bigint AS bytes,
    count(payload_id) AS shared, count(*) FILTER (WHERE stranger) AS stranger_rows,
    coalesce(sum(size) FILTER (WHERE stranger), 0)::bigint AS stranger_bytes, count(reporter) AS reports
FROM gone WHERE position > counted GROUP BY 1"""
DELETE_AND_MEASURE = f"WITH gone AS ({DELETE_ROWS} {RETURNING_GONE}) {MEASURE_GONE}"

_REPORTED = """FROM unnest(?::bigint[], ?::bigint[]) WITH ORDINALITY AS r (first, last, place)
JOIN relay_queue AS q ON q.position BETWEEN r.first AND r.last WHERE q.reporter IS NOT NULL"""
NAME_REPORTED = f"""SELECT r.place - 1, q.reporter, q.channel, q.reference,
    extract(epoch FROM least(q.expires_at, to_timestamp({LATEST})))::bigint
{_REPORTED} ORDER BY r.place, q.position LIMIT ?"""  # noqa: S608
COUNT_REPORTED = f"SELECT r.place - 1, count(*) {_REPORTED} GROUP BY r.place"

_GIVEN = """unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[],
    ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[])"""
_OFFSETS = """inbox, next_number, confirmed, rows, bytes, shared, earliest, stranger_rows, stranger_bytes,
    reports"""
_SET_OFFSETS = """UPDATE inbox_offset AS o SET next_number = n.next_number, confirmed = n.confirmed,
    rows = n.rows, bytes = n.bytes, shared = n.shared, earliest = n.earliest,
    stranger_rows = n.stranger_rows, stranger_bytes = n.stranger_bytes, reports = n.reports,
    updated_at = now()"""
UPDATE_OFFSETS = f"{_SET_OFFSETS} FROM {_GIVEN} AS n ({_OFFSETS}) WHERE o.inbox = n.inbox"
# The same, less what ``less`` says that has just gone. Added up, not joined: that takes no longer for many.
UPDATE_OFFSETS_LESS = f"""{_SET_OFFSETS} FROM (
    SELECT inbox, max(next_number) AS next_number, max(confirmed) AS confirmed,
        sum(rows)::bigint AS rows, sum(bytes)::bigint AS bytes, sum(shared)::bigint AS shared,
        CASE WHEN sum(rows) = 0 THEN {NEVER} ELSE max(earliest) END AS earliest,
        sum(stranger_rows)::bigint AS stranger_rows, sum(stranger_bytes)::bigint AS stranger_bytes,
        sum(reports)::bigint AS reports
    FROM (
        SELECT {_OFFSETS} FROM {_GIVEN} AS given ({_OFFSETS}) UNION ALL
        SELECT inbox, NULL, NULL, -rows, -bytes, -shared, NULL, -stranger_rows, -stranger_bytes, -reports
        FROM less
    ) AS changes GROUP BY inbox
) AS n WHERE o.inbox = n.inbox"""  # noqa: S608
