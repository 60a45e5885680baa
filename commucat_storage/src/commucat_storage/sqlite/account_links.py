"""Linked accounts in the embedded store: every rule is decided in the writer's transaction."""

import abc
import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs

from commucat_storage.account_links import (
    LINK_COLUMNS,
    MAX_LINKED_DEVICES,
    AccountLink,
    AccountLinkStore,
    HeardLink,
    InboxOffset,
    LinkCounts,
    LinkedOffsets,
    LinkWord,
    OffsetsTaken,
    OffsetsToTell,
    declare,
    deny,
    end,
    hear,
    link_at,
    linked_of,
    named,
)
from commucat_storage.errors import StorageError
from commucat_storage.sqlite.reads import ReaderPool
from commucat_storage.sqlite.writer import Transaction

T = TypeVar("T")

_STEP_ROWS = 1_000
_PUT = f"""INSERT INTO account_link ({LINK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id, account) DO UPDATE SET declared = excluded.declared, heard = excluded.heard,
    own_version = excluded.own_version, heard_version = excluded.heard_version,
    created_at = excluded.created_at, expires_at = excluded.expires_at"""  # noqa: S608 - names of ours
_OFFSETS = """SELECT d.device_id, o.epoch, o.next_number, o.confirmed, o.rows
FROM user_device AS d JOIN inbox_offset AS o ON o.inbox = d.inbox
WHERE d.user_id = {} AND d.status = 'active' ORDER BY d.device_id"""
# The state is a text, so that one comparison in the database finds what has changed.
_TO_TELL = f"""
SELECT user_id, handle, account, told_version, state FROM (
    SELECT l.user_id, u.handle, l.account, l.told, l.told_version, (
        SELECT json_group_array(json_array(device_id, epoch, next_number, confirmed, rows))
        FROM ({_OFFSETS.format("l.user_id")} LIMIT {MAX_LINKED_DEVICES})
    ) AS state
    FROM account_link AS l JOIN app_user AS u ON u.user_id = l.user_id
    JOIN outbox AS x ON x.domain = substr(l.account, instr(l.account, '@') + 1) AND x.open
    WHERE l.expires_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM relay_queue AS q WHERE q.position = (x.inbox << 32) + l.told_number
    )
) WHERE told IS NOT state ORDER BY told_version LIMIT ?"""  # noqa: S608


class SqliteAccountLinks(AccountLinkStore):
    """Needs the readers and the writer of the store that it is a part of."""

    _readers: ReaderPool

    @abc.abstractmethod
    async def _write(self, work: Callable[[Transaction], T]) -> T: ...

    async def declare_link(self, user_id: str, account: str, now: int) -> AccountLink:
        return await self._write(partial(_declare, user_id, account, now))

    async def end_link(self, user_id: str, account: str, now: int, keep_until: int) -> AccountLink | None:
        return await self._write(partial(_end, user_id, account, now, keep_until))

    async def deny_link(self, user_id: str, account: str, now: int, keep_until: int) -> int | None:
        return await self._write(partial(_deny, user_id, account, now, keep_until))

    async def hear_link(
        self, user_id: str, account: str, word: LinkWord, version: int, now: int, keep_until: int
    ) -> HeardLink:
        return await self._write(partial(_hear, user_id, account, word, version, now, keep_until))

    async def account_links(self, user_id: str, now: int) -> tuple[AccountLink, ...]:
        links = await self._readers.run(_links, user_id)
        return tuple(link for link in links if link_at(link, now) is not None)

    async def offsets_to_tell(self, limit: int) -> tuple[OffsetsToTell, ...]:
        return await self._readers.run(_to_tell, limit)

    async def note_told(self, told: OffsetsToTell, version: int, number: int) -> None:
        def work(transaction: Transaction) -> None:
            transaction.connection.execute(
                "UPDATE account_link SET told = ?, told_version = ?, told_number = ? "
                "WHERE user_id = ? AND account = ? AND expires_at IS NULL",
                (told.state, version, number, told.user_id, told.account),
            )

        await self._write(work)

    async def take_offsets(
        self, user_id: str, account: str, version: int, offsets: Sequence[InboxOffset]
    ) -> OffsetsTaken:
        return await self._write(partial(_take, user_id, account, version, offsets))

    async def inbox_offsets(self, user_id: str) -> tuple[InboxOffset, ...]:
        return await self._readers.run(_offsets, user_id)

    async def linked_offsets(self, user_id: str) -> tuple[LinkedOffsets, ...]:
        return await self._readers.run(_linked, user_id)


