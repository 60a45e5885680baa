"""Of which time events of other servers may be."""

from typing import Final

import attrs

from commucat_proto.federation.instants import NANOSECONDS

DAY: Final = 86_400
"""Seconds."""


@attrs.frozen(kw_only=True)
class EventWindow:
    """How old or new an event may be, and how long its id is kept: as long as a peer may try."""

    lifetime: int
    """Seconds that a message waits in an outbox."""

    @property
    def seconds(self) -> int:
        """How old an event may be: a day more than that."""
        return self.lifetime + DAY

    @property
    def memory(self) -> int:
        """How long the id of an event is kept. One that a clock ahead has signed is believed for a day
        longer than others."""
        return self.seconds + DAY

    def takes(self, created_at_ns: int, now: float) -> bool:
        """Whether an event of this instant is of our time; a peer's clock may be a day ahead."""
        created_at = created_at_ns / NANOSECONDS
        return now - self.seconds <= created_at <= now + DAY
