"""One device's inbox, routes and groups, as the open transaction of a backend sees them."""

from collections.abc import Callable
from operator import attrgetter
from typing import Final

from commucat_storage.inbox import RefusalReason
from commucat_storage.records import Route

NEVER = 2**62
"""``earliest`` of an inbox in which nothing expires; later than any time that may be stored."""

_MOST_SIZES = 32
"""Rows of an inbox of which each size is remembered: more than a receiver that keeps up leaves."""


class Inbox:
    """One device's inbox, routes and groups, including what the open transaction has not written yet.

    A plain class with slots: the journal reads and writes it for every message.
    """

    __slots__ = (
        "accepted_groups",
        "base",
        "bytes",
        "confirmed",
        "earliest",
        "epoch",
        "friends",
        "groups",
        "inbox",
        "next_number",
        "open",
        "owner",
        "refusal",
        "reports",
        "route_members",
        "routes",
        "rows",
        "shared",
        "sizes",
        "stranger_bytes",
        "stranger_rows",
        "user_id",
    )

    def __init__(self, refusal: RefusalReason | None) -> None:
        self.refusal = refusal
        """Why the device may not receive; None for an active one. An outbox is none: ``UNKNOWN_DEVICE``."""
        self.open = False
        """Of an outbox: whether it takes messages."""
        self.inbox = 0
        self.base = 0
        """Position of number 0 in ``relay_queue``."""
        self.epoch = ""
        self.next_number = 1
        self.confirmed = 0
        self.owner: str | None = None
        """The node of the device's live session, where nodes share the store."""
        self.rows = 0
        self.bytes = 0
        self.shared = 0
        self.reports = 0
        """Rows whose senders are to be told what becomes of them."""
        self.sizes: list[int] | None = None
        """Payload bytes of every row, oldest first, whose numbers then have no gaps; None where that is not
        known, or too much, or some row is not plain: shared, reported, a stranger's, or of an outbox."""
        self.earliest = NEVER
        self.routes: dict[int, Route] = {}
        self.route_members = 0
        self.user_id = ""
        self.friends: frozenset[str] = frozenset()
        """Users that its user lists; their devices are no strangers to it."""
        self.groups: set[str] = set()
        self.accepted_groups: set[str] = set()
        """Those of the groups whose members are no strangers to the device."""
        self.stranger_rows = 0
        self.stranger_bytes = 0

    def note(self, size: int, *, plain: bool) -> None:
        """A row is about to be added to ``rows``; ``plain``: see ``sizes``."""
        if not plain:
            self.sizes = None
        elif not self.rows:
            self.sizes = [size]
        elif self.sizes is not None:
            if len(self.sizes) < _MOST_SIZES:
                self.sizes.append(size)
            else:
                self.sizes = None

    @property
    def known(self) -> bool:
        """Whether there is such a device at all."""
        return self.inbox != 0


ELSEWHERE: Final = Inbox(RefusalReason.UNKNOWN_DEVICE)
"""Stands for every device of another server: there is nothing here of it. Nobody writes to it."""

OFFSET_COLUMNS = (
    "inbox",
    "epoch",
    "next_number",
    "confirmed",
    "rows",
    "bytes",
    "shared",
    "earliest",
    "stranger_rows",
    "stranger_bytes",
    "reports",
)
"""Where an inbox stands: what of it is a row of ``inbox_offset``."""
offsets_of: Final[Callable[[Inbox], tuple[object, ...]]] = attrgetter(*OFFSET_COLUMNS)
"""The values of :data:`OFFSET_COLUMNS`."""


def is_elsewhere(device_id: str) -> bool:
    """Whether the id names a device of another server, not an outbox and not a device of this one."""
    return device_id.find("@") > 0
