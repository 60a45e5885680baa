"""The PostgreSQL store: everything behind :class:`Storage` put together."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

import trio

from commucat_storage.admission import Admission, Admitted, check_admission
from commucat_storage.asyncio_loop import AsyncioLoop, open_loop
from commucat_storage.errors import (
    AlreadyExistsError,
    StorageError,
    StorageUnavailableError,
)
from commucat_storage.inbox import InboxPage, InboxState
from commucat_storage.journaled import JournaledStorage, until_less
from commucat_storage.metering import PoolState, QueueState
from commucat_storage.operating import OperatorRecord
from commucat_storage.postgres import (
    account_links,
    accounts,
    admit,
    devices,
    expiry,
    federation,
    key_events,
    reads,
)
from commucat_storage.postgres.account_links import PostgresAccountLinks
from commucat_storage.postgres.attachments import PostgresAttachments
from commucat_storage.postgres.calls import PostgresCalls
from commucat_storage.postgres.cluster import PostgresNodes
from commucat_storage.postgres.connection import Connection, connect, translate
from commucat_storage.postgres.device_store import PostgresDevices
from commucat_storage.postgres.entries import Within, Work
from commucat_storage.postgres.federation_store import PostgresFederation
from commucat_storage.postgres.friends import PostgresFriends
from commucat_storage.postgres.journal import Journal
from commucat_storage.postgres.migrate import (
    PostgresStatus,
    apply_migrations,
    bundled_migrations,
    claim,
    status,
)
from commucat_storage.postgres.operating_storage import PostgresOperating
from commucat_storage.postgres.pool import Pool, close_connection
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.records import (
    CertificateRow,
    Device,
    EnrolmentCode,
    ExpiredMessage,
    Group,
    KeyEvent,
    KnownDevice,
    Purged,
    Route,
    Secret,
    SessionRow,
    User,
)

P = ParamSpec("P")
T = TypeVar("T")

_MOST_RACES = 3  # lost before an insertion that collides is taken for what it says


@asynccontextmanager
async def open_postgres(
    dsn: str, *, settings: PostgresSettings | None = None
) -> AsyncIterator["PostgresStorage"]:
    """Open the store at ``dsn`` (``postgresql://user:password@host:port/database?sslmode=...``), migrating
    it as needed; close it at the end.

    Closing commits everything that was taken and calls every ``done``, then closes the connections.
    The database must exist, and the role must own it.

    Raises:
        StorageUnavailableError: the server cannot be reached, or refuses the role or the database.
        SchemaError: the database is newer than this program, was migrated with files that have been
            edited since, or belongs to the server of another domain.
        StorageError: at the end, see :meth:`Journal.aclose`.
    """
    settings = settings or PostgresSettings()
    async with open_loop() as loop:
        await loop.run(lambda: _prepare(dsn, settings))
        pool = Pool(loop, dsn, settings)
        journal = Journal(loop, dsn, settings)
        try:
            yield PostgresStorage(loop, dsn, settings, journal, pool)
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await journal.aclose()
                finally:
                    await pool.aclose()


async def migrate_postgres(dsn: str, *, settings: PostgresSettings | None = None) -> list[str]:
    """Bring the database to the newest schema; return the names of what was applied.

    Safe while servers use the database, and when several processes do it at once. Raises as
    :func:`open_postgres` does.
    """
    settings = settings or PostgresSettings()
    async with open_loop() as loop:
        return await loop.run(lambda: _prepare(dsn, settings))


async def postgres_status(dsn: str, *, settings: PostgresSettings | None = None) -> PostgresStatus:
    """Read, without changing anything, where the database stands. Raises as :func:`open_postgres` does."""
    settings = settings or PostgresSettings()
    async with open_loop() as loop:
        return await loop.run(
            lambda: with_connection(dsn, settings, lambda connection: status(connection, dsn))
        )


async def _prepare(dsn: str, settings: PostgresSettings) -> list[str]:
    async def prepare(connection: Connection) -> list[str]:
        done = await apply_migrations(connection, dsn, settings, bundled_migrations())
        if settings.domain is not None:
            await claim(connection, dsn, settings.domain)
        return done

    return await with_connection(dsn, settings, prepare)


async def with_connection(
    dsn: str, settings: PostgresSettings, unit: Callable[[Connection], Awaitable[T]]
) -> T:
    """Call ``unit`` with a connection of its own, as long as it takes; in the asyncio loop.

    Raises:
        StorageError: whatever went wrong, see :func:`translate`.
    """
    try:
        # A migration of a large database takes its time.
        connection = await connect(dsn, settings, patient=True)
        try:
            return await unit(connection)
        finally:
            await close_connection(connection)
    except Exception as exc:
        raise translate(exc, dsn) from exc


class PostgresStorage(
    PostgresNodes,
    PostgresDevices,
    PostgresFriends,
    PostgresFederation,
    PostgresAccountLinks,
    PostgresAttachments,
    PostgresCalls,
    PostgresOperating,
    JournaledStorage[Work],
):
    """The state of a server in a PostgreSQL database. Made by :func:`open_postgres`."""

    def __init__(
        self, loop: AsyncioLoop, dsn: str, settings: PostgresSettings, journal: Journal, pool: Pool
    ) -> None:
        PostgresNodes.__init__(self, loop, dsn, settings, journal, pool)
        JournaledStorage.__init__(self, journal)
        self._pool = pool

    # -- the journal ---------------------------------------------------------------------------

    async def settle(self) -> None:
        async def work(within: Within) -> None:
            """Nothing: it comes behind everything that was taken."""

        await self._in_journal(work)

    async def read_after(
        self, device_id: str, number: int, *, limit_rows: int, limit_bytes: int, now: int
    ) -> InboxPage:
        if limit_rows < 1:
            raise ValueError("limit_rows must be at least 1")
        return await self._read(reads.read_after, device_id, number, limit_rows, limit_bytes, now)

    @property
    def pool_state(self) -> PoolState:
        return self._pool.state

    async def queue_state(self, after: int) -> QueueState:
        return await self._read(reads.queue_state, after)

    async def inbox_state(self, device_id: str) -> InboxState | None:
        return await self._read(reads.inbox_state, device_id)

    async def routes_of(self, device_id: str) -> dict[int, Route]:
        return await self._read(reads.routes_of, device_id)

    async def load_group(self, group_id: str) -> Group | None:
        return await self._read(reads.load_group, group_id)

    async def peers_of(self, device_id: str, limit: int) -> tuple[str, ...]:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        return await self._read(reads.peers_of, device_id, limit)

    async def peers_of_each(self, device_ids: Sequence[str], limit: int) -> tuple[tuple[str, ...], ...]:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        return await self._read(reads.peers_of_each, device_ids, limit)

    # -- accounts ------------------------------------------------------------------------------

    async def create_user(self, user: User, code: EnrolmentCode | None = None) -> None:
        async def unit(connection: Connection) -> None:
            await accounts.insert_user(connection, user)
            if code is not None:
                await accounts.insert_code(connection, code)

        await self._pool.write(unit)

    async def set_avatar(self, user_id: str, avatar_url: str) -> str | None:
        return await self._write(accounts.set_avatar, user_id, avatar_url)

    async def has_avatar(self, avatar_url: str) -> bool:
        return await self._read(accounts.has_avatar, avatar_url)

    async def add_enrolment_code(self, code: EnrolmentCode) -> None:
        await self._write(accounts.insert_code, code)

    async def load_user(self, user_id: str) -> User | None:
        return await self._read(accounts.load_user, user_id)

    async def load_user_by_handle(self, handle: str, domain: str) -> User | None:
        return await self._read(accounts.load_user_by_handle, handle, domain)

    async def load_device(self, device_id: str) -> Device | None:
        return await self._read(accounts.load_device, device_id)

    async def known_device(self, device_id: str) -> KnownDevice | None:
        return await self._read(reads.known_device, device_id)

    async def admit(self, admission: Admission) -> Admitted:
        check_admission(admission)
        for _ in range(_MOST_RACES):
            try:
                return await self._write(admit.admit, admission, self.node_name)
            except AlreadyExistsError:
                # Somebody was quicker between the look and the insertion: now the look will see it.
                continue
        return await self._write(admit.admit, admission, self.node_name)

    async def revoke_device(
        self,
        device_id: str,
        now: int,
        event: KeyEvent | None = None,
        records: Sequence[OperatorRecord] = (),
    ) -> bool:
        return await self._write(devices.revoke, device_id, now, event, records)

    async def not_active(self, device_ids: Sequence[str]) -> frozenset[str]:
        return await self._read(reads.not_active, device_ids)

    async def newest_certificate(self, device_id: str) -> CertificateRow | None:
        return await self._read(accounts.newest_certificate, device_id)

    async def add_certificate(self, certificate: CertificateRow, event: KeyEvent | None = None) -> bool:
        return await self._write(accounts.add_certificate, certificate, event)

    # -- key events ----------------------------------------------------------------------------

    async def key_events(self, device_id: str) -> tuple[KeyEvent, ...]:
        return await self._read(key_events.key_events, device_id)

    async def old_key_events(self, before: int, limit: int) -> tuple[KeyEvent, ...]:
        return await self._read(key_events.old_key_events, before, limit)

    async def forget_key_events(self, event_ids: Sequence[str]) -> int:
        return await self._write(key_events.forget_key_events, event_ids)

    # -- sessions ------------------------------------------------------------------------------

    async def load_session(self, token_hash: str) -> SessionRow | None:
        return await self._read(accounts.load_session, token_hash)

    async def refresh_session(self, token_hash: str, now: int) -> bool:
        return await self._repeat(accounts.refresh_session, token_hash, now)

    async def delete_session(self, token_hash: str) -> bool:
        return await self._write(accounts.delete_session, token_hash)

    # -- secrets -------------------------------------------------------------------------------

    async def insert_secret(self, secret: Secret) -> None:
        await self._write(accounts.insert_secret, secret)

    async def active_secrets(self, name: str, now: int) -> tuple[Secret, ...]:
        return await self._read(accounts.active_secrets, name, now)

    async def latest_secret_version(self, name: str) -> int:
        return await self._read(accounts.latest_secret_version, name)

    # -- upkeep --------------------------------------------------------------------------------

    async def purge_expired(self, now: int) -> Purged:
        self._forget_presence(now)
        sessions = await until_less(expiry.STEP_ROWS, lambda: self._repeat(expiry.purge_sessions, now))
        codes = await until_less(expiry.STEP_ROWS, lambda: self._repeat(expiry.purge_codes, now))
        # Two statements that do not depend on each other.
        codes += await self._repeat(devices.purge, now)
        await until_less(expiry.STEP_ROWS, lambda: self._repeat(expiry.purge_names, now))
        await until_less(expiry.STEP_ROWS, lambda: self._repeat(federation.purge_letters, now))
        await until_less(expiry.STEP_ROWS, lambda: self._repeat(account_links.forget_links, now))
        if used_up := await self._read(federation.used_up_outboxes):
            await self._write(federation.renew_outboxes, used_up)
        # Last: a failure of the others must not make forgotten what was deleted here.
        messages, expired, more = await self._purge_messages(now)
        return Purged(
            messages=messages,
            sessions=sessions,
            codes=codes,
            expired=tuple(expired),
            more=more,
        )

    async def check(self) -> None:
        async def work(within: Within) -> None:
            if within.disk_is_low:
                raise StorageUnavailableError("the database is as large as it may be: messages are refused")
            await within.connection.execute(
                "INSERT INTO readiness (checks) VALUES (1) "
                "ON CONFLICT (only_row) DO UPDATE SET checks = readiness.checks + 1"
            )

        # Through the journal: that it moves is what is to be proved.
        await self._in_journal(work)
        await self._pool.read(lambda connection: connection.fetchval("SELECT checks FROM readiness"))

    async def _read(
        self, function: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._pool.read(lambda connection: function(connection, *args, **kwargs))

    async def _write(
        self, function: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._pool.write(lambda connection: function(connection, *args, **kwargs))

    async def _repeat(
        self, function: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """For one statement that may be done twice: it needs no transaction around it."""
        return await self._pool.repeat(lambda connection: function(connection, *args, **kwargs))

    async def _purge_messages(self, now: int) -> tuple[int, list[ExpiredMessage], bool]:
        count = 0
        expired: list[ExpiredMessage] = []
        searches = deque(await self._read(expiry.inboxes_to_search, now))
        while searches:
            if len(expired) >= expiry.LONG_REPORT:
                return count, expired, True
            step = expiry.next_step(searches)
            try:
                found = await self._write(expiry.purge_messages, step, now)
            except StorageError:
                if not count:
                    raise
                return count, expired, False  # Senders are to be told of these.
            count += found.messages
            expired += found.expired
            searches.extendleft(reversed(found.unfinished))
        return count, expired, False
