"""Opening the database file: the checks before it is trusted, and what each connection is set to."""

import os
import sqlite3
import time
from pathlib import Path

from commucat_storage import store_mark as marks
from commucat_storage.errors import SchemaError, StorageError, StorageUnavailableError
from commucat_storage.sqlite.settings import SqliteSettings

APPLICATION_ID = 0x43434154  # "CCAT", in the header of the file (SQLite file format, offset 68)
_CACHE_KIB = 32 * 1024
_READER_CACHE_KIB = 4 * 1024
# The journal uses about 60 texts; compiling one costs more than running it.
_CACHED_STATEMENTS = 200
_WAL_KEPT_BYTES = 64 * 2**20
_RETRY_INTERVAL = 0.01


def connect_writer(path: Path, settings: SqliteSettings, *, marked: bool = False) -> sqlite3.Connection:
    """Open ``path`` for writing, creating the file (mode 0600) when there is none.

    Only who moves stores may open one that is ``marked`` as half filled or moved away.

    Raises:
        StorageUnavailableError: the file or its directory cannot be read or written; it is marked.
        SchemaError: the file is not a database, is damaged, or belongs to another program.
    """
    _create(path)
    connection = _connect(str(path), path, settings, uri=False)
    try:
        _refuse_foreign(connection, path)
        if not marked:
            refuse_marked(connection, path)
        _log_ahead(connection, path, settings)
        # FULL: every commit waits until the log is on the disk. NORMAL would lose
        # acknowledged messages on a power failure.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {settings.checkpoint_pages}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        if path.stat().st_size <= settings.quick_check_bytes:
            _quick_check(connection, path)
    except sqlite3.Error as exc:
        connection.close()
        raise translate(exc, path) from exc
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path, settings: SqliteSettings) -> sqlite3.Connection:
    """Open ``path``, which must exist, for reading only. Errors as for :func:`connect_writer`."""
    if not path.is_file():
        raise StorageUnavailableError(f"there is no database at {path}")
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw", path, settings, uri=True)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
        _refuse_foreign(connection, path)
        refuse_marked(connection, path)
    except sqlite3.Error as exc:
        connection.close()
        raise translate(exc, path) from exc
    except BaseException:
        connection.close()
        raise
    return connection


def read_mark(connection: sqlite3.Connection) -> marks.Mark | None:
    """The mark of a store that is being filled or was moved away."""
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (marks.MARK_TABLE,)
    ).fetchone()
    row = None if found is None else connection.execute(marks.SELECT).fetchone()
    return None if row is None else marks.mark_of(row)


def refuse_marked(connection: sqlite3.Connection, path: Path) -> None:
    """Raises :class:`StorageUnavailableError` for a store that no server may use."""
    marks.refuse_marked(read_mark(connection), f"the database {path}")


def translate(error: sqlite3.Error, path: Path) -> StorageError:
    """The storage error that tells an operator what ``error`` means for ``path``."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary == sqlite3.SQLITE_NOTADB:
        return SchemaError(
            f"{path} is not a SQLite database; move it away, restore a backup, or name another file"
        )
    if primary == sqlite3.SQLITE_CORRUPT:
        return SchemaError(f"the database {path} is damaged ({error}); restore it from a backup")
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StorageUnavailableError(
            f"cannot write the database {path} ({error}); check the data directory, its owner and mode"
        )
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageUnavailableError(f"the database {path} is locked by another process")
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return StorageUnavailableError(f"the disk of {path} is full or failing ({error})")
    return StorageError(f"{path}: {error}")


def _connect(target: str, path: Path, settings: SqliteSettings, *, uri: bool) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            target,
            uri=uri,
            timeout=settings.busy_timeout,
            # Transactions are begun and ended by hand; the module's own guesses are off.
            isolation_level=None,
            # Each connection is used by one thread at a time, not always by the same.
            check_same_thread=False,
            cached_statements=_CACHED_STATEMENTS,
        )
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _create(path: Path) -> None:
    """Make an empty file when there is none. One that is there stays closed: to close it again would
    give up every lock that this process has on it (POSIX), and another one could take the log away."""
    reason: str | None = "this user may not, or the file system is read-only"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        try:
            # SQLite gives its -wal and -shm files the mode of the database.
            os.close(os.open(path, flags | os.O_EXCL, 0o600))
            return
        except FileExistsError:
            if not path.exists():  # a link to nothing
                os.close(os.open(path, flags, 0o600))
                return
        if os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            return
    except OSError as exc:
        reason = exc.strerror
    raise StorageUnavailableError(
        f"cannot write the database {path}: {reason}; check the data directory, its owner and mode"
    )


def _log_ahead(connection: sqlite3.Connection, path: Path, settings: SqliteSettings) -> None:
    """Set write-ahead logging. When another process writes to a file that does not have it yet, SQLite
    does not wait for it here as it does elsewhere."""
    deadline = time.monotonic() + settings.busy_timeout
    while True:
        try:
            [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_INTERVAL)
    if mode != "wal":
        raise StorageUnavailableError(f"{path}: the file system does not support write-ahead logging")


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database of another program before a single byte of it is changed."""
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (application != 0 or tables > 0):
        raise SchemaError(f"{path} is a database of another program")


def _quick_check(connection: sqlite3.Connection, path: Path) -> None:
    [verdict] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise SchemaError(f"the database {path} is damaged ({verdict}); restore it from a backup")
