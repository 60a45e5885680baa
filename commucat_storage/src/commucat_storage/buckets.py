"""Token buckets that the processes of one cluster share."""

from collections.abc import Mapping
from typing import Protocol


class Buckets(Protocol):
    """Counts for all processes together what each of them lets through."""

    async def take(
        self, scope: str, identity: str, *, burst: int, period: float, penalty: float = 0.0
    ) -> float | None:
        """Take a token of a bucket that holds ``burst`` and refills evenly within ``period`` seconds.

        Whoever finds it empty is refused for ``penalty`` seconds. 0.0 if there was one, otherwise the seconds
        until there is. None when nobody could say within some hundredths of a second: the caller decides by
        itself.
        """
        ...

    def give_back(self, scope: str, identity: str, *, burst: int) -> None:
        """Undo one :meth:`take`. Never waits; may get lost."""
        ...

    async def spend(
        self, scope: str, spent: Mapping[str, int], *, burst: int, period: float
    ) -> Mapping[str, float] | None:
        """Tell how many tokens of each identity were given out since the last time.

        Nothing is refused: what each bucket holds now is the answer, below 0 when the processes together
        gave out more than it had; at least minus what it holds when full, or refills in a second. None, or an
        answer without some of the identities, when nobody could say in time; these tokens may then be counted
        or not.
        """
        ...
