"""One frame on its way: what was sent, what was answered, and for whom it can be."""

from collections.abc import Callable
from math import inf

import attrs

from commucat_cli.chaos.history import Answered, Sent
from commucat_cli.chaos.membership import Memberships


@attrs.define(eq=False)
class Attempt:
    """Knows for whom it is once :meth:`settle` was called."""

    sent: Sent
    position: int
    """Counts what was sent in the whole history; compared for one sender only."""
    answer: Answered | None = None
    accepted: frozenset[str] = frozenset()
    """Who has it for sure."""
    returned: frozenset[str] = frozenset()
    """For whom a server of another domain may have refused it, after it was accepted here."""
    excluded: Callable[[str], bool] = lambda _: True
    """Whether it cannot be meant for a device, whatever became of it."""

    def settle(self, memberships: Memberships) -> None:
        """Find out who is meant, once everything is known."""
        sent, answer = self.sent, self.answer
        end = inf if answer is None else answer.at
        group = sent.group
        named: frozenset[str] = frozenset(sent.route)
        if sent.change is not None:
            named |= frozenset(sent.change.devices)
        if answer is not None and answer.error is None:
            meant = named if group is None else named | memberships.surely_in(group, sent.at, end)
            self.accepted = meant - frozenset(answer.refused) - {sent.message.sender}
        if group is None:
            self.excluded = lambda device: device not in named
        else:
            self.excluded = lambda device: (
                device not in named and memberships.surely_out(group, device, sent.at, end)
            )

    def give_back(self, device: str) -> None:
        """Its acceptance for the device may be no delivery."""
        self.accepted -= {device}
        self.returned |= {device}

    def may_be_stored_for(self, device: str) -> bool:
        answer = self.answer
        if answer is None or device in self.accepted or device in self.returned:
            return True
        if answer.error is not None or device in answer.refused or self.sent.group is None:
            return False
        return not self.excluded(device)
