"""Names of messages that are stored once, as the open transaction sees them."""

import abc
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from commucat_storage.inbox import ChangeGroup, InviteMember, Once, Operation, ReplaceReplica, Submission

Name: TypeAlias = tuple[str, str]
"""Scope and key."""


def names_in(batch: Sequence[Operation]) -> list[Name]:
    """The names that the operations of a batch have."""
    return [
        (each.once.scope, each.once.key)
        for each in batch
        if isinstance(each, Submission | InviteMember | ChangeGroup | ReplaceReplica)
        and each.once is not None
    ]


class Marks(abc.ABC):
    """Remembers what it has looked up, and what is new; a backend looks, and writes."""

    def __init__(self) -> None:
        self._seen: dict[Name, bool] = {}
        self.new: list[Once] = []
        """What is to be written with the transaction."""

    @abc.abstractmethod
    def _look(self, names: Iterable[Name]) -> Iterable[Name]:
        """Those of the names that are stored."""

    def seen(self, once: Once, batch: Sequence[Operation]) -> bool:
        """Whether a message with this name was stored; ``batch`` says what will be asked for next."""
        name = (once.scope, once.key)
        if name not in self._seen:
            wanted = {each for each in (name, *names_in(batch)) if each not in self._seen}
            self._seen |= dict.fromkeys(wanted, False) | dict.fromkeys(self._look(wanted), True)
        return self._seen[name]

    def add(self, once: Once) -> None:
        """The message was stored."""
        self._seen[once.scope, once.key] = True
        self.new.append(once)

    def forget(self) -> None:
        """Another transaction begins."""
        if self._seen:
            self._seen = {}
            self.new = []
