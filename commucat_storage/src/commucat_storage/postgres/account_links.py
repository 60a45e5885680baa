"""Linked accounts in PostgreSQL: every rule is decided in a transaction that has the user's row locked."""

import json
from collections.abc import Sequence
from functools import partial

import asyncpg
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
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.friends import lock_users
from commucat_storage.postgres.pool import Pool

_STEP_ROWS = 1_000
_PUT = f"""INSERT INTO account_link ({LINK_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (user_id, account) DO UPDATE SET declared = excluded.declared, heard = excluded.heard,
    own_version = excluded.own_version, heard_version = excluded.heard_version,
    created_at = excluded.created_at, expires_at = excluded.expires_at"""  # noqa: S608 - names of ours
_OFFSETS = """SELECT d.opaque_id, o.epoch, o.next_number, o.confirmed, o.rows
FROM user_device AS d JOIN inbox_offset AS o ON o.entity_id = d.opaque_id
WHERE d.user_id = {} AND d.status = 'active' ORDER BY d.opaque_id"""
# The state is a text, so that one comparison in the database finds what has changed.
_TO_TELL = f"""
SELECT user_id, handle, account, told_version, state FROM (
    SELECT l.user_id, u.handle, l.account, l.told, l.told_version, coalesce((
        SELECT json_agg(json_build_array(s.opaque_id, s.epoch, s.next_number, s.confirmed, s.rows)
            ORDER BY s.opaque_id)::text
        FROM ({_OFFSETS.format("l.user_id")} LIMIT {MAX_LINKED_DEVICES}) AS s
    ), '[]') AS state
    FROM account_link AS l JOIN app_user AS u ON u.user_id = l.user_id
    JOIN outbox AS x ON x.domain = split_part(l.account, '@', 2) AND x.open
    JOIN inbox_offset AS w ON w.entity_id = '@' || x.domain
    WHERE l.expires_at IS NULL AND NOT EXISTS (
        SELECT FROM relay_queue AS q WHERE q.position = (w.inbox << 32) + l.told_number
    )
) AS found WHERE told IS DISTINCT FROM state ORDER BY told_version LIMIT $1"""  # noqa: S608


class PostgresAccountLinks(AccountLinkStore):
    """Needs the pool of the store that it is a part of."""

    _pool: Pool

    async def declare_link(self, user_id: str, account: str, now: int) -> AccountLink:
        return await self._pool.write(partial(_declare, user_id=user_id, account=account, now=now))

    async def end_link(self, user_id: str, account: str, now: int, keep_until: int) -> AccountLink | None:
        return await self._pool.write(
            partial(_end, user_id=user_id, account=account, now=now, keep_until=keep_until)
        )

    async def deny_link(self, user_id: str, account: str, now: int, keep_until: int) -> int | None:
        return await self._pool.write(
            partial(_deny, user_id=user_id, account=account, now=now, keep_until=keep_until)
        )

    async def hear_link(
        self, user_id: str, account: str, word: LinkWord, version: int, now: int, keep_until: int
    ) -> HeardLink:
        return await self._pool.write(
            partial(
                _hear,
                user_id=user_id,
                account=account,
                word=word,
                version=version,
                now=now,
                keep_until=keep_until,
            )
        )

    async def account_links(self, user_id: str, now: int) -> tuple[AccountLink, ...]:
        links = await self._pool.read(partial(_links, user_id=user_id))
        return tuple(link for link in links if link_at(link, now) is not None)

    async def offsets_to_tell(self, limit: int) -> tuple[OffsetsToTell, ...]:
        return await self._pool.read(partial(_to_tell, limit=limit))

    async def note_told(self, told: OffsetsToTell, version: int, number: int) -> None:
        await self._pool.write(partial(_note_told, told=told, version=version, number=number))

    async def take_offsets(
        self, user_id: str, account: str, version: int, offsets: Sequence[InboxOffset]
    ) -> OffsetsTaken:
        return await self._pool.write(
            partial(_take, user_id=user_id, account=account, version=version, offsets=offsets)
        )

    async def inbox_offsets(self, user_id: str) -> tuple[InboxOffset, ...]:
        return await self._pool.read(partial(_offsets, user_id=user_id))

    async def linked_offsets(self, user_id: str) -> tuple[LinkedOffsets, ...]:
        return await self._pool.read(partial(_linked, user_id=user_id))


async def forget_links(connection: Connection, now: int) -> int:
    """Delete at most a thousand links whose time is over; one statement, that may be done twice."""
    done = await connection.execute(
        "DELETE FROM account_link WHERE (user_id, account) IN "
        "(SELECT user_id, account FROM account_link WHERE expires_at <= $1 LIMIT $2)",
        now,
        _STEP_ROWS,
    )
    return int(done.rpartition(" ")[2])


async def _declare(connection: Connection, user_id: str, account: str, now: int) -> AccountLink:
    links = await _locked(connection, user_id)
    others = LinkCounts.without(account, links, now)
    return await _put(connection, declare(named(links, account), user_id, account, now, others))


