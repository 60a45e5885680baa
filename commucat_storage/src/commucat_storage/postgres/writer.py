"""The transactions of the journal: many entries, one commit. In the asyncio loop."""

import asyncio
import logging
from collections.abc import Sequence

import asyncpg
import attrs

from commucat_storage.applying import Group
from commucat_storage.errors import StorageError
from commucat_storage.inbox import Operation, Outcome
from commucat_storage.postgres.connection import CONFLICTS, Connection, connect, is_lost, translate
from commucat_storage.postgres.entries import Entry, Within, Work, completed
from commucat_storage.postgres.loaded import (
    Changes,
    LoadedGroups,
    LoadedInboxes,
    LoadedMarks,
    LoadedRoutes,
    NotLoadedError,
)
from commucat_storage.postgres.memory import Memory
from commucat_storage.postgres.others import Others
from commucat_storage.postgres.pending import PayloadIds, PostgresPending
from commucat_storage.postgres.plan import Plan, Planner
from commucat_storage.postgres.pool import (
    MOST_CONFLICTS,
    OutcomeUnknownError,
    Patience,
    close_connection,
    commit,
    roll_back,
)
from commucat_storage.postgres.remembered import (
    load_groups,
    lock_inboxes,
    owned_groups,
    siblings_of,
    stored_names,
)
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.postgres.unlocked import Decided, decide

_log = logging.getLogger(__name__)

_SIZE_INTERVAL = 10.0  # seconds between two looks at the size of the database
_MOST_ATTEMPTS = 100  # each adds something that other processes changed since the last one


class Writer:
    """Owns the connection of the journal."""

    def __init__(self, dsn: str, settings: PostgresSettings) -> None:
        self._dsn = dsn
        self._settings = settings
        self._connection: Connection | None = None
        self._memory = Memory.of(settings)
        self._planner = Planner(self._memory.relations, self._memory.groups, self._memory.siblings)
        self._payload_ids = PayloadIds()
        self._disk_is_low = False
        self._look_at_size = 0.0
        self.node: str | None = None
        """This process among those that share the database."""
        self._elsewhere: dict[str, dict[str, int]] = {}
        self._doubtful: Decided | None = None
        """Was sent, and the connection was lost before the answer came."""

    async def commit(self, entries: Sequence[Entry]) -> list[object]:
        """Store the first entries, as many as make a transaction of bounded size, and at least one.

        Returns the results of those, in order; a piece of work that raised a
        :class:`StorageError` has that for its result. Lost connections are replaced, and what was
        begun on them is begun again; only a connection lost in the commit itself fails them.

        Raises:
            OutcomeUnknownError: perhaps everything is stored.
            Exception: nothing is stored.
        """
        try:
            return await self._until_it_succeeds(entries)
        finally:
            self._doubtful = None

    def take_elsewhere(self) -> dict[str, dict[str, int]]:
        """Node, device, highest number of what was committed for sessions elsewhere since the last call."""
        elsewhere, self._elsewhere = self._elsewhere, {}
        return elsewhere

    def _note(self, others: Others) -> None:
        for owner, heads in others.heads().items():
            self._elsewhere.setdefault(owner, {}).update(heads)

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_connection(connection)

    def _give_up_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _until_it_succeeds(self, entries: Sequence[Entry]) -> list[object]:
        patience = Patience(self._settings.reconnect_timeout)
        conflicts = 0
        while True:
            try:
                async with asyncio.timeout(self._settings.unit_timeout):
                    return await self._attempt(entries)
            except TimeoutError as exc:
                self._give_up_connection()
                raise translate(exc, self._dsn) from exc
            except (*CONFLICTS, asyncpg.UniqueViolationError):
                # Another process created the same group, or stored the same message, meanwhile: now it will
                # be seen.
                conflicts += 1
                if conflicts > MOST_CONFLICTS:
                    raise
            except Exception as exc:
                if not is_lost(exc):
                    raise
                self._give_up_connection()
                if not await patience.wait():
                    if self._doubtful is None:
                        raise
                    raise OutcomeUnknownError(f"{translate(exc, self._dsn)}; perhaps it is stored") from exc

    async def _attempt(self, entries: Sequence[Entry]) -> list[object]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn, self._settings, for_journal=True)
        connection = self._connection
        if self._doubtful is not None:
            return await self._send_again(connection, self._doubtful)
        await self._watch_size(connection)
        plan = self._planner.read([entry.batch for entry in entries])
        decided = await decide(
            connection,
            entries,
            plan,
            self._memory,
            self._payload_ids,
            self._settings,
            disk_is_low=self._disk_is_low,
            node=self.node,
        )
        results = None if decided is None else await self._send(connection, decided)
        return await self._lock_and_commit(connection, entries, plan) if results is None else results

    async def _send(self, connection: Connection, decided: Decided) -> list[object] | None:
        self._doubtful = decided
        try:
            results = await decided.store(connection)
        except Exception as exc:
            if not is_lost(exc):
                self._doubtful = None
            raise
        self._doubtful = None
        if results is not None:
            self._note(decided.others)
        return results

    async def _send_again(self, connection: Connection, doubtful: Decided) -> list[object]:
        """The answer to the first attempt was lost; if that was stored, this one is not."""
        try:
            results = await doubtful.store(connection)
        except Exception as exc:
            if is_lost(exc) or isinstance(exc, CONFLICTS):
                raise
            raise OutcomeUnknownError(str(translate(exc, self._dsn))) from exc
        if results is None:
            raise OutcomeUnknownError("the connection to PostgreSQL was lost in the commit")
        self._note(doubtful.others)
        return results

    async def _lock_and_commit(
        self, connection: Connection, entries: Sequence[Entry], plan: Plan
    ) -> list[object]:
        for _ in range(_MOST_ATTEMPTS):
            changes = Changes()
            await self._payload_ids.reserve(connection, plan.operations)
            await connection.execute("BEGIN")
            try:
                transaction = await self._load(connection, plan, changes)
                results = await transaction.apply(entries)
                await changes.mark(connection)
            except BaseException as exc:
                self._memory.forget(changes)
                await roll_back(connection)
                if not isinstance(exc, NotLoadedError):
                    raise
                plan.extend(exc)
                continue
            # Forgotten in either case: the counters in the database were raised, or perhaps were.
            self._memory.forget(changes)
            await commit(connection)
            self._memory.standings.keep(transaction.inboxes.items(), self._memory.relations)
            self._note(transaction.others)
            return results
        raise StorageError("other processes change the same groups all the time; try again")

    async def _watch_size(self, connection: Connection) -> None:
        limit = self._settings.max_database_bytes
        now = asyncio.get_running_loop().time()
        if limit is None or now < self._look_at_size:
            return
        low = await connection.fetchval("SELECT pg_database_size(current_database())") > limit
        self._look_at_size = now + _SIZE_INTERVAL
        if low and not self._disk_is_low:
            _log.error("the database has grown above its limit: messages are refused")
        self._disk_is_low = low

    async def _load(self, connection: Connection, plan: Plan, changes: Changes) -> "_Transaction":
        inboxes = await lock_inboxes(
            connection, plan.devices, self._memory.relations, self._memory.standings.see
        )
        siblings = await siblings_of(connection, plan.users, self._memory.siblings) if plan.users else {}
        loaded_inboxes = LoadedInboxes(inboxes, siblings)
        if plan.ending:
            holders = await connection.fetch(
                "SELECT DISTINCT device_id FROM route WHERE group_id = ANY ($1)", list(plan.ending)
            )
            loaded_inboxes.prefetch(device_id for [device_id] in holders)
        groups = await load_groups(connection, plan.groups, self._memory.groups) if plan.groups else {}
        owned = await owned_groups(connection, plan.owners) if plan.owners else {}
        loaded_groups = LoadedGroups(groups, owned, plan.ending, loaded_inboxes, changes)
        watermarks = {inbox: inbox.confirmed for inbox in inboxes.values()}
        pending = PostgresPending(self._payload_ids, watermarks)
        routes = LoadedRoutes(loaded_inboxes, loaded_groups, self._settings, changes)
        marks = LoadedMarks(await stored_names(connection, plan.names) if plan.names else {})
        group = Group(loaded_inboxes, loaded_groups, routes, pending, self._settings, marks)
        group.begin(disk_is_low=self._disk_is_low)
        return _Transaction(
            connection=connection,
            inboxes=loaded_inboxes,
            others=Others(inboxes, self.node),
            group=group,
            pending=pending,
            marks=marks,
            changes=changes,
            stepwise=plan.stepwise,
            disk_is_low=self._disk_is_low,
            group_rows=self._settings.group_rows,
        )


