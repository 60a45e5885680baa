"""Devices of a transaction whose sessions are on other nodes: who is to be told of what was committed."""

from collections.abc import Mapping, Sequence

import attrs

from commucat_storage.device_inbox import Inbox
from commucat_storage.inbox import ResolveOutcome


class Others:
    """To be made before the operations are applied to the inboxes."""

    def __init__(self, inboxes: Mapping[str, Inbox], node: str | None) -> None:
        """``node``: this process; None for one that is in no cluster and tells nobody."""
        self._inboxes = {
            device_id: inbox
            for device_id, inbox in inboxes.items()
            if node is not None and inbox.owner is not None and inbox.owner != node
        }
        self._before = {device_id: inbox.next_number for device_id, inbox in self._inboxes.items()}

    def heads(self) -> dict[str, dict[str, int]]:
        """Node, device with a session there, highest number of what it got."""
        heads: dict[str, dict[str, int]] = {}
        for device_id, inbox in self._inboxes.items():
            if inbox.next_number > self._before[device_id]:
                heads.setdefault(str(inbox.owner), {})[device_id] = inbox.next_number - 1
        return heads

    def located(self, results: Sequence[object]) -> list[object]:
        """The results of entries; those of :class:`Resolve` with the nodes of who is elsewhere."""
        if not self._inboxes:
            return list(results)
        return [
            tuple(map(self._located, result)) if isinstance(result, tuple) else result for result in results
        ]

    def _located(self, outcome: object) -> object:
        if not isinstance(outcome, ResolveOutcome):
            return outcome
        found = {each: str(self._inboxes[each].owner) for each in outcome.recipients if each in self._inboxes}
        return attrs.evolve(outcome, elsewhere=found) if found else outcome
