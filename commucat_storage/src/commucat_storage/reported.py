"""Rows that a confirmation deletes and whose senders asked: named in its outcome."""

from collections.abc import Iterable, Mapping

import attrs

from commucat_storage.device_inbox import Inbox
from commucat_storage.inbox import ConfirmedMessage, ConfirmOutcome, Outcome

MAX_REPORTS = 10_000
"""Rows that the outcomes of one transaction name; what is beyond is only counted. They stay in memory
until the server has dealt with them, and one confirmation may be about a whole inbox."""


@attrs.frozen
class _Waiting:
    """The outcome at ``outcomes[index]`` is about these positions."""

    outcomes: list[Outcome]
    index: int
    first: int
    last: int


class Reported:
    """Confirmations of the open transaction that delete rows whose senders asked.

    All of them are looked up by one statement of the backend, right before the rows are deleted.
    """

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, outcomes: list[Outcome], inbox: Inbox, first: int, last: int) -> None:
        """The outcome that comes next in ``outcomes`` is of a confirmation of these numbers."""
        base = inbox.base
        self._waiting.append(_Waiting(outcomes, len(outcomes), base + first, base + last))

    def ranges(self) -> list[tuple[int, int]]:
        """First and last position of each confirmation, in the order in which they were added."""
        return [(each.first, each.last) for each in self._waiting]

    def complete(
        self, rows: Iterable[tuple[int, str, int, bytes | None, int]], all_of: Mapping[int, int]
    ) -> None:
        """Complete the outcomes that were added.

        Args:
            rows: at most :data:`MAX_REPORTS`, in the order of their positions: index of the range,
                sender, channel, reference, expiry.
            all_of: how many rows each range has, if ``rows`` are not all; empty otherwise.
        """
        waiting, self._waiting = self._waiting, []
        named: list[list[ConfirmedMessage]] = [[] for _ in waiting]
        for index, sender, channel, reference, expires_at in rows:
            named[index].append(ConfirmedMessage(sender, channel, reference or b"", expires_at))
        for index, (each, reports) in enumerate(zip(waiting, named, strict=True)):
            outcome = each.outcomes[each.index]
            assert isinstance(outcome, ConfirmOutcome)
            unreported = all_of[index] - len(reports) if index in all_of else 0
            each.outcomes[each.index] = attrs.evolve(outcome, reports=tuple(reports), unreported=unreported)
