"""How long messages to a group wait for what the group's home says of its members."""

from collections.abc import Callable
from typing import Final

GROUP_PATIENCE: Final = 600.0
"""Seconds for which messages to a group are wanted later because the peer knows a newer state of it: what the
group's home says is on another way, and may come behind them."""
MAX_EARLY: Final = 1_000
"""States that are waited for, of all peers together."""


class GroupPatience:
    """Remembers since when which states are waited for. What it forgets is waited for anew."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[tuple[str, str, int], float] = {}
        """By peer, group and revision."""

    def revision(self, domain: str, group_id: str, revision: int | None) -> int | None:
        """The revision as the peer knows it, or None once it was waited for in vain."""
        if revision is None:
            return None
        since = self._since.get((domain, group_id, revision))
        return None if since is not None and self._clock() - since >= GROUP_PATIENCE else revision

    def wait(self, domain: str, group_id: str, revision: int) -> None:
        """A message has come before this state."""
        key = (domain, group_id, revision)
        if key in self._since:
            return
        if len(self._since) >= MAX_EARLY:
            del self._since[min(self._since, key=self._since.__getitem__)]
        self._since[key] = self._clock()
