"""Limits that every backend has: what a device may use, and how much one transaction takes."""

import attrs

_positive = attrs.validators.gt(0)


@attrs.define(kw_only=True)
class InboxLimits:
    """What one inbox may hold. May be changed while the store is open: the next message meets it.

    The writer reads them in its own thread, each number as a whole.
    """

    max_rows: int
    max_bytes: int
    stranger_rows: int
    stranger_bytes: int


@attrs.frozen(kw_only=True)
class StoreLimits:
    """The defaults suit a server on one machine."""

    max_rows: int = attrs.field(default=1_000_000, validator=_positive)
    """Messages one inbox may hold; a recipient at the limit refuses with ``quota``."""
    max_bytes: int = attrs.field(default=2**30, validator=_positive)
    """Payload bytes one inbox may hold."""
    max_routes: int = attrs.field(default=1_000, validator=_positive)
    """Routes one device may have."""
    max_route_members: int = attrs.field(default=50_000, validator=_positive)
    """Members that all routes of one device may name together: they are kept in memory while the
    device is busy, and 1,000 routes of any length would be a cheap way to fill it."""
    stranger_rows: int = attrs.field(default=1_000, validator=_positive)
    """Messages of one inbox that senders without a relation to its device share."""
    stranger_bytes: int = attrs.field(default=16 * 2**20, validator=_positive)
    """Payload bytes of one inbox that senders without a relation to its device share."""
    max_group_members: int = attrs.field(default=5_000, validator=_positive)
    """Members one group may have."""
    max_owned_groups: int = attrs.field(default=1_000, validator=_positive)
    """Groups one device may own; a creation above it is refused with ``too_many_routes``."""
    journal_rows: int = attrs.field(default=20_000, validator=_positive)
    """Rows that may wait for the disk before senders wait: about half a second of full load."""
    journal_bytes: int = attrs.field(default=64 * 2**20, validator=_positive)
    """Payload bytes that may wait for the disk before senders wait."""
    group_rows: int = attrs.field(default=2_000, validator=_positive)
    """Rows after which a transaction takes no further batch; bounds the latency of the first one in it."""
    group_bytes: int = attrs.field(default=8 * 2**20, validator=_positive)
    """Payload bytes after which a transaction takes no further batch."""
    confirm_delay: float = attrs.field(default=0.05, validator=attrs.validators.ge(0.0))
    """Seconds that confirmations alone may wait for a message to be committed with. So much of what was
    confirmed last may be delivered again after a crash."""
    held_rows: int = attrs.field(default=1_000, validator=_positive)
    """Confirmations that may wait so; with more, all of them go at once."""
    gather_delay: float = attrs.field(default=0.02, validator=attrs.validators.ge(0.0))
    """Seconds for which the look-up of a connect, and its admission, may be put off to be done together with
    others, while the event loop has something else to do. SQLite only."""
    cached_inboxes: int = attrs.field(default=50_000, validator=_positive)
    """Inboxes (and members of their routes) the writer remembers at least; at most twice as many."""
    cached_group_members: int = attrs.field(default=100_000, validator=_positive)
    """Members of groups the writer remembers at least; at most twice as many."""
    close_timeout: float = attrs.field(default=30.0, validator=attrs.validators.gt(0.0))
    """Seconds to wait for the disk, or the database, when the store closes."""
    inbox: InboxLimits = attrs.field(init=False, eq=False)
    """The numbers of inboxes that hold now; at first those above."""

    @inbox.default
    def _first(self) -> InboxLimits:
        return InboxLimits(
            max_rows=self.max_rows,
            max_bytes=self.max_bytes,
            stranger_rows=self.stranger_rows,
            stranger_bytes=self.stranger_bytes,
        )