def forget_links(now: int, transaction: Transaction) -> int:
    """Delete at most a thousand links whose time is over; ``now`` in seconds."""
    return transaction.connection.execute(
        "DELETE FROM account_link WHERE (user_id, account) IN "
        "(SELECT user_id, account FROM account_link WHERE expires_at <= ? LIMIT ?)",
        (now, _STEP_ROWS),
    ).rowcount


def _declare(user_id: str, account: str, now: int, transaction: Transaction) -> AccountLink:
    links = _links(transaction.connection, user_id)
    link = declare(named(links, account), user_id, account, now, LinkCounts.without(account, links, now))
    return _put(transaction.connection, link)


def _end(
    user_id: str, account: str, now: int, keep_until: int, transaction: Transaction
) -> AccountLink | None:
    known = link_at(named(_links(transaction.connection, user_id), account), now)
    return None if known is None else _put(transaction.connection, end(known, now, keep_until))


def _deny(user_id: str, account: str, now: int, keep_until: int, transaction: Transaction) -> int | None:
    known = named(_links(transaction.connection, user_id), account)
    denied = deny(known, user_id, account, now, keep_until)
    if denied is not None and known is not None:
        _put(transaction.connection, denied)
    return None if denied is None else denied.own_version


def _hear(
    user_id: str,
    account: str,
    word: LinkWord,
    version: int,
    now: int,
    keep_until: int,
    transaction: Transaction,
) -> HeardLink:
    links = _links(transaction.connection, user_id)
    others = LinkCounts.without(account, links, now)
    heard = hear(named(links, account), user_id, account, word, version, now, keep_until, others)
    if heard.link is not None:
        _put(transaction.connection, heard.link)
    return heard


def _take(
    user_id: str, account: str, version: int, offsets: Sequence[InboxOffset], transaction: Transaction
) -> OffsetsTaken:
    connection = transaction.connection
    known = connection.execute(
        "SELECT offsets_version FROM account_link WHERE user_id = ? AND account = ? AND expires_at IS NULL",
        (user_id, account),
    ).fetchone()
    if known is None:
        return OffsetsTaken.NOT_LINKED
    if known[0] >= version:
        return OffsetsTaken.OLD
    connection.execute(
        "UPDATE account_link SET offsets_version = ? WHERE user_id = ? AND account = ?",
        (version, user_id, account),
    )
    connection.execute("DELETE FROM linked_offset WHERE user_id = ? AND account = ?", (user_id, account))
    connection.executemany(
        "INSERT INTO linked_offset VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (user_id, account, each.device_id, each.epoch, each.next_number, each.confirmed, each.waiting)
            for each in offsets
        ],
    )
    return OffsetsTaken.TAKEN


def _links(connection: sqlite3.Connection, user_id: str) -> list[AccountLink]:
    """All of the user, those that have ended as well."""
    rows = connection.execute(
        f"SELECT {LINK_COLUMNS} FROM account_link WHERE user_id = ? ORDER BY account",  # noqa: S608 - names of ours
        (user_id,),
    )
    return [AccountLink.of(row) for row in rows]


def _put(connection: sqlite3.Connection, link: AccountLink) -> AccountLink:
    key = link.user_id, link.account
    try:
        connection.execute(
            _PUT,
            attrs.astuple(link),
        )
    except sqlite3.IntegrityError as exc:
        raise StorageError(f"a link of {link.user_id} cannot be stored: {exc}") from exc
    if link.expires_at is not None:
        connection.execute(
            "UPDATE account_link SET told = NULL, told_number = NULL WHERE user_id = ? AND account = ?", key
        )
        connection.execute("DELETE FROM linked_offset WHERE user_id = ? AND account = ?", key)
    return link


def _to_tell(connection: sqlite3.Connection, limit: int) -> tuple[OffsetsToTell, ...]:
    return tuple(
        OffsetsToTell(
            user_id=user_id,
            handle=handle,
            account=account,
            version=version,
            state=state,
            offsets=tuple(InboxOffset.of(row) for row in json.loads(state)),
        )
        for user_id, handle, account, version, state in connection.execute(_TO_TELL, (limit,))
    )


def _offsets(connection: sqlite3.Connection, user_id: str) -> tuple[InboxOffset, ...]:
    return tuple(map(InboxOffset.of, connection.execute(_OFFSETS.format("?"), (user_id,))))


def _linked(connection: sqlite3.Connection, user_id: str) -> tuple[LinkedOffsets, ...]:
    rows = connection.execute(
        "SELECT l.account, l.offsets_version, o.device_id, o.epoch, o.next_number, o.confirmed, o.waiting "
        "FROM account_link AS l LEFT JOIN linked_offset AS o USING (user_id, account) "
        "WHERE l.user_id = ? AND l.expires_at IS NULL AND l.offsets_version > 0 "
        "ORDER BY l.account, o.device_id",
        (user_id,),
    )
    return linked_of(rows)
