"""What a store tells about itself to those who watch it."""

import abc

import attrs

from commucat_storage.timings import Timings


@attrs.frozen(kw_only=True)
class QueueState:
    """All inboxes of devices together, at one moment."""

    messages: int
    """Messages that wait to be confirmed."""
    size: int
    """Their bytes."""
    inboxes: int
    """Inboxes that are not empty."""
    earliest_expiry: int | None
    """Unix seconds before which none of them expires, of those that expire after the moment that was asked
    about; None if there is none. May be too early by what was deleted meanwhile."""


@attrs.frozen(kw_only=True)
class PoolState:
    """The connections beside the journal's own."""

    limit: int
    used: int
    waiting: int
    """Units of work that wait for a connection."""


class MeteredStorage(abc.ABC):
    """The part of the store's interface that is for metrics."""

    @property
    @abc.abstractmethod
    def waiting_rows(self) -> int:
        """Rows in the journal that are not known to be on disk."""

    @property
    @abc.abstractmethod
    def commit_times(self) -> Timings:
        """How long the groups of the journal took to be committed; a group that failed is not in it."""

    @property
    @abc.abstractmethod
    def pool_state(self) -> PoolState:
        """Who uses connections now."""

    @abc.abstractmethod
    async def queue_state(self, after: int) -> QueueState:
        """How much waits in all inboxes. Reads a row for each device, so ask some times a minute at most.

        Args:
            after: Unix seconds; inboxes of which something expires earlier do not count for
                ``earliest_expiry``.
        """
