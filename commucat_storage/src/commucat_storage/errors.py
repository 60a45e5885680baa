"""What can go wrong in the store, told apart by what the caller can do about it."""

import enum


class StorageError(Exception):
    """Base of every error of this package."""


class StorageUnavailableError(StorageError):
    """The store cannot be opened or reached; the text says what to do about it."""


class SchemaError(StorageError):
    """The database is damaged, newer than this program, or its migrations were edited."""


class CommitFailedError(StorageError):
    """A commit did not reach the disk: nothing of it is stored, the same batch may be sent again."""


class AlreadyExistsError(StorageError):
    """A row with this identity exists already."""


class AdmissionRefusal(enum.Enum):
    """Why :meth:`Storage.admit` wrote nothing."""

    HANDLE_TAKEN = "handle_taken"
    DEVICE_TAKEN = "device_taken"
    DEVICE_CHANGED = "device_changed"
    """The device's key or owner is no longer what was proved."""
    DEVICE_INACTIVE = "device_inactive"
    DEVICE_UNKNOWN = "device_unknown"
    USER_UNKNOWN = "user_unknown"
    CODE_INVALID = "code_invalid"
    """Unknown, used or expired enrolment code, or one of another user."""
    DEVICE_LIMIT = "device_limit"
    DEVICE_ELSEWHERE = "device_elsewhere"
    """The id names a device of another server: it has an ``@``."""


class AdmissionRefusedError(StorageError):
    """A device was not admitted, and nothing was written."""

    def __init__(self, refusal: AdmissionRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
