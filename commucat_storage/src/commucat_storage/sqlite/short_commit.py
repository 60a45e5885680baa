"""A few rows committed by one statement: the transaction of a store that is not busy.

A statement lets go of the interpreter lock, and a thread that wants it back from a busy event loop waits
for it longer than the statement took. A transaction of a single message had six statements, with BEGIN and
COMMIT, and each of them two such gaps. Here it is one: an INSERT into a view whose trigger does the rest,
outside of BEGIN and COMMIT, so that SQLite begins and ends the transaction with it.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeAlias

import attrs

from commucat_storage.device_inbox import OFFSET_COLUMNS
from commucat_storage.sqlite.pending import SqlitePending

_ROW_COLUMNS = (
    "position",
    "frame_type",
    "channel",
    "expires_at",
    "size",
    "payload",
    "stranger",
    "reporter",
    "reference",
)
_RANGE_COLUMNS = ("first", "last")

_Tuples: TypeAlias = Sequence[tuple[object, ...]]


class StaleError(Exception):
    """Another process has written since the last transaction: what was applied may be wrong."""


@attrs.frozen
class _Shape:
    """How many rows, ranges to be deleted and inboxes a statement has places for."""

    rows: int
    ranges: int
    offsets: int

    @property
    def view(self) -> str:
        return f"commit_of_{self.rows}"

    @property
    def statement(self) -> str:
        places = (
            1
            + self.rows * len(_ROW_COLUMNS)
            + self.ranges * len(_RANGE_COLUMNS)
            + self.offsets * len(OFFSET_COLUMNS)
        )
        return f"INSERT INTO {self.view} VALUES ({', '.join('?' * places)})"  # noqa: S608 - only places

    def script(self) -> str:
        """The view and its trigger. They are the connection's own and not in the file."""
        rows = [_named("row", index, _ROW_COLUMNS) for index in range(self.rows)]
        ranges = [_named("range", index, _RANGE_COLUMNS) for index in range(self.ranges)]
        offsets = [_named("offset", index, OFFSET_COLUMNS) for index in range(self.offsets)]
        columns = ", ".join(
            f"NULL AS {name}" for name in ["version", *chain.from_iterable(rows + ranges + offsets)]
        )
        # The statement holds the lock for writing when its trigger begins.
        steps = [
            "SELECT RAISE(ABORT, 'stale') FROM pragma_data_version AS now "
            "WHERE now.data_version IS NOT NEW.version"
        ]
        for place in rows:
            steps.append(
                f"INSERT INTO relay_queue ({', '.join(_ROW_COLUMNS)}) "
                f"SELECT {_new(place)} WHERE NEW.{place[0]} IS NOT NULL"
            )
        steps += [
            f"DELETE FROM relay_queue WHERE position BETWEEN NEW.{first} AND NEW.{last}"  # noqa: S608
            for first, last in ranges
        ]
        changed = ", ".join(f"{name} = excluded.{name}" for name in OFFSET_COLUMNS[2:])
        for place in offsets:
            steps.append(
                f"INSERT INTO inbox_offset ({', '.join(OFFSET_COLUMNS)}) "
                f"SELECT {_new(place)} WHERE NEW.{place[0]} IS NOT NULL "
                f"ON CONFLICT (inbox) DO UPDATE SET {changed}"
            )
        return (
            f"CREATE TEMP VIEW {self.view} AS SELECT {columns};\n"
            f"CREATE TEMP TRIGGER {self.view}_is_written INSTEAD OF INSERT ON {self.view} BEGIN\n"
            + "".join(f"{step};\n" for step in steps)
            + "END;\n"
        )

    def holds(self, rows: int, ranges: int, offsets: int) -> bool:
        """Whether there are places for so much."""
        return rows <= self.rows and ranges <= self.ranges and offsets <= self.offsets

    def values(self, version: int | None, rows: _Tuples, ranges: _Tuples, offsets: _Tuples) -> list[object]:
        """What the statement takes, in its order."""
        values: list[object] = [version]
        values.extend(_filled(rows, self.rows, len(_ROW_COLUMNS)))
        values.extend(_filled(ranges, self.ranges, len(_RANGE_COLUMNS)))
        values.extend(_filled(offsets, self.offsets, len(OFFSET_COLUMNS)))
        return values


_SHAPES = (_Shape(rows=1, ranges=1, offsets=2), _Shape(rows=4, ranges=4, offsets=8))
MOST_ROWS = 8
"""Messages and confirmations beyond which a transaction has too much for one statement."""


class ShortCommit:
    """Commits what a :class:`SqlitePending` has, if it is little. For the writer's thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._statements: list[tuple[_Shape, str]] = []

    def write(self, pending: SqlitePending, version: int | None, syncs: Callable[[], None]) -> bool:
        """Commit everything that is pending; ``False`` if it is more than one statement takes.

        Args:
            pending: empty afterwards.
            version: ``PRAGMA data_version`` of the last transaction.
            syncs: called before the statement.

        Raises:
            StaleError: another process has written since then. Nothing is stored.
        """
        rows = pending.plain_rows()
        ranges = pending.ranges_to_delete()
        if rows is None or ranges is None:
            return False
        if not self._statements:
            for shape in _SHAPES:
                self._connection.executescript(shape.script())
            self._statements = [(shape, shape.statement) for shape in _SHAPES]
        offsets = pending.offsets()
        for shape, statement in self._statements:
            if shape.holds(len(rows), len(ranges), len(offsets)):
                values = shape.values(version, rows, ranges, offsets)
                syncs()
                self._execute(statement, values)
                pending.written()
                return True
        return False

    def _execute(self, statement: str, values: list[object]) -> None:
        try:
            self._connection.execute(statement, values)
        except sqlite3.IntegrityError as exc:
            if exc.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
                raise StaleError from exc
            raise


def _named(kind: str, index: int, columns: Iterable[str]) -> list[str]:
    return [f"{kind}{index}_{column}" for column in columns]


def _new(names: Iterable[str]) -> str:
    return ", ".join(f"NEW.{name}" for name in names)


def _filled(tuples: _Tuples, places: int, width: int) -> Iterator[object]:
    """The values of the tuples one after the other, and nothing in the places that are left."""
    yield from chain.from_iterable(tuples)
    yield from (None,) * ((places - len(tuples)) * width)
