"""Names of messages that are stored once, in the writer's transaction."""

import sqlite3
from collections.abc import Iterable

from commucat_storage.marks import Marks, Name

_MOST_NAMES = 256  # in one statement; two values each


class SqliteMarks(Marks):
    """Looks for all names of a batch with one statement, and writes those of a transaction together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    def _look(self, names: Iterable[Name]) -> Iterable[Name]:
        found: list[Name] = []
        wanted = list(names)
        for start in range(0, len(wanted), _MOST_NAMES):
            some = wanted[start : start + _MOST_NAMES]
            found += self._connection.execute(
                "SELECT scope, key FROM idempotency WHERE (key, scope) IN (VALUES "  # noqa: S608 - only places
                + ", ".join(["(?, ?)"] * len(some))
                + ")",
                [part for scope, key in some for part in (key, scope)],
            ).fetchall()
        return found

    def write(self) -> None:
        """Write what is new."""
        if self.new:
            rows = [(each.key, each.scope, each.expires_at) for each in self.new]
            self._connection.executemany("INSERT INTO idempotency VALUES (?, ?, ?)", rows)
            self.new = []
