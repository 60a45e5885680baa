"""Commands whose reply somebody waits for, each for a fraction of a second."""

import math
from collections import deque
from typing import Final

import attrs
import trio

from commucat_storage.redis.connection import Argument, Reply
from commucat_storage.redis.health import Health
from commucat_storage.redis.link import Command, Link
from commucat_storage.redis.trouble import TroubleError

MAX_WAITING: Final = 10_000
"""Questions that wait; more would not be answered in time anyway."""
MAX_TAKEN: Final = 500
"""Of one exchange: those that come later shall not wait for thousands of replies."""


class UnansweredError(Exception):
    """Redis did not say, for whatever reason: decide without."""


@attrs.define(eq=False)
class _Question:
    arguments: tuple[Argument, ...]
    writes: bool
    answered: trio.Event | None = attrs.field(factory=trio.Event)
    """None when nobody wants the reply."""
    given_up: bool = False
    reply: Reply = None

    def done(self, reply: Reply) -> None:
        self.reply = reply
        if self.answered is not None:
            self.answered.set()


class Asks:
    """A :class:`Source` of single commands."""

    def __init__(self, link: Link, health: Health) -> None:
        self._link = link
        self._health = health
        self._waiting: deque[_Question] = deque()

    async def ask(self, *arguments: Argument, seconds: float, writes: bool = False) -> Reply:
        """Send a command and wait for its reply.

        Raises:
            UnansweredError: there is no connection, no answer in time, or the answer is an error. The
                command may be executed all the same.
        """
        if not self._link.is_up or len(self._waiting) >= MAX_WAITING:
            self._health.counters.unanswered += 1
            await trio.lowlevel.checkpoint()
            raise UnansweredError
        question = _Question(arguments, writes)
        assert question.answered is not None
        self._add(question)
        try:
            with trio.move_on_after(seconds):
                await question.answered.wait()
        finally:
            question.given_up = not question.answered.is_set()
        if question.given_up or isinstance(question.reply, Exception):
            self._health.counters.unanswered += 1
            raise UnansweredError
        return question.reply

    def tell(self, *arguments: Argument, writes: bool = False) -> None:
        """Send a command of which nobody wants the reply; dropped while there is no connection."""
        if self._link.is_up and len(self._waiting) < MAX_WAITING:
            self._add(_Question(arguments, writes, answered=None))

    def _add(self, question: _Question) -> None:
        self._waiting.append(question)
        self._link.wake()

    # -- for the link ---------------------------------------------------------------------------------

    def take(self, now: float) -> list[Command]:
        taken: list[Command] = []
        while self._waiting and len(taken) < MAX_TAKEN:
            question = self._waiting.popleft()
            if not question.given_up:
                taken.append(Command(question.arguments, question.done, question.writes))
        return taken

    def next_time(self) -> float:
        return math.inf

    def connected(self) -> None:
        pass

    def disconnected(self, trouble: TroubleError) -> None:
        while self._waiting:
            self._waiting.popleft().done(trouble)
