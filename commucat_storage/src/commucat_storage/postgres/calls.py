"""Calls in PostgreSQL. A call belongs to the node that ends it; if that is no more, another one claims it."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from commucat_storage.calls import CallRow, CallStore, MediaTrack
from commucat_storage.journaled import until_less
from commucat_storage.nodes import DEAD_AFTER
from commucat_storage.postgres.connection import Connection, Row
from commucat_storage.postgres.expiry import STEP_ROWS
from commucat_storage.postgres.pool import Pool

_TIMES: Final = ("started_at", "answered_at", "ended_at", "last_update")
_NAMES: Final = (
    *("call_id", "channel_id", "group_id", "initiator_device", "mode", "video"),
    *("participants", "accepted", "gone", "node", "started_at", "answered_at", "ended_at"),
    *("end_reason", "ended_by", "last_update"),
)


# A call stays with the group that its channel led to when it began.
_GROUP_OF_CHANNEL: Final = (
    "SELECT r.group_id FROM route AS r WHERE r.device_id = $4 AND r.channel = $2::bigint"
)


def _read(alias: str) -> str:
    def column(name: str) -> str:
        if name in _TIMES:
            return f"extract(epoch FROM {alias}.{name})::bigint"
        return f"{alias}.{name}::bigint" if name == "channel_id" else f"{alias}.{name}"

    return ", ".join(map(column, _NAMES))


def _places() -> str:
    def place(index: int, name: str) -> str:
        if name in _TIMES:
            return f"to_timestamp(${index}::float8)"
        if name == "group_id":
            return f"coalesce(${index}, ({_GROUP_OF_CHANNEL}))"
        return f"${index}::bigint" if name == "channel_id" else f"${index}"

    return ", ".join(place(index, name) for index, name in enumerate(_NAMES, start=1))


_KEPT: Final = {
    "group_id": "CASE WHEN call_sessions.started_at = excluded.started_at "
    "THEN coalesce(call_sessions.group_id, excluded.group_id) ELSE excluded.group_id END"
}
_CHANGED: Final = ", ".join(f"{name} = {_KEPT.get(name, f'excluded.{name}')}" for name in _NAMES[1:])
_STORE_CALL: Final = (
    f"INSERT INTO call_sessions ({', '.join(_NAMES)}) VALUES ({_places()}) "  # noqa: S608 - names of ours
    f"ON CONFLICT (call_id) DO UPDATE SET {_CHANGED} "
    "WHERE call_sessions.node = excluded.node OR call_sessions.ended_at IS NOT NULL"
)
# The id of a call that is over may be used again.
_FORGET_OLD_TRACKS: Final = (
    "DELETE FROM call_media_tracks WHERE call_id = $1 AND created_at < to_timestamp($2::float8)"
)
_STORE_TRACK: Final = """
INSERT INTO call_media_tracks AS t
    (call_id, device_id, kind, direction, codec, bitrate, params, stats, created_at, updated_at)
SELECT $1::text, $2::text, $3::text, $4::text, $5::text, $6::bigint, $7::text::jsonb, $8::text::jsonb,
    to_timestamp($9::float8), to_timestamp($10::float8)
WHERE EXISTS (SELECT 1 FROM call_sessions WHERE call_id = $1::text)
ON CONFLICT (call_id, device_id, kind, direction) DO UPDATE SET
    codec = coalesce(excluded.codec, t.codec), bitrate = coalesce(excluded.bitrate, t.bitrate),
    params = CASE WHEN excluded.params = '{}' THEN t.params ELSE excluded.params END,
    stats = CASE WHEN excluded.stats = '{}' THEN t.stats ELSE excluded.stats END,
    updated_at = excluded.updated_at"""
_OPEN: Final = (
    f"SELECT {_read('c')} FROM call_sessions AS c WHERE c.ended_at IS NULL "  # noqa: S608
    "ORDER BY c.started_at, c.call_id LIMIT $1"
)
# Another node that claims at this moment takes other rows.
_CLAIM: Final = f"""
WITH left_behind AS (
    SELECT call_id FROM call_sessions AS o WHERE o.ended_at IS NULL AND (
        $2 AND o.node = $1 OR o.node <> $1 AND NOT EXISTS (
            SELECT 1 FROM cluster_node AS n
            WHERE n.node = o.node AND n.seen_at > now() - $3::float8 * interval '1 second'))
    ORDER BY o.started_at, o.call_id LIMIT $4 FOR UPDATE SKIP LOCKED
)
UPDATE call_sessions AS c SET node = $1 FROM left_behind WHERE c.call_id = left_behind.call_id
RETURNING {_read("c")}"""  # noqa: S608
_LISTED: Final = f"""
SELECT {_read("c")} FROM call_sessions AS c
WHERE ($1 OR c.ended_at IS NULL) AND ($2::text IS NULL OR $2 = ANY (c.participants))
ORDER BY c.started_at DESC, c.call_id LIMIT $3"""  # noqa: S608
_TRACKS: Final = """
SELECT call_id, device_id, kind, direction, codec, bitrate, params::text, stats::text,
    extract(epoch FROM created_at)::bigint, extract(epoch FROM updated_at)::bigint