async def _end(
    connection: Connection, user_id: str, account: str, now: int, keep_until: int
) -> AccountLink | None:
    known = link_at(named(await _locked(connection, user_id), account), now)
    return None if known is None else await _put(connection, end(known, now, keep_until))


async def _deny(connection: Connection, user_id: str, account: str, now: int, keep_until: int) -> int | None:
    known = named(await _locked(connection, user_id), account)
    denied = deny(known, user_id, account, now, keep_until)
    if denied is not None and known is not None:
        await _put(connection, denied)
    return None if denied is None else denied.own_version


async def _hear(
    connection: Connection,
    user_id: str,
    account: str,
    word: LinkWord,
    version: int,
    now: int,
    keep_until: int,
) -> HeardLink:
    links = await _locked(connection, user_id)
    others = LinkCounts.without(account, links, now)
    heard = hear(named(links, account), user_id, account, word, version, now, keep_until, others)
    if heard.link is not None:
        await _put(connection, heard.link)
    return heard


async def _note_told(connection: Connection, told: OffsetsToTell, version: int, number: int) -> None:
    await connection.execute(
        "UPDATE account_link SET told = $1, told_version = $2, told_number = $3 "
        "WHERE user_id = $4 AND account = $5 AND expires_at IS NULL",
        told.state,
        version,
        number,
        told.user_id,
        told.account,
    )


async def _take(
    connection: Connection, user_id: str, account: str, version: int, offsets: Sequence[InboxOffset]
) -> OffsetsTaken:
    known = await connection.fetchval(
        "SELECT offsets_version FROM account_link "
        "WHERE user_id = $1 AND account = $2 AND expires_at IS NULL FOR UPDATE",
        user_id,
        account,
    )
    if known is None:
        return OffsetsTaken.NOT_LINKED
    if known >= version:
        return OffsetsTaken.OLD
    await connection.execute(
        "UPDATE account_link SET offsets_version = $3 WHERE user_id = $1 AND account = $2",
        user_id,
        account,
        version,
    )
    await connection.execute(
        "DELETE FROM linked_offset WHERE user_id = $1 AND account = $2", user_id, account
    )
    await connection.executemany(
        "INSERT INTO linked_offset VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (user_id, account, each.device_id, each.epoch, each.next_number, each.confirmed, each.waiting)
            for each in offsets
        ],
    )
    return OffsetsTaken.TAKEN


async def _locked(connection: Connection, user_id: str) -> list[AccountLink]:
    """All of the user, of which nobody else changes one meanwhile."""
    await lock_users(connection, [user_id])
    return await _links(connection, user_id)


async def _links(connection: Connection, user_id: str) -> list[AccountLink]:
    """All of the user, those that have ended as well."""
    rows = await connection.fetch(
        f"SELECT {LINK_COLUMNS} FROM account_link WHERE user_id = $1",  # noqa: S608 - names of ours
        user_id,
    )
    links = [AccountLink.of(row) for row in rows]
    # Not by the database's collation.
    return sorted(links, key=lambda link: link.account)


async def _put(connection: Connection, link: AccountLink) -> AccountLink:
    key = link.user_id, link.account
    try:
        await connection.execute(
            _PUT,
            *attrs.astuple(link),
        )
    except asyncpg.IntegrityConstraintViolationError as exc:
        raise StorageError(f"a link of {link.user_id} cannot be stored: {exc}") from exc
    if link.expires_at is not None:
        await connection.execute(
            "UPDATE account_link SET told = NULL, told_number = NULL WHERE user_id = $1 AND account = $2",
            *key,
        )
        await connection.execute("DELETE FROM linked_offset WHERE user_id = $1 AND account = $2", *key)
    return link


async def _to_tell(connection: Connection, limit: int) -> tuple[OffsetsToTell, ...]:
    return tuple(
        OffsetsToTell(
            user_id=row[0],
            handle=row[1],
            account=row[2],
            version=row[3],
            state=row[4],
            offsets=tuple(map(InboxOffset.of, json.loads(row[4]))),
        )
        for row in await connection.fetch(_TO_TELL, limit)
    )


async def _offsets(connection: Connection, user_id: str) -> tuple[InboxOffset, ...]:
    rows = await connection.fetch(_OFFSETS.format("$1"), user_id)
    return tuple(sorted(map(InboxOffset.of, rows), key=lambda offset: offset.device_id))


async def _linked(connection: Connection, user_id: str) -> tuple[LinkedOffsets, ...]:
    rows = await connection.fetch(
        "SELECT l.account, l.offsets_version, o.device_id, o.epoch, o.next_number, o.confirmed, o.waiting "
        "FROM account_link AS l LEFT JOIN linked_offset AS o USING (user_id, account) "
        "WHERE l.user_id = $1 AND l.expires_at IS NULL AND l.offsets_version > 0",
        user_id,
    )
    return linked_of(sorted(rows, key=lambda row: (row[0], row[2] or "")))
