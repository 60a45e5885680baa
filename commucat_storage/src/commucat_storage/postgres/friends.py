"""Friends in PostgreSQL. Whoever changes a list holds the inboxes of its owner's devices, and then the owner.

In this order, which is that of a connect; so of two that change one list the second sees what the first
did, and a device that is added meanwhile is either seen here or waits.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import asyncpg
import attrs

from commucat_storage.errors import StorageError
from commucat_storage.friends import (
    MAX_FRIENDS,
    MAX_PENDING_REQUESTS,
    DeviceSnapshot,
    Friend,
    FriendRefusal,
    FriendRefusedError,
    FriendRequest,
    FriendStore,
    RequestStatus,
    check_friends,
)
from commucat_storage.postgres.connection import Connection, Row
from commucat_storage.records import DeviceStatus

if TYPE_CHECKING:
    from commucat_storage.postgres.pool import Pool

_REQUEST = """id, from_user_id, to_user_id, status, message,
    (extract(epoch FROM created_at) * 1000000)::bigint, (extract(epoch FROM updated_at) * 1000000)::bigint"""
MOMENT = "to_timestamp(0) + ${0}::bigint * interval '1 microsecond'"
_INSERT_REQUEST = f"""
INSERT INTO friend_requests (id, from_user_id, to_user_id, status, message, created_at, updated_at)
VALUES ($1, $2, $3, 'pending', $4, {MOMENT.format(5)}, {MOMENT.format(6)})
ON CONFLICT (from_user_id, to_user_id) DO UPDATE SET status = excluded.status, message = excluded.message,
    created_at = excluded.created_at, updated_at = excluded.updated_at"""  # noqa: S608
_ANSWER = f"""UPDATE friend_requests SET status = $3, updated_at = {MOMENT.format(4)}
WHERE from_user_id = $1 AND to_user_id = $2 AND status = 'pending'"""  # noqa: S608
_DEVICES_OF_FRIENDS = """
SELECT d.user_id, d.opaque_id, d.pubkey, d.status, extract(epoch FROM d.created_at)::bigint,
    (SELECT extract(epoch FROM max(recorded_at))::bigint FROM device_key_event AS e
        WHERE e.device_id = d.opaque_id)
