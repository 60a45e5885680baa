"""The file ``profile.db``: everything a profile knows besides its keys.

SQLite with ``synchronous=FULL``: what a method has returned for survives a power failure.
``send`` and ``listen`` may use one profile at the same time, so every write is a short
transaction of its own.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from commucat_cli.errors import ProfileError
from commucat_cli.profile.files import check_private
from commucat_cli.transport.via import Via
from commucat_crypto import CertificateError, DeviceCertificate, NoisePattern
from commucat_ledger import LedgerHeadError, SignedHead

FILE_NAME = "profile.db"
SHOWN_MESSAGES = 65_536
"""How many message ids are remembered so that no message is shown twice."""
REMEMBERED_LEDGERS = 64
"""A server has one for each of its processes; a hostile one could name any number."""
BUSY_TIMEOUT = 10.0  # seconds; another command's transaction takes milliseconds
_SCHEMA_VERSION = 6
REMEMBERED_UPLOADS = 64
"""Files whose upload was broken off; the oldest is sent from its start then."""

_LEDGER_HEAD = """\
CREATE TABLE ledger_head (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    ledger TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL
) STRICT;
"""
_KEY_HISTORY = """\
CREATE TABLE key_history (
    device_id TEXT PRIMARY KEY,
    link BLOB NOT NULL CHECK (length(link) = 32),
    document TEXT NOT NULL
) STRICT;
"""
_UPLOAD = """\
CREATE TABLE upload (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    mark BLOB NOT NULL UNIQUE CHECK (length(mark) = 32),
    attachment_id TEXT NOT NULL,
    key BLOB NOT NULL CHECK (length(key) = 32),
    begun_at INTEGER NOT NULL
) STRICT;
"""

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    server TEXT NOT NULL,
    trust TEXT NOT NULL CHECK (trust IN ('system', 'file', 'insecure')),
    domain TEXT NOT NULL,
    server_static BLOB NOT NULL CHECK (length(server_static) = 32),
    device_ca BLOB NOT NULL CHECK (length(device_ca) = 32),
    pattern TEXT NOT NULL,
    handle TEXT NOT NULL,
    user_id TEXT,
    certificate TEXT,
    via TEXT NOT NULL DEFAULT 'binary',
    server_key_version INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE inbox_cursor (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    ack INTEGER NOT NULL
) STRICT;
CREATE TABLE peer (
    device_id TEXT PRIMARY KEY,
    public_key BLOB NOT NULL CHECK (length(public_key) = 32)
) STRICT;
CREATE TABLE channel_attempt (
    device_id TEXT PRIMARY KEY,
    attempt INTEGER NOT NULL
) STRICT;
CREATE TABLE shown (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    sender TEXT NOT NULL,
    message_id BLOB NOT NULL,
    UNIQUE (sender, message_id)
) STRICT;
{_LEDGER_HEAD}{_KEY_HISTORY}{_UPLOAD}PRAGMA user_version = 6;
COMMIT;
"""

_FROM_1 = """
BEGIN IMMEDIATE;
ALTER TABLE account ADD COLUMN via TEXT NOT NULL DEFAULT 'binary';
PRAGMA user_version = 2;
COMMIT;
"""

_FROM_2 = f"""
BEGIN IMMEDIATE;
{_LEDGER_HEAD}PRAGMA user_version = 3;
COMMIT;
"""

_FROM_3 = f"""
BEGIN IMMEDIATE;
{_KEY_HISTORY}PRAGMA user_version = 4;
COMMIT;
"""

_FROM_4 = """
BEGIN IMMEDIATE;
ALTER TABLE account ADD COLUMN server_key_version INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 5;
COMMIT;
"""

_FROM_5 = f"""
BEGIN IMMEDIATE;
{_UPLOAD}PRAGMA user_version = 6;
COMMIT;
"""


@attrs.frozen(kw_only=True)
class Account:
    """The server of a profile as pinned at its login, and who the device is there."""

    server: str
    """``https://host:port``."""
    trust: str
    """How TLS is checked: ``system``, ``file`` (``tls-ca.pem`` in the profile) or ``insecure``."""
    domain: str
    server_static: bytes
    device_ca: bytes
    pattern: NoisePattern
    handle: str
    user_id: str | None = None
    """None until the server has admitted the device."""
    certificate: DeviceCertificate | None = None
    via: Via = Via.BINARY
    """How to connect, unless a command says otherwise."""
    server_key_version: int = 0
    """Which version of the server's Noise key ``server_static`` is; 0 while the server has not said it."""


@attrs.frozen
class Cursor:
    """Everything up to number ``ack`` of inbox epoch ``epoch`` has been dealt with."""

    epoch: str
    ack: int


