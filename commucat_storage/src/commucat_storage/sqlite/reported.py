"""Rows that a confirmation deletes and whose senders asked: named in its outcome."""

import json
import sqlite3

import attrs

from commucat_storage.inbox import ConfirmedMessage, ConfirmOutcome, Outcome
from commucat_storage.sqlite.inboxes import Inbox

MAX_REPORTS = 10_000
"""Rows that the outcomes of one transaction name; what is beyond is only counted. They stay in memory
until the server has dealt with them, and one confirmation may be about a whole inbox."""

# Takes a JSON array of [first position, last position]; CROSS JOIN keeps the ranges outside.
_IN_RANGES = """FROM json_each(?) AS r
CROSS JOIN relay_queue AS q ON q.position BETWEEN r.value ->> 0 AND r.value ->> 1
WHERE q.reporter IS NOT NULL"""
_NAME = f"SELECT r.key, q.reporter, q.channel, q.reference, q.expires_at {_IN_RANGES} LIMIT ?"
_COUNT = f"SELECT r.key, count(*) {_IN_RANGES} GROUP BY r.key"


@attrs.frozen
class _Waiting:
    """The outcome at ``outcomes[index]`` is about these positions."""

    outcomes: list[Outcome]
    index: int
    first: int
    last: int


class Reported:
    """Confirmations of the open transaction that delete rows whose senders asked.

    All of them are looked up by one statement, right before the rows are deleted.
    """

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def add(self, outcomes: list[Outcome], inbox: Inbox, first: int, last: int) -> None:
        """The outcome that comes next in ``outcomes`` is of a confirmation of these numbers."""
        base = inbox.base
        self._waiting.append(_Waiting(outcomes, len(outcomes), base + first, base + last))

    def fill(self, connection: sqlite3.Connection) -> None:
        """Complete the outcomes that were added."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        ranges = json.dumps([(each.first, each.last) for each in waiting])
        named: list[list[ConfirmedMessage]] = [[] for _ in waiting]
        rows = connection.execute(_NAME, (ranges, MAX_REPORTS + 1)).fetchall()
        left_out: dict[int, int] = {}
        if len(rows) > MAX_REPORTS:
            del rows[MAX_REPORTS:]
            left_out = dict(connection.execute(_COUNT, (ranges,)).fetchall())
        for index, sender, channel, reference, expires_at in rows:
            named[index].append(ConfirmedMessage(sender, channel, reference or b"", expires_at))
        for index, (each, reports) in enumerate(zip(waiting, named, strict=True)):
            outcome = each.outcomes[each.index]
            assert isinstance(outcome, ConfirmOutcome)
            unreported = left_out[index] - len(reports) if index in left_out else 0
            each.outcomes[each.index] = attrs.evolve(outcome, reports=tuple(reports), unreported=unreported)