FROM call_media_tracks WHERE call_id = ANY ($1::text[])
ORDER BY call_id COLLATE "C", device_id COLLATE "C", kind, direction"""
_PURGE: Final = """
DELETE FROM call_sessions WHERE call_id IN (
    SELECT call_id FROM call_sessions WHERE ended_at <= to_timestamp($1::float8)
    ORDER BY ended_at LIMIT $2)"""


class PostgresCalls(CallStore):
    """Needs the pool of the store that it is a part of."""

    _pool: Pool

    async def store_calls(self, calls: Sequence[CallRow], tracks: Sequence[MediaTrack]) -> None:
        async def unit(connection: Connection) -> None:
            # In one order, so that two nodes that store the same calls wait for each other and not in a ring.
            ordered = sorted(calls, key=lambda call: call.call_id)
            await connection.executemany(_STORE_CALL, map(_values, ordered))
            started = [(call.call_id, call.started_at) for call in ordered]
            await connection.executemany(_FORGET_OLD_TRACKS, started)
            await connection.executemany(_STORE_TRACK, map(attrs.astuple, tracks))

        await self._pool.write(unit)

    async def open_calls(self, *, limit: int) -> tuple[CallRow, ...]:
        return _rows(await self._pool.read(lambda connection: connection.fetch(_OPEN, limit)))

    async def claim_calls(self, node: str, *, own: bool = False, limit: int) -> tuple[CallRow, ...]:
        rows = _rows(
            await self._pool.write(lambda connection: connection.fetch(_CLAIM, node, own, DEAD_AFTER, limit))
        )
        return tuple(sorted(rows, key=lambda call: (call.started_at, call.call_id)))

    async def list_calls(
        self, *, limit: int, ended: bool = False, device_id: str | None = None
    ) -> tuple[CallRow, ...]:
        return _rows(
            await self._pool.read(lambda connection: connection.fetch(_LISTED, ended, device_id, limit))
        )

    async def media_tracks(self, call_ids: Sequence[str]) -> tuple[MediaTrack, ...]:
        names = [field.name for field in attrs.fields(MediaTrack)]
        rows = await self._pool.read(lambda connection: connection.fetch(_TRACKS, list(call_ids)))
        return tuple(MediaTrack(**dict(zip(names, row, strict=True))) for row in rows)

    async def purge_calls(self, before: int) -> int:
        async def step() -> int:
            done = await self._pool.repeat(lambda connection: connection.execute(_PURGE, before, STEP_ROWS))
            return int(done.rpartition(" ")[2])

        return await until_less(STEP_ROWS, step)


def _values(call: CallRow) -> tuple[object, ...]:
    values = attrs.astuple(call, recurse=False)
    return tuple(list(value) if isinstance(value, tuple) else value for value in values)


def _rows(rows: Iterable[Row]) -> tuple[CallRow, ...]:
    names = [field.name for field in attrs.fields(CallRow)]
    decoded = []
    for row in rows:
        values: dict[str, Any] = dict(zip(names, row, strict=True))
        for name in ("participants", "accepted", "gone"):
            values[name] = tuple(values[name])
        decoded.append(CallRow(**values))
    return tuple(decoded)