@attrs.frozen(kw_only=True)
class KeptUpload:
    """An upload that another run of the command can go on with."""

    attachment_id: str
    key: bytes = attrs.field(repr=False)
    """32 bytes; encrypts this one content, and no other."""


class ProfileState:
    """The open database. Methods may be called from any thread; one waits for the other."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._db = connection
        # One connection has one transaction: in ``chat``, :meth:`settle` runs in a worker
        # thread while the sending task pins a key.
        self._lock = threading.Lock()

    def account(self) -> Account | None:
        """The account, None before the first login reached the server."""
        with self._reading():
            row = self._db.execute(
                "SELECT server, trust, domain, server_static, device_ca, pattern, handle, user_id,"
                " certificate, via, server_key_version FROM account"
            ).fetchone()
        if row is None:
            return None
        try:
            certificate = None if row[8] is None else DeviceCertificate.from_wire(json.loads(row[8]))
            pattern, via = NoisePattern(row[5]), Via(row[9])
        except (ValueError, CertificateError) as exc:
            raise self._damaged(exc) from exc
        return Account(
            server=row[0],
            trust=row[1],
            domain=row[2],
            server_static=row[3],
            device_ca=row[4],
            pattern=pattern,
            handle=row[6],
            user_id=row[7],
            certificate=certificate,
            via=via,
            server_key_version=row[10],
        )

    def save_account(self, account: Account) -> None:
        """Replace the account as a whole."""
        certificate = None if account.certificate is None else json.dumps(account.certificate.to_wire())
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO account VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    account.server,
                    account.trust,
                    account.domain,
                    account.server_static,
                    account.device_ca,
                    account.pattern.value,
                    account.handle,
                    account.user_id,
                    certificate,
                    account.via.value,
                    account.server_key_version,
                ),
            )

    def save_certificate(self, certificate: DeviceCertificate) -> None:
        """Keep a certificate the server renewed."""
        with self._writing():
            self._db.execute("UPDATE account SET certificate = ?", (json.dumps(certificate.to_wire()),))

    def save_server_key(self, public: bytes, version: int) -> None:
        """Keep a newer Noise key of the server; one that another command has kept meanwhile stays if it
        is newer still."""
        with self._writing():
            self._db.execute(
                "UPDATE account SET server_static = ?1, server_key_version = ?2 "
                "WHERE server_key_version <= ?2",
                (public, version),
            )

    def cursor(self) -> Cursor | None:
        """Where reading the inbox goes on, None before the first message."""
        with self._reading():
            row = self._db.execute("SELECT epoch, ack FROM inbox_cursor").fetchone()
        return None if row is None else Cursor(*row)

    def settle(self, cursor: Cursor, shown: Iterable[tuple[str, bytes]]) -> None:
        """Remember in one transaction that messages (sender, id) were shown and how far reading is."""
        with self._writing():
            self._db.executemany("INSERT OR IGNORE INTO shown (sender, message_id) VALUES (?, ?)", shown)
            self._db.execute(
                "DELETE FROM shown WHERE number <= (SELECT max(number) FROM shown) - ?", (SHOWN_MESSAGES,)
            )
            self._db.execute(
                "INSERT OR REPLACE INTO inbox_cursor VALUES (1, ?, ?)", (cursor.epoch, cursor.ack)
            )

    def was_shown(self, sender: str, message_id: bytes) -> bool:
        """Whether this message of this sender was shown already.

        Ids count per sender: a member of a group knows the ids of the others' messages, and
        could otherwise make them disappear by using them first.
        """
        with self._reading():
            found = self._db.execute(
                "SELECT 1 FROM shown WHERE sender = ? AND message_id = ?", (sender, message_id)
            ).fetchone()
        return found is not None

    def ledger_heads(self) -> list[SignedHead]:
        """The newest head of each of the server's ledgers that this device has seen, as it was signed."""
        with self._reading():
            rows = self._db.execute("SELECT document FROM ledger_head ORDER BY number").fetchall()
        try:
            return [SignedHead.from_wire(json.loads(document)) for [document] in rows]
        except (ValueError, LedgerHeadError) as exc:
            raise self._damaged(exc) from exc

    def keep_ledger_head(self, head: SignedHead) -> None:
        """Remember a head in place of the older one of the same ledger."""
        with self._writing():
            self._db.execute(
                "INSERT INTO ledger_head (ledger, document) VALUES (?, ?) "
                "ON CONFLICT (ledger) DO UPDATE SET document = excluded.document",
                (head.ledger.hex(), json.dumps(head.to_wire())),
            )
            self._db.execute(
                "DELETE FROM ledger_head WHERE number <= (SELECT max(number) FROM ledger_head) - ?",
                (REMEMBERED_LEDGERS,),
            )

    def key_history(self, device_id: str) -> bytes | None:
        """The link up to which the key events of a device were seen."""
        with self._reading():
            row = self._db.execute(
                "SELECT link FROM key_history WHERE device_id = ?", (device_id,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def keep_key_history(self, device_id: str, link: bytes, document: Mapping[str, object]) -> None:
        """Remember a link, and what the server has signed about it."""
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO key_history VALUES (?, ?, ?)",
                (device_id, link, json.dumps(dict(document))),
            )

    def peer_key(self, device_id: str) -> bytes | None:
        """The pinned Ed25519 key of another device."""
        with self._reading():
            row = self._db.execute("SELECT public_key FROM peer WHERE device_id = ?", (device_id,)).fetchone()
        return None if row is None else bytes(row[0])

    def pin_peer(self, device_id: str, public_key: bytes, *, instead_of: bytes | None = None) -> bool:
        """Pin a key at first use, or in place of exactly ``instead_of``; False when another one is pinned."""
        with self._writing():
            if instead_of is None:
                self._db.execute("INSERT OR IGNORE INTO peer VALUES (?, ?)", (device_id, public_key))
            else:
                self._db.execute(
                    "UPDATE peer SET public_key = ? WHERE device_id = ? AND public_key = ?",
                    (public_key, device_id, instead_of),
                )
            row = self._db.execute("SELECT public_key FROM peer WHERE device_id = ?", (device_id,)).fetchone()
        return row is not None and bytes(row[0]) == public_key

    def channel_attempt(self, device_id: str) -> int:
        """Which derived channel worked for a peer last time, 0 at first."""
        with self._reading():
            row = self._db.execute(
                "SELECT attempt FROM channel_attempt WHERE device_id = ?", (device_id,)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def save_channel_attempt(self, device_id: str, attempt: int) -> None:
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO channel_attempt VALUES (?, ?)", (device_id, attempt))

    def upload(self, mark: bytes, *, since: int) -> KeptUpload | None:
        """The upload of this mark, if there is one that began at ``since`` (Unix time) or later."""
        with self._reading():
            row = self._db.execute(
                "SELECT attachment_id, key FROM upload WHERE mark = ? AND begun_at >= ?", (mark, since)
            ).fetchone()
        return None if row is None else KeptUpload(attachment_id=row[0], key=bytes(row[1]))

    def keep_upload(self, mark: bytes, kept: KeptUpload, *, begun_at: int) -> None:
        """Remember an upload until :meth:`forget_upload`; ``mark`` says of which content, for whom."""
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO upload (mark, attachment_id, key, begun_at) VALUES (?, ?, ?, ?)",
                (mark, kept.attachment_id, kept.key, begun_at),
            )
            self._db.execute(
                "DELETE FROM upload WHERE number <= (SELECT max(number) FROM upload) - ?",
                (REMEMBERED_UPLOADS,),
            )

    def forget_upload(self, mark: bytes) -> None:
        with self._writing():
            self._db.execute("DELETE FROM upload WHERE mark = ?", (mark,))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as exc:
            raise self._damaged(exc) from exc

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
        except sqlite3.Error as exc:
            raise self._damaged(exc) from exc

    def _damaged(self, exc: Exception) -> ProfileError:
        return ProfileError(f"the profile database {self._path} cannot be used: {exc}")


@contextmanager
def open_state(directory: Path, *, create: bool) -> Iterator[ProfileState]:
    """Open the database of a profile, and close it at the end.

    Raises:
        FileNotFoundError: there is none, and ``create`` is false.
        ProfileError: it is damaged, foreign, of a newer version, or cannot be read.
    """
    path = directory / FILE_NAME
    try:
        # SQLite gives its journal files the mode of the database, so this covers all of them.
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o600)
        try:
            check_private(path, os.fstat(fd), "chmod 600")
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise ProfileError(f"cannot open {path}: {exc.strerror}") from exc
    try:
        # settle() runs in a worker thread; the lock of ProfileState keeps calls apart.
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as exc:
        raise ProfileError(f"cannot open {path}: {exc}") from exc
    try:
        _prepare(path, connection)
        yield ProfileState(path, connection)
    finally:
        connection.close()


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(_SCHEMA)
        elif version in range(1, _SCHEMA_VERSION):
            for older in (_FROM_1, _FROM_2, _FROM_3, _FROM_4, _FROM_5)[version - 1 :]:
                connection.executescript(older)
        elif version != _SCHEMA_VERSION:
            raise ProfileError(f"{path} was written by another version of commucat-cli (layout {version})")
    except sqlite3.Error as exc:
        raise ProfileError(f"the profile database {path} cannot be used: {exc}") from exc
