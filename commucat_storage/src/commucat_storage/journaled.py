"""The part of a store that is the same for every backend with a journal."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NoReturn

from commucat_storage.errors import CommitFailedError
from commucat_storage.inbox import Confirm, Operation, Outcome, Resolve
from commucat_storage.interface import Done, Storage
from commucat_storage.journal import Journal
from commucat_storage.journal_entry import JournalEntry, WorkT
from commucat_storage.limits import InboxLimits
from commucat_storage.operations import check_batch
from commucat_storage.records import Presence
from commucat_storage.reply import Reply
from commucat_storage.timings import Timings


class JournaledStorage(Storage, Generic[WorkT]):
    """Batches and pieces of work through the journal, and presence in memory."""

    def __init__(self, journal: Journal[WorkT]) -> None:
        self._journal = journal
        # Worth nothing after a restart, when everybody connects anew: memory is the right place.
        self._presence: dict[str, Presence] = {}

    @property
    def inbox_limits(self) -> InboxLimits:
        return self._journal.inbox_limits

    @property
    def waiting_rows(self) -> int:
        return self._journal.waiting_rows

    @property
    def commit_times(self) -> Timings:
        return self._journal.commit_times

    async def enqueue(self, batch: Sequence[Operation], done: Done) -> None:
        await self._journal.enter(_entry(batch, done))

    def enqueue_now(self, batch: Sequence[Operation], done: Done) -> bool:
        return self._journal.enter_now(_entry(batch, done))

    def hurry(self) -> None:
        self._journal.hurry()

    def attend(self) -> None:
        self._journal.attend()

    def on_rounds(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._journal.on_rounds(begin, end)

    async def commit(self, batch: Sequence[Operation]) -> tuple[Outcome, ...]:
        rows, size = check_batch(batch)
        reply = Reply()
        await self._journal.enter(JournalEntry(reply.set, tuple(batch), None, rows, size))
        outcomes = await reply.wait()
        assert isinstance(outcomes, tuple)
        return outcomes

    async def wait_failed(self) -> NoReturn:
        await self._journal.wait_failed()

    async def publish_presence(self, presence: Presence) -> None:
        self._presence[presence.device_id] = presence

    async def read_presence(self, device_id: str, now: int) -> Presence | None:
        presence = self._presence.get(device_id)
        return presence if presence is not None and presence.expires_at > now else None

    def _forget_presence(self, now: int) -> None:
        """Drop what has expired."""
        for device_id in [each.device_id for each in self._presence.values() if each.expires_at <= now]:
            del self._presence[device_id]

    async def _in_journal(self, work: WorkT, *, gathers: bool = False) -> object:
        """Do ``work`` in order with the batches; what it returned. See :attr:`JournalEntry.gathers`.

        Raises:
            StorageError: it raised that, or was not committed.
        """
        reply = Reply()
        await self._journal.enter(JournalEntry(reply.set, work=work, gathers=gathers))
        return await reply.wait()


def _entry(batch: Sequence[Operation], done: Done) -> JournalEntry[WorkT]:
    """What the journal takes for ``batch``."""
    rows, size = check_batch(batch)

    def told(result: object) -> None:
        assert isinstance(result, tuple | CommitFailedError)
        done(result)

    kind = type(batch[0])
    if kind not in (Confirm, Resolve) or any(type(operation) is not kind for operation in batch):
        return JournalEntry(told, tuple(batch), None, rows, size)
    waits, asks = kind is Confirm, kind is Resolve
    return JournalEntry(told, tuple(batch), None, rows, size, can_wait=waits, only_asks=asks)


async def until_less(most: int, step: Callable[[], Awaitable[int]]) -> int:
    """Call ``step`` until it has done less than ``most``; the sum of what it did."""
    total = 0
    while True:
        count = await step()
        total += count
        if count < most:
            return total
