"""Calls in the embedded store: one process uses it, so those of any other are of one that is no more."""

import abc
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import attrs

from commucat_storage.calls import CallRow, CallStore, MediaTrack
from commucat_storage.sqlite.expiry import STEP_ROWS
from commucat_storage.sqlite.reads import ReaderPool
from commucat_storage.sqlite.writer import Transaction

T = TypeVar("T")

_COLUMNS: Final = (
    "call_id, channel_id, group_id, initiator_device, mode, video, participants, accepted, gone, node, "
    "started_at, answered_at, ended_at, end_reason, ended_by, last_update"
)
# A call stays with the group that its channel led to when it began.
_PLACES: Final = {
    "group_id": "coalesce(?3, (SELECT group_id FROM route WHERE device_id = ?4 AND channel = ?2))"
}
_KEPT: Final = {
    "group_id": "iif(call_sessions.started_at = excluded.started_at, "
    "coalesce(call_sessions.group_id, excluded.group_id), excluded.group_id)"
}
_NAMES: Final = _COLUMNS.split(", ")
_CHANGED: Final = ", ".join(f"{name} = {_KEPT.get(name, f'excluded.{name}')}" for name in _NAMES[1:])
_STORE_CALL: Final = (
    f"INSERT INTO call_sessions ({_COLUMNS}) "  # noqa: S608 - names of ours
    f"VALUES ({', '.join(_PLACES.get(name, f'?{place}') for place, name in enumerate(_NAMES, 1))}) "
    f"ON CONFLICT (call_id) DO UPDATE SET {_CHANGED} "
    "WHERE call_sessions.node = excluded.node OR call_sessions.ended_at IS NOT NULL"
)
# The id of a call that is over may be used again.
_FORGET_OLD_TRACKS: Final = "DELETE FROM call_media_tracks WHERE call_id = ? AND created_at < ?"
_STORE_TRACK: Final = """
INSERT INTO call_media_tracks
    (call_id, device_id, kind, direction, codec, bitrate, params, stats, created_at, updated_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 WHERE EXISTS (SELECT 1 FROM call_sessions WHERE call_id = ?1)
ON CONFLICT (call_id, device_id, kind, direction) DO UPDATE SET
    codec = coalesce(excluded.codec, codec), bitrate = coalesce(excluded.bitrate, bitrate),
    params = iif(excluded.params = '{}', params, excluded.params),
    stats = iif(excluded.stats = '{}', stats, excluded.stats), updated_at = excluded.updated_at"""
_OPEN: Final = f"SELECT {_COLUMNS} FROM call_sessions WHERE ended_at IS NULL "  # noqa: S608
_LISTED: Final = f"""
SELECT {_COLUMNS} FROM call_sessions AS c WHERE (?1 OR c.ended_at IS NULL)
    AND (?2 IS NULL OR EXISTS (SELECT 1 FROM json_each(c.participants) AS p WHERE p.value = ?2))
ORDER BY c.started_at DESC, c.call_id LIMIT ?3"""  # noqa: S608
_TRACKS: Final = """
SELECT call_id, device_id, kind, direction, codec, bitrate, params, stats, created_at, updated_at
FROM call_media_tracks WHERE call_id IN (SELECT value FROM json_each(?)) ORDER BY 1, 2, 3, 4"""
_PURGE: Final = (
    "DELETE FROM call_sessions WHERE call_id IN "
    "(SELECT call_id FROM call_sessions WHERE ended_at <= ? ORDER BY ended_at LIMIT ?)"
)


class SqliteCalls(CallStore, abc.ABC):
    """Needs the readers and the writer of the store that it is a part of."""

    _readers: ReaderPool

    @abc.abstractmethod
    async def _write(self, work: Callable[[Transaction], T]) -> T: ...

    @abc.abstractmethod
    async def _purge(self, step: Callable[[int, Transaction], int], now: int) -> int: ...

    async def store_calls(self, calls: Sequence[CallRow], tracks: Sequence[MediaTrack]) -> None:
        await self._write(lambda transaction: _store(transaction.connection, calls, tracks))

    async def open_calls(self, *, limit: int) -> tuple[CallRow, ...]:
        return await self._readers.run(_open_calls, limit)

    async def claim_calls(self, node: str, *, own: bool = False, limit: int) -> tuple[CallRow, ...]:
        return await self._write(lambda transaction: _claim(transaction.connection, node, own, limit))

    async def list_calls(
        self, *, limit: int, ended: bool = False, device_id: str | None = None
    ) -> tuple[CallRow, ...]:
        return await self._readers.run(_list, limit, ended, device_id)

    async def media_tracks(self, call_ids: Sequence[str]) -> tuple[MediaTrack, ...]:
        return await self._readers.run(_media_tracks, call_ids)

    async def purge_calls(self, before: int) -> int:
        return await self._purge(_purge, before)


def _store(connection: sqlite3.Connection, calls: Sequence[CallRow], tracks: Sequence[MediaTrack]) -> None:
    connection.executemany(_STORE_CALL, map(_values, calls))
    connection.executemany(_FORGET_OLD_TRACKS, [(call.call_id, call.started_at) for call in calls])
    connection.executemany(_STORE_TRACK, map(attrs.astuple, tracks))


def _open_calls(connection: sqlite3.Connection, limit: int) -> tuple[CallRow, ...]:
    return _rows(connection.execute(f"{_OPEN} ORDER BY started_at, call_id LIMIT ?", (limit,)))


def _claim(connection: sqlite3.Connection, node: str, own: bool, limit: int) -> tuple[CallRow, ...]:
    found = _rows(
        connection.execute(
            f"{_OPEN} AND (?1 OR node <> ?2) ORDER BY started_at, call_id LIMIT ?3", (own, node, limit)
        )
    )
    connection.executemany(
        "UPDATE call_sessions SET node = ? WHERE call_id = ?", [(node, call.call_id) for call in found]
    )
    return tuple(attrs.evolve(call, node=node) for call in found)


def _list(
    connection: sqlite3.Connection, limit: int, ended: bool, device_id: str | None
) -> tuple[CallRow, ...]:
    return _rows(connection.execute(_LISTED, (ended, device_id, limit)))


def _media_tracks(connection: sqlite3.Connection, call_ids: Sequence[str]) -> tuple[MediaTrack, ...]:
    names = [field.name for field in attrs.fields(MediaTrack)]
    rows = connection.execute(_TRACKS, (json.dumps(list(call_ids)),))
    return tuple(MediaTrack(**dict(zip(names, row, strict=True))) for row in rows)


def _purge(before: int, transaction: Transaction) -> int:
    return transaction.connection.execute(_PURGE, (before, STEP_ROWS)).rowcount


def _values(call: CallRow) -> tuple[object, ...]:
    return (
        call.call_id,
        call.channel,
        call.group_id,
        call.initiator,
        call.mode,
        call.video,
        *map(json.dumps, (call.participants, call.accepted, call.gone)),
        call.node,
        call.started_at,
        call.answered_at,
        call.ended_at,
        call.end_reason,
        call.ended_by,
        call.last_update,
    )


def _rows(rows: Iterable[tuple[object, ...]]) -> tuple[CallRow, ...]:
    names = [field.name for field in attrs.fields(CallRow)]
    decoded = []
    for row in rows:
        values: dict[str, Any] = dict(zip(names, row, strict=True))
        values["video"] = bool(values["video"])
        for name in ("participants", "accepted", "gone"):
            values[name] = tuple(json.loads(values[name]))
        decoded.append(CallRow(**values))
    return tuple(decoded)
