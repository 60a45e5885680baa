"""The SQLite store: everything behind :class:`Storage` put together."""

import functools
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from commucat_storage.admission import Admission, Admitted, check_admission
from commucat_storage.errors import StorageError, StorageUnavailableError
from commucat_storage.inbox import InboxPage, InboxState
from commucat_storage.journaled import JournaledStorage, until_less
from commucat_storage.metering import PoolState, QueueState
from commucat_storage.operating import OperatorRecord
from commucat_storage.records import (
    CertificateRow,
    Device,
    EnrolmentCode,
    Group,
    KeyEvent,
    KnownDevice,
    Purged,
    Route,
    Secret,
    SessionRow,
    User,
)
from commucat_storage.sqlite import (
    account_links,
    accounts,
    admit,
    devices,
    expiry,
    federation,
    key_events,
    reads,
)
from commucat_storage.sqlite.account_links import SqliteAccountLinks
from commucat_storage.sqlite.attachments import SqliteAttachments
from commucat_storage.sqlite.calls import SqliteCalls
from commucat_storage.sqlite.connection import connect_writer, translate
from commucat_storage.sqlite.device_store import SqliteDevices
from commucat_storage.sqlite.federation_store import SqliteFederation
from commucat_storage.sqlite.friends import SqliteFriends
from commucat_storage.sqlite.joint_reads import JointReads
from commucat_storage.sqlite.journal import Journal
from commucat_storage.sqlite.migrate import apply_migrations, bundled_migrations
from commucat_storage.sqlite.operating_storage import SqliteOperating
from commucat_storage.sqlite.reads import ReaderPool
from commucat_storage.sqlite.session_watch import SessionWatch
from commucat_storage.sqlite.settings import SqliteSettings
from commucat_storage.sqlite.turns import Turns
from commucat_storage.sqlite.writer import Transaction, Work

T = TypeVar("T")


@asynccontextmanager
async def open_sqlite(
    path: Path, *, settings: SqliteSettings | None = None
) -> AsyncIterator["SqliteStorage"]:
    """Open the store at ``path``, creating and migrating it as needed; close it at the end.

    Closing commits everything that was taken and calls every ``done``, then closes the file.
    The directory of ``path`` must exist.

    Raises:
        StorageUnavailableError: the file or its directory cannot be read or written.
        SchemaError: the file is not a database, is damaged, newer than this program, or
            was migrated with files that have been edited since.
        StorageError: at the end, see :meth:`Journal.aclose`.
    """
    settings = settings or SqliteSettings()
    turns = Turns()
    connection, readers = await trio.to_thread.run_sync(_open, path, settings, turns)
    journal = Journal(connection, path, settings, turns)
    trio.lowlevel.add_instrument(turns)
    try:
        yield SqliteStorage(journal, readers, settings.gather_delay)
    finally:
        readers.close()
        try:
            await journal.aclose()
        finally:
            trio.lowlevel.remove_instrument(turns)


def _open(path: Path, settings: SqliteSettings, turns: Turns) -> tuple[sqlite3.Connection, ReaderPool]:
    connection = connect_writer(path, settings)
    try:
        apply_migrations(connection, path, bundled_migrations())
        return connection, ReaderPool(path, settings, turns)
    except sqlite3.Error as exc:
        connection.close()
        raise translate(exc, path) from exc
    except BaseException:
        connection.close()
        raise


def _known_devices(connection: sqlite3.Connection, device_ids: Sequence[str]) -> list[KnownDevice | None]:
    return [accounts.known_device(connection, device_id) for device_id in device_ids]


