"""What can go wrong while a store is copied."""

from commucat_storage.errors import StorageError
from commucat_storage.store_mark import Mark


class MoveError(StorageError):
    """A backup, restore or transfer cannot go on. One line that says what, where, and what to do."""


class DamagedBackupError(MoveError):
    """A file of a backup is missing, cut short or changed; the text names it."""


def other_origin(place: str, mark: Mark) -> MoveError:
    """The store is being filled, but from something else than what was named now."""
    return MoveError(
        f"{place} is half filled from {mark.other}: finish that first, or delete what it wrote "
        "with --start-over"
    )
