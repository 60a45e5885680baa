"""Durable state of a CommuCat server behind one batch-shaped interface.

The server writes through a journal that commits whatever has gathered as one transaction
and only then tells anybody; it reads pages of a device's inbox in number order. Slow paths
(accounts, devices, sessions, secrets) share the same store. :func:`open_sqlite` is the
embedded backend, which needs nothing installed or configured.
"""

from commucat_storage.admission import Admission, AdmissionKind, Admitted
from commucat_storage.errors import (
    AdmissionRefusal,
    AdmissionRefusedError,
    AlreadyExistsError,
    CommitFailedError,
    SchemaError,
    StorageError,
    StorageUnavailableError,
)
from commucat_storage.inbox import (
    MAX_INBOX_NUMBER,
    Confirm,
    ConfirmOutcome,
    DropRoute,
    InboxPage,
    InboxRow,
    InboxState,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    RouteOutcome,
    SetRoute,
    Submission,
    SubmissionOutcome,
)
from commucat_storage.interface import Done, Storage
from commucat_storage.records import (
    CertificateRow,
    Device,
    DeviceStatus,
    EnrolmentCode,
    KeyEvent,
    Presence,
    Purged,
    Route,
    Secret,
    SessionRow,
    User,
)
from commucat_storage.sqlite import (
    SqliteSettings,
    SqliteStatus,
    SqliteStorage,
    migrate_sqlite,
    open_sqlite,
    sqlite_status,
)

__all__ = [
    "MAX_INBOX_NUMBER",
    "Admission",
    "AdmissionKind",
    "AdmissionRefusal",
    "AdmissionRefusedError",
    "Admitted",
    "AlreadyExistsError",
    "CertificateRow",
    "CommitFailedError",
    "Confirm",
    "ConfirmOutcome",
    "Device",
    "DeviceStatus",
    "Done",
    "DropRoute",
    "EnrolmentCode",
    "InboxPage",
    "InboxRow",
    "InboxState",
    "KeyEvent",
    "Operation",
    "Outcome",
    "Presence",
    "Purged",
    "Refusal",
    "RefusalReason",
    "Route",
    "RouteOutcome",
    "SchemaError",
    "Secret",
    "SessionRow",
    "SetRoute",
    "SqliteSettings",
    "SqliteStatus",
    "SqliteStorage",
    "Storage",
    "StorageError",
    "StorageUnavailableError",
    "Submission",
    "SubmissionOutcome",
    "User",
    "migrate_sqlite",
    "open_sqlite",
    "sqlite_status",
]
