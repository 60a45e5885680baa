"""Token buckets that the processes of one cluster share."""

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