class SqliteStorage(
    SqliteDevices,
    SqliteFriends,
    SqliteFederation,
    SqliteAccountLinks,
    SqliteAttachments,
    SqliteCalls,
    SqliteOperating,
    JournaledStorage[Work],
):
    """One server's state in one SQLite file. Made by :func:`open_sqlite`."""

    def __init__(self, journal: Journal, readers: ReaderPool, gather_delay: float) -> None:
        JournaledStorage.__init__(self, journal)
        self._readers = readers
        self._session_watch = SessionWatch()
        self._known_devices: JointReads[str, KnownDevice | None] = JointReads(
            readers, _known_devices, gather_delay
        )

    # -- the journal ---------------------------------------------------------------------------

    async def settle(self) -> None:
        await self._in_journal(lambda transaction: None)

    async def read_after(
        self, device_id: str, number: int, *, limit_rows: int, limit_bytes: int, now: int
    ) -> InboxPage:
        if limit_rows < 1:
            raise ValueError("limit_rows must be at least 1")
        return await self._readers.run(reads.read_after, device_id, number, limit_rows, limit_bytes, now)

    @property
    def pool_state(self) -> PoolState:
        return self._readers.state

    async def queue_state(self, after: int) -> QueueState:
        return await self._readers.run(reads.queue_state, after)

    async def inbox_state(self, device_id: str) -> InboxState | None:
        return await self._readers.run(reads.inbox_state, device_id)

    async def routes_of(self, device_id: str) -> dict[int, Route]:
        return await self._readers.run(reads.routes_of, device_id)

    async def load_group(self, group_id: str) -> Group | None:
        return await self._readers.run(reads.load_group, group_id)

    async def peers_of(self, device_id: str, limit: int) -> tuple[str, ...]:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        return await self._readers.run(reads.peers_of, device_id, limit)

    async def peers_of_each(self, device_ids: Sequence[str], limit: int) -> tuple[tuple[str, ...], ...]:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        return await self._readers.run(reads.peers_of_each, device_ids, limit)

    # -- accounts ------------------------------------------------------------------------------

    async def create_user(self, user: User, code: EnrolmentCode | None = None) -> None:
        def work(transaction: Transaction) -> None:
            accounts.insert_user(transaction.connection, user)
            if code is not None:
                accounts.insert_code(transaction.connection, code)

        await self._write(work)

    async def set_avatar(self, user_id: str, avatar_url: str) -> str | None:
        return await self._write(
            lambda transaction: accounts.set_avatar(transaction.connection, user_id, avatar_url)
        )

    async def has_avatar(self, avatar_url: str) -> bool:
        return await self._readers.run(accounts.has_avatar, avatar_url)

    async def add_enrolment_code(self, code: EnrolmentCode) -> None:
        await self._write(lambda transaction: accounts.insert_code(transaction.connection, code))

    async def load_user(self, user_id: str) -> User | None:
        return await self._readers.run(accounts.load_user, user_id)

    async def load_user_by_handle(self, handle: str, domain: str) -> User | None:
        return await self._readers.run(accounts.load_user_by_handle, handle, domain)

    async def load_device(self, device_id: str) -> Device | None:
        return await self._readers.run(accounts.load_device, device_id)

    async def known_device(self, device_id: str) -> KnownDevice | None:
        return await self._known_devices.ask(device_id)

    async def admit(self, admission: Admission) -> Admitted:
        check_admission(admission)
        return await self._write(lambda transaction: admit.admit(transaction, admission), gathers=True)

    async def revoke_device(
        self,
        device_id: str,
        now: int,
        event: KeyEvent | None = None,
        records: Sequence[OperatorRecord] = (),
    ) -> bool:
        return await self._write(
            lambda transaction: devices.revoke(transaction, device_id, now, event, records)
        )

    async def not_active(self, device_ids: Sequence[str]) -> frozenset[str]:
        return await self._readers.run(reads.not_active, device_ids)

    async def newest_certificate(self, device_id: str) -> CertificateRow | None:
        return await self._readers.run(accounts.newest_certificate, device_id)

    async def add_certificate(self, certificate: CertificateRow, event: KeyEvent | None = None) -> bool:
        return await self._write(
            lambda transaction: accounts.add_certificate(transaction.connection, certificate, event)
        )

    # -- key events ----------------------------------------------------------------------------

    async def key_events(self, device_id: str) -> tuple[KeyEvent, ...]:
        return await self._readers.run(key_events.key_events, device_id)

    async def old_key_events(self, before: int, limit: int) -> tuple[KeyEvent, ...]:
        return await self._readers.run(key_events.old_key_events, before, limit)

    async def forget_key_events(self, event_ids: Sequence[str]) -> int:
        return await self._write(
            lambda transaction: key_events.forget_key_events(transaction.connection, event_ids)
        )

    # -- sessions ------------------------------------------------------------------------------

    async def load_session(self, token_hash: str) -> SessionRow | None:
        return await self._readers.run(accounts.load_session, token_hash)

    async def refresh_session(self, token_hash: str, now: int) -> bool:
        return await self._write(
            lambda transaction: accounts.refresh_session(transaction.connection, token_hash, now)
        )

    async def delete_session(self, token_hash: str) -> bool:
        return await self._write(
            lambda transaction: accounts.delete_session(transaction.connection, token_hash)
        )

    # -- secrets -------------------------------------------------------------------------------

    async def insert_secret(self, secret: Secret) -> None:
        await self._write(lambda transaction: accounts.insert_secret(transaction.connection, secret))

    async def active_secrets(self, name: str, now: int) -> tuple[Secret, ...]:
        return await self._readers.run(accounts.active_secrets, name, now)

    async def latest_secret_version(self, name: str) -> int:
        return await self._readers.run(accounts.latest_secret_version, name)

    # -- upkeep --------------------------------------------------------------------------------

    async def purge_expired(self, now: int) -> Purged:
        self._forget_presence(now)
        sessions = await self._purge(expiry.purge_sessions, now)
        codes = await self._purge(expiry.purge_codes, now)
        codes += await self._write(functools.partial(devices.purge, now))
        await self._purge(expiry.purge_names, now)
        await self._purge(federation.delete_expired_letters, now)
        await self._purge(account_links.forget_links, now)
        if await self._readers.run(federation.used_up_outboxes):
            await self._write(federation.renew_outboxes)
        # Last: a failure of the others must not make forgotten what was deleted here.
        found, more = await self._purge_messages(now)
        return Purged(
            messages=found.messages,
            sessions=sessions,
            codes=codes,
            expired=tuple(found.expired),
            more=more,
        )

    async def check(self) -> None:
        def work(transaction: Transaction) -> None:
            if transaction.disk_is_low:
                raise StorageUnavailableError("the disk is almost full: messages are refused")
            transaction.connection.execute(
                "INSERT INTO readiness VALUES (1, 1) ON CONFLICT (only) DO UPDATE SET checks = checks + 1"
            )

        await self._write(work)
        await self._readers.run(
            lambda connection: connection.execute("SELECT checks FROM readiness").fetchone()
        )

    async def _write(self, work: Callable[[Transaction], T], *, gathers: bool = False) -> T:
        """Do ``work`` in the writer's thread, in order with the journal."""
        found = await self._in_journal(work, gathers=gathers)
        result: T = found  # type: ignore[assignment]  # what ``work`` returned
        return result

    async def _purge_messages(self, now: int) -> tuple[expiry.Found, bool]:
        found = expiry.Found()
        inboxes = await self._readers.run(expiry.inboxes_to_search, now)
        for start in range(0, len(inboxes), expiry.STEP_INBOXES):
            # Small inboxes share a step, a large one takes several.
            todo = [expiry.Step(inbox) for inbox in inboxes[start : start + expiry.STEP_INBOXES]]
            while todo:
                if len(found.expired) >= expiry.LONG_REPORT:
                    return found, True
                try:
                    step, todo = await self._write(functools.partial(expiry.purge_messages, todo, now))
                except StorageError:
                    if not found.messages:
                        raise
                    return found, False  # Senders are to be told of these; the next run meets the error.
                found.messages += step.messages
                found.expired += step.expired
        return found, False

    async def _purge(self, step: Callable[[int, Transaction], int], now: int) -> int:
        return await until_less(expiry.STEP_ROWS, lambda: self._write(functools.partial(step, now)))
