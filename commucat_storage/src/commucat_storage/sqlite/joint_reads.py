"""One visit to a reader's thread for all who ask the same kind of question meanwhile.

A visit costs more than a short read: two wake-ups across threads, and for each the interpreter lock. Of many
connects at a time the questions wait for each other anyway; so, as in the journal, the next visit takes along
whatever was asked during the last one. And while the event loop has something else to do, a visit waits for
more, until the oldest question has waited for long enough.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs
import trio

from commucat_storage.errors import StorageError
from commucat_storage.idle import MOST_GATHERED, until_idle
from commucat_storage.sqlite.reads import ReaderPool

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@attrs.define(eq=False)
class _Question(Generic[KeyT, ValueT]):
    key: KeyT
    since: float
    answered: bool = False
    answer: ValueT | None = None
    error: StorageError | None = None


class JointReads(Generic[KeyT, ValueT]):
    """Answers questions of one kind. Whoever finds no visit on its way makes the next, for all that wait.

    Args:
        readers: where the visits go.
        read: called in a reader's thread with a connection and the keys; returns a value for each.
        delay: seconds that a question waits for more at most, before its visit or the one before it.
    """

    def __init__(
        self,
        readers: ReaderPool,
        read: Callable[..., list[ValueT]],
        delay: float,
    ) -> None:
        self._readers = readers
        self._read = read
        self._delay = delay
        self._waiting: list[_Question[KeyT, ValueT]] = []
        self._visiting = False
        self._visited = trio.lowlevel.ParkingLot()
        self._gathering = trio.CancelScope()

    async def ask(self, key: KeyT) -> ValueT:
        """The value for ``key``, read after this call began.

        Raises:
            StorageError: as :meth:`ReaderPool.run`.
        """
        question = _Question[KeyT, ValueT](key, trio.current_time())
        self._waiting.append(question)
        if len(self._waiting) == MOST_GATHERED:
            self._gathering.cancel()
        try:
            while not question.answered:
                if self._visiting:
                    await self._visited.park()
                else:
                    await self._visit()
        finally:
            if not question.answered and question in self._waiting:  # cancelled
                self._waiting.remove(question)
        if question.error is not None:
            raise question.error
        return question.answer  # type: ignore[return-value]  # what ``read`` returned, None included

    async def _visit(self) -> None:
        self._visiting = True
        try:
            await self._gather()
            questions, self._waiting = self._waiting[:MOST_GATHERED], self._waiting[MOST_GATHERED:]
            await self._fetch(questions)
        finally:
            self._visiting = False
            self._visited.unpark_all()

    async def _gather(self) -> None:
        """Others who are about to ask come along."""
        self._gathering = trio.CancelScope()
        if len(self._waiting) < MOST_GATHERED:
            with self._gathering:
                await until_idle(self._waiting[0].since + self._delay)

    async def _fetch(self, questions: list[_Question[KeyT, ValueT]]) -> None:
        try:
            values = await self._readers.run(self._read, [question.key for question in questions])
        except StorageError as exc:
            for question in questions:
                question.error, question.answered = exc, True
        except BaseException:
            # Cancelled before it began: somebody else asks for the others.
            self._waiting = questions + self._waiting
            raise
        else:
            for question, value in zip(questions, values, strict=True):
                question.answer, question.answered = value, True
