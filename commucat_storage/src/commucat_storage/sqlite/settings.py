"""Limits and tuning of the SQLite store."""

import attrs

from commucat_storage.limits import StoreLimits

_positive = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class SqliteSettings(StoreLimits):
    """All limits of the SQLite store; the defaults suit a server on one machine."""

    min_free_bytes: int = attrs.field(default=64 * 2**20, validator=attrs.validators.ge(0))
    """Free space on the disk below which every message is refused with ``quota`` and ``check`` fails.
    What is left is for confirmations, sessions and the operator: deleting needs room too."""
    readers: int = attrs.field(default=2, validator=_positive)
    """Connections, and so threads, that read at the same time."""
    busy_timeout: float = attrs.field(default=10.0, validator=attrs.validators.ge(0.0))
    """Seconds to wait for a lock held by another process, such as an operator's command."""
    checkpoint_pages: int = attrs.field(default=2_000, validator=_positive)
    """Size of the write-ahead log, in pages of 4 KiB, at which it is copied into the database."""
    quick_check_bytes: int = attrs.field(default=64 * 2**20, validator=attrs.validators.ge(0))
    """Databases up to this size are checked for damage when they are opened. A larger one would
    delay a restart by seconds; its damage is met, and reported, where it is read."""
