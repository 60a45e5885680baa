"""What rows can be read from, and written to."""

import abc
from collections.abc import AsyncGenerator, Sequence

import attrs

from commucat_storage.moving.rows import Row
from commucat_storage.moving.tables import Table
from commucat_storage.store_mark import Mark


@attrs.frozen(kw_only=True)
class StoreFacts:
    """What is worth knowing of a store beside its rows."""

    backend: str
    """``sqlite`` or ``postgres``."""
    schema_version: int
    cluster_id: str | None = None
    """A UUID; None where the store has none."""


class Source(abc.ABC):
    """Rows as they stood at one moment, whatever happens meanwhile."""

    place: str
    """What messages call it."""
    facts: StoreFacts
    tables: tuple[Table, ...]
    """What it has."""

    @abc.abstractmethod
    async def count(self, table: Table) -> int:
        """How many rows :meth:`batches` will give."""

    @abc.abstractmethod
    def batches(self, table: Table) -> AsyncGenerator[list[Row], None]:
        """All rows, always in the same order, in portions of a few megabytes.

        Raises:
            StorageError: they cannot be read.
        """


class MovableSource(Source):
    """A store that can be given up: nobody else writes to it while it is open."""

    mark: Mark | None
    """MOVED when an earlier attempt got as far as that."""

    @abc.abstractmethod
    async def retire(self, mark: Mark) -> None:
        """Close the store to all servers, for good, on disk."""


class Target(abc.ABC):
    """An empty store that is filled. Closed to servers from :meth:`begin` to :meth:`release`."""

    place: str
    tables: tuple[Table, ...]

    @abc.abstractmethod
    async def begin(self, origin: str, move_id: str, *, start_over: bool) -> tuple[str, dict[str, int]]:
        """Mark the store, or find the mark of an attempt that was not finished.

        ``origin`` names what the rows come from. Returns the id of the move, of the earlier attempt if there
        was one, and how many rows of each table it has written. ``start_over`` deletes those first.

        Raises:
            MoveError: the store holds something, or is being filled from something else.
        """

    @abc.abstractmethod
    async def write(self, table: Table, rows: Sequence[Row], done: int) -> None:
        """Insert rows and remember, in the same transaction, that ``done`` of the table are here."""

    @abc.abstractmethod
    async def settle(self, cluster_id: str | None) -> None:
        """What is left to do when all rows are here; again does no harm."""

    @abc.abstractmethod
    def written(self) -> Source:
        """The store's rows, to be checked."""

    @abc.abstractmethod
    async def release(self) -> None:
        """Open the store to servers."""