FROM friend AS f
JOIN friend AS back ON back.user_id = f.friend_id AND back.friend_id = f.user_id
JOIN user_device AS d ON d.user_id = f.friend_id
WHERE f.user_id = $1 AND f.friend_id = ANY ($2)
ORDER BY d.created_at, d.opaque_id"""


class PostgresFriends(FriendStore):
    """For the store that has a pool of connections."""

    _pool: "Pool"

    async def friends_of(self, user_id: str) -> tuple[Friend, ...]:
        async def unit(connection: Connection) -> tuple[Friend, ...]:
            rows = await connection.fetch(
                "SELECT friend_id, alias FROM friend WHERE user_id = $1 ORDER BY position, friend_id", user_id
            )
            return tuple(Friend(user_id=friend_id, alias=alias) for friend_id, alias in rows)

        return await self._pool.read(unit)

    async def replace_friends(self, user_id: str, friends: Sequence[Friend]) -> None:
        check_friends(friends)

        async def unit(connection: Connection) -> None:
            await hold(connection, [user_id])
            await connection.execute("DELETE FROM friend WHERE user_id = $1", user_id)
            rows = [(user_id, friend.user_id, friend.alias, place) for place, friend in enumerate(friends, 1)]
            try:
                await connection.executemany("INSERT INTO friend VALUES ($1, $2, $3, $4)", rows)
            except asyncpg.IntegrityConstraintViolationError as exc:
                raise StorageError(f"the list of {user_id} cannot be stored: {exc}") from exc

        await self._pool.write(unit)

    async def remove_friend(self, user_id: str, friend_id: str) -> bool:
        async def unit(connection: Connection) -> bool:
            await hold(connection, [user_id])
            done = await connection.execute(
                "DELETE FROM friend WHERE user_id = $1 AND friend_id = $2", user_id, friend_id
            )
            return done == "DELETE 1"

        return await self._pool.write(unit)

    async def devices_of_friends(
        self, user_id: str, friend_ids: Sequence[str]
    ) -> Mapping[str, tuple[DeviceSnapshot, ...]]:
        # PostgreSQL takes no NUL in a text, and no user has such an id.
        wanted = [each for each in friend_ids if "\0" not in each]
        rows = await self._pool.read(
            lambda connection: connection.fetch(_DEVICES_OF_FRIENDS, user_id, wanted)
        )
        found: dict[str, list[DeviceSnapshot]] = {}
        for owner, device_id, public_key, status, created_at, rotated in rows:
            snapshot = DeviceSnapshot(
                device_id=device_id,
                public_key=public_key,
                status=DeviceStatus(status),
                created_at=created_at,
                last_rotated_at=rotated,
            )
            found.setdefault(owner, []).append(snapshot)
        return {owner: tuple(each) for owner, each in found.items()}

    async def active_devices(self, user_id: str) -> tuple[str, ...]:
        rows = await self._pool.read(
            lambda connection: connection.fetch(
                "SELECT opaque_id FROM user_device WHERE user_id = $1 AND status = 'active'", user_id
            )
        )
        return tuple(sorted(device_id for [device_id] in rows))

    async def request_friend(self, request: FriendRequest) -> FriendRequest:
        return await self._pool.write(lambda connection: _request(connection, request))

    async def friend_requests(
        self, user_id: str
    ) -> tuple[tuple[FriendRequest, ...], tuple[FriendRequest, ...]]:
        async def unit(connection: Connection) -> list[Row]:
            return await connection.fetch(
                f"SELECT {_REQUEST} FROM friend_requests WHERE from_user_id = $1 "  # noqa: S608
                "OR (to_user_id = $1 AND status = 'pending') ORDER BY updated_at DESC, id",
                user_id,
            )

        requests = [_request_of(row) for row in await self._pool.read(unit)]
        incoming = tuple(
            each for each in requests if each.to_user_id == user_id and each.status is RequestStatus.PENDING
        )
        return incoming, tuple(each for each in requests if each.from_user_id == user_id)

    async def answer_friend_request(
        self, from_user_id: str, to_user_id: str, *, accept: bool, now: int
    ) -> FriendRequest:
        return await self._pool.write(
            lambda connection: _answer(connection, from_user_id, to_user_id, accept, now)
        )


async def _request(connection: Connection, request: FriendRequest) -> FriendRequest:
    await lock_users(connection, (request.from_user_id, request.to_user_id))
    known = await _load(connection, request.from_user_id, request.to_user_id)
    if known is not None and known.status is RequestStatus.PENDING:
        raise FriendRefusedError(FriendRefusal.REQUEST_PENDING)
    for column, user_id, refusal in (
        ("from_user_id", request.from_user_id, FriendRefusal.TOO_MANY_SENT),
        ("to_user_id", request.to_user_id, FriendRefusal.TOO_MANY_WAITING),
    ):
        count = await connection.fetchval(
            f"SELECT count(*) FROM friend_requests WHERE {column} = $1 AND status = 'pending'",  # noqa: S608
            user_id,
        )
        if count >= MAX_PENDING_REQUESTS:
            raise FriendRefusedError(refusal)
    if known is not None:
        request = attrs.evolve(request, request_id=known.request_id)
    await connection.execute(
        _INSERT_REQUEST,
        request.request_id,
        request.from_user_id,
        request.to_user_id,
        request.message,
        request.created_at,
        request.updated_at,
    )
    return attrs.evolve(request, status=RequestStatus.PENDING)


async def _answer(
    connection: Connection, from_user_id: str, to_user_id: str, accept: bool, now: int
) -> FriendRequest:
    if accept:
        await hold(connection, [from_user_id, to_user_id])
    else:
        await lock_users(connection, (from_user_id, to_user_id))
    known = await _load(connection, from_user_id, to_user_id)
    if known is None:
        raise FriendRefusedError(FriendRefusal.NO_REQUEST)
    if known.status is not RequestStatus.PENDING:
        raise FriendRefusedError(FriendRefusal.NOT_PENDING)
    status = RequestStatus.ACCEPTED if accept else RequestStatus.REJECTED
    if accept:
        await befriend(connection, to_user_id, from_user_id, FriendRefusal.TOO_MANY_FRIENDS)
        await befriend(connection, from_user_id, to_user_id, FriendRefusal.ASKER_FULL)
        await connection.execute(_ANSWER, to_user_id, from_user_id, status.value, now)
    await connection.execute(_ANSWER, from_user_id, to_user_id, status.value, now)
    return attrs.evolve(known, status=status, updated_at=now)


async def befriend(connection: Connection, user_id: str, friend_id: str, full: FriendRefusal) -> None:
    """Append one entry to the list of the user, which is held, unless it is there; ``full`` is why not."""
    row = await connection.fetchrow(
        "SELECT count(*), coalesce(max(position), 0), coalesce(bool_or(friend_id = $2), false) "
        "FROM friend WHERE user_id = $1",
        user_id,
        friend_id,
    )
    assert row is not None
    count, last, there = row
    if there:
        return
    if count >= MAX_FRIENDS:
        raise FriendRefusedError(full)
    try:
        await connection.execute("INSERT INTO friend VALUES ($1, $2, NULL, $3)", user_id, friend_id, last + 1)
    except asyncpg.IntegrityConstraintViolationError as exc:
        raise StorageError(f"{user_id} cannot have friends: {exc}") from exc


async def hold(connection: Connection, user_ids: Sequence[str]) -> None:
    """Lock the lists of these users, and make everybody forget what is remembered of their devices."""
    held: set[str] = set()
    await _raise_relations(connection, await _devices(connection, user_ids), held)
    await lock_users(connection, user_ids)
    # Those that came between the look and the lock. They are new, so nobody waits for them and holds these.
    await _raise_relations(connection, await _devices(connection, user_ids), held)


async def _devices(connection: Connection, user_ids: Sequence[str]) -> list[str]:
    rows = await connection.fetch(
        "SELECT opaque_id FROM user_device WHERE user_id = ANY ($1)", list(user_ids)
    )
    return [device_id for [device_id] in rows]


async def _raise_relations(connection: Connection, devices: Iterable[str], held: set[str]) -> None:
    wanted = sorted(set(devices) - held)
    held.update(wanted)
    if wanted:
        # Locked in the order of every transaction; an UPDATE alone would lock in the order of its plan.
        await connection.execute(
            "SELECT FROM inbox_offset WHERE entity_id = ANY ($1) ORDER BY entity_id FOR NO KEY UPDATE", wanted
        )
        await connection.execute(
            "UPDATE inbox_offset SET relations = relations + 1 WHERE entity_id = ANY ($1)", wanted
        )


async def lock_users(connection: Connection, user_ids: Iterable[str]) -> None:
    """Keep others from changing what hangs on these users."""
    # FOR UPDATE: a device of the user that is inserted meanwhile waits, as its row refers to this one.
    await connection.execute(
        "SELECT FROM app_user WHERE user_id = ANY ($1) ORDER BY user_id FOR UPDATE", list(user_ids)
    )


async def _load(connection: Connection, from_user_id: str, to_user_id: str) -> FriendRequest | None:
    row = await connection.fetchrow(
        f"SELECT {_REQUEST} FROM friend_requests WHERE from_user_id = $1 AND to_user_id = $2",  # noqa: S608
        from_user_id,
        to_user_id,
    )
    return None if row is None else _request_of(row)


def _request_of(row: Row) -> FriendRequest:
    request_id, from_user_id, to_user_id, status, message, created_at, updated_at = row
    return FriendRequest(
        request_id=request_id,
        from_user_id=from_user_id,
        to_user_id=to_user_id,
        status=RequestStatus(status),
        message=message,
        created_at=created_at,
        updated_at=updated_at,
    )
