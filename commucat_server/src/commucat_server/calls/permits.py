"""To whom a device may send media now, as the store said a moment ago."""

from collections.abc import Mapping
from typing import Final

import attrs

from commucat_storage import ResolveOutcome

CHECK_INTERVAL: Final = 0.7
"""Seconds after which the store is asked again while media flows: who is removed is out within a second."""
LIFETIME: Final = 3.0
"""Seconds after which an answer means nothing any more, when the store has given no newer one."""


@attrs.define(eq=False)
class Permit:
    """Of one device on one channel."""

    recipients: frozenset[str] = frozenset()
    """Devices that accept its frames."""
    refused: bool = False
    """It may send to nobody."""
    elsewhere: Mapping[str, str] = attrs.Factory(dict)
    """Those of them with a session on another node, and that node."""
    _checked: float = float("-inf")
    _asking: bool = False

    def holds(self, now: float) -> bool:
        """Whether media may go by it, without asking for each packet."""
        return now - self._checked < LIFETIME

    def ask(self, now: float) -> bool:
        """True when the store is to be asked: by the caller, who says what came of it."""
        if self._asking or now - self._checked < CHECK_INTERVAL:
            return False
        self._asking = True
        return True

    def answered(self, outcome: ResolveOutcome | None, now: float) -> None:
        """What the store said; None when it failed, or was not asked after all."""
        self._asking = False
        if outcome is not None:
            self.recipients = frozenset(outcome.recipients)
            self.elsewhere = outcome.elsewhere
            self.refused = bool(outcome.refused) and not outcome.recipients
            self._checked = now

    def expire(self) -> None:
        """Something has changed: the next packet asks."""
        self._checked = float("-inf")