@attrs.frozen
class _Transaction:
    """The open transaction, with everything locked that it was expected to need."""

    connection: Connection
    inboxes: LoadedInboxes
    others: Others
    group: Group
    pending: PostgresPending
    marks: LoadedMarks
    changes: Changes
    stepwise: bool
    disk_is_low: bool
    group_rows: int

    async def apply(self, entries: Sequence[Entry]) -> list[object]:
        """Apply the first entries and write what they changed; their results."""
        results: list[object] = []
        for entry in entries:
            if entry.work is not None:
                results.append(await self._do(entry.work))
            elif self.stepwise:
                results.append(await self._apply_stepwise(entry.batch))
            else:
                results.append(self.group.apply(entry.batch))
            # How many rows a message along its sender's route makes is known only now.
            if self.group.stored >= self.group_rows:
                break
        await self._write()
        return self.others.located(completed(entries, results))

    async def _apply_stepwise(self, batch: Sequence[Operation]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for operation in batch:
            alone = self.group.apply((operation,))
            await self._write()
            outcomes += alone
        return outcomes

    async def _write(self) -> None:
        await self.changes.write(self.connection)
        await self.pending.write(self.connection)
        await self.marks.write(self.connection)

    async def _do(self, work: Work) -> object:
        """Do ``work`` in a savepoint, so that its refusal does not hurt the rest of the transaction."""
        await self._write()
        await self.connection.execute("SAVEPOINT work")
        try:
            result = await work(Within(self.connection, self.disk_is_low))
        except StorageError as exc:
            await self.connection.execute("ROLLBACK TO work")
            result = exc
        await self.connection.execute("RELEASE work")
        return result
