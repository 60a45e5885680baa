"""Friends in the embedded store: every rule is decided in the writer's transaction."""

import abc
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

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
from commucat_storage.records import DeviceStatus

if TYPE_CHECKING:
    from commucat_storage.sqlite.reads import ReaderPool
    from commucat_storage.sqlite.writer import Transaction

T = TypeVar("T")

_REQUEST = "id, from_user_id, to_user_id, status, message, created_at, updated_at"
_DEVICES_OF_FRIENDS = """
SELECT d.user_id, d.device_id, d.public_key, d.status, d.created_at,
    (SELECT max(recorded_at) FROM device_key_event AS e WHERE e.device_id = d.device_id)
FROM json_each(?2) AS wanted
JOIN friend AS f ON f.user_id = ?1 AND f.friend_id = wanted.value
JOIN friend AS back ON back.user_id = f.friend_id AND back.friend_id = f.user_id
JOIN user_device AS d ON d.user_id = f.friend_id
ORDER BY d.created_at, d.device_id"""


class SqliteFriends(FriendStore):
    """For the store that has readers, and a way to do work in the writer's thread."""

    _readers: "ReaderPool"

    @abc.abstractmethod
    async def _write(self, work: "Callable[[Transaction], T]") -> T:
        """What ``work`` returns of the open transaction."""

    async def friends_of(self, user_id: str) -> tuple[Friend, ...]:
        return await self._readers.run(_friends_of, user_id)

    async def replace_friends(self, user_id: str, friends: Sequence[Friend]) -> None:
        check_friends(friends)
        await self._write(lambda transaction: _replace(transaction, user_id, friends))

    async def remove_friend(self, user_id: str, friend_id: str) -> bool:
        return await self._write(lambda transaction: _remove(transaction, user_id, friend_id))

    async def devices_of_friends(
        self, user_id: str, friend_ids: Sequence[str]
    ) -> Mapping[str, tuple[DeviceSnapshot, ...]]:
        return await self._readers.run(_devices_of_friends, user_id, friend_ids)

    async def active_devices(self, user_id: str) -> tuple[str, ...]:
        return await self._readers.run(_active_devices, user_id)

    async def request_friend(self, request: FriendRequest) -> FriendRequest:
        return await self._write(lambda transaction: _request(transaction.connection, request))

    async def friend_requests(
        self, user_id: str
    ) -> tuple[tuple[FriendRequest, ...], tuple[FriendRequest, ...]]:
        return await self._readers.run(_requests, user_id)

    async def answer_friend_request(
        self, from_user_id: str, to_user_id: str, *, accept: bool, now: int
    ) -> FriendRequest:
        return await self._write(
            lambda transaction: _answer(transaction, from_user_id, to_user_id, accept, now)
        )


def _friends_of(connection: sqlite3.Connection, user_id: str) -> tuple[Friend, ...]:
    rows = connection.execute(
        "SELECT friend_id, alias FROM friend WHERE user_id = ? ORDER BY position, friend_id", (user_id,)
    )
    return tuple(Friend(user_id=friend_id, alias=alias) for friend_id, alias in rows)


def _devices_of_friends(
    connection: sqlite3.Connection, user_id: str, friend_ids: Sequence[str]
) -> dict[str, tuple[DeviceSnapshot, ...]]:
    # SQLite cuts a text of JSON at a NUL: such an id, which no user has, would find another's devices.
    wanted = json.dumps([each for each in friend_ids if "\0" not in each])
    found: dict[str, list[DeviceSnapshot]] = {}
    for owner, device_id, public_key, status, created_at, rotated in connection.execute(
        _DEVICES_OF_FRIENDS, (user_id, wanted)
    ):
        snapshot = DeviceSnapshot(
            device_id=device_id,
            public_key=public_key,
            status=DeviceStatus(status),
            created_at=created_at,
            last_rotated_at=rotated,
        )
        found.setdefault(owner, []).append(snapshot)
    return {owner: tuple(each) for owner, each in found.items()}


def _active_devices(connection: sqlite3.Connection, user_id: str) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT device_id FROM user_device WHERE user_id = ? AND status = 'active' ORDER BY device_id",
        (user_id,),
    )
    return tuple(device_id for [device_id] in rows)


def _requests(
    connection: sqlite3.Connection, user_id: str
) -> tuple[tuple[FriendRequest, ...], tuple[FriendRequest, ...]]:
    def found(condition: str) -> tuple[FriendRequest, ...]:
        rows = connection.execute(
            f"SELECT {_REQUEST} FROM friend_requests WHERE {condition} "  # noqa: S608 - texts of ours
            "ORDER BY updated_at DESC, id",
            (user_id,),
        )
        return tuple(map(_request_of, rows))

    return found("to_user_id = ? AND status = 'pending'"), found("from_user_id = ?")


# -- in the writer's transaction ----------------------------------------------------------------------


def _replace(transaction: "Transaction", user_id: str, friends: Sequence[Friend]) -> None:
    connection = transaction.connection
    connection.execute("DELETE FROM friend WHERE user_id = ?", (user_id,))
    try:
        connection.executemany(
            "INSERT INTO friend VALUES (?, ?, ?, ?)",
            [(user_id, friend.user_id, friend.alias, place) for place, friend in enumerate(friends, 1)],
        )
    except sqlite3.IntegrityError as exc:
        raise StorageError(f"the list of {user_id} cannot be stored: {exc}") from exc
    _forget(transaction, user_id)


def _remove(transaction: "Transaction", user_id: str, friend_id: str) -> bool:
    done = transaction.connection.execute(
        "DELETE FROM friend WHERE user_id = ? AND friend_id = ?", (user_id, friend_id)
    )
    _forget(transaction, user_id)
    return done.rowcount == 1


def _request(connection: sqlite3.Connection, request: FriendRequest) -> FriendRequest:
    known = _load(connection, request.from_user_id, request.to_user_id)
    if known is not None and known.status is RequestStatus.PENDING:
        raise FriendRefusedError(FriendRefusal.REQUEST_PENDING)
    for condition, user_id, refusal in (
        ("from_user_id = ?", request.from_user_id, FriendRefusal.TOO_MANY_SENT),
        ("to_user_id = ?", request.to_user_id, FriendRefusal.TOO_MANY_WAITING),
    ):
        [count] = connection.execute(
            f"SELECT count(*) FROM friend_requests WHERE {condition} AND status = 'pending'",  # noqa: S608
            (user_id,),
        ).fetchone()
        if count >= MAX_PENDING_REQUESTS:
            raise FriendRefusedError(refusal)
    if known is not None:
        request = attrs.evolve(request, request_id=known.request_id)
    connection.execute(
        f"INSERT INTO friend_requests ({_REQUEST}) VALUES (?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
        "ON CONFLICT (from_user_id, to_user_id) DO UPDATE SET status = excluded.status, "
        "message = excluded.message, created_at = excluded.created_at, updated_at = excluded.updated_at",
        (
            request.request_id,
            request.from_user_id,
            request.to_user_id,
            RequestStatus.PENDING.value,
            request.message,
            request.created_at,
            request.updated_at,
        ),
    )
    return attrs.evolve(request, status=RequestStatus.PENDING)


def _answer(
    transaction: "Transaction", from_user_id: str, to_user_id: str, accept: bool, now: int
) -> FriendRequest:
    connection = transaction.connection
    known = _load(connection, from_user_id, to_user_id)
    if known is None:
        raise FriendRefusedError(FriendRefusal.NO_REQUEST)
    if known.status is not RequestStatus.PENDING:
        raise FriendRefusedError(FriendRefusal.NOT_PENDING)
    status = RequestStatus.ACCEPTED if accept else RequestStatus.REJECTED
    if accept:
        befriend(transaction, to_user_id, from_user_id, FriendRefusal.TOO_MANY_FRIENDS)
        befriend(transaction, from_user_id, to_user_id, FriendRefusal.ASKER_FULL)
        connection.execute(
            "UPDATE friend_requests SET status = ?, updated_at = ? "
            "WHERE from_user_id = ? AND to_user_id = ? AND status = 'pending'",
            (status.value, now, to_user_id, from_user_id),
        )
    connection.execute(
        "UPDATE friend_requests SET status = ?, updated_at = ? WHERE id = ?",
        (status.value, now, known.request_id),
    )
    return attrs.evolve(known, status=status, updated_at=now)


def befriend(transaction: "Transaction", user_id: str, friend_id: str, full: FriendRefusal) -> None:
    """Append one entry to the list of the user, unless it is there; ``full`` is why not."""
    connection = transaction.connection
    known = connection.execute(
        "SELECT count(*), coalesce(max(position), 0), coalesce(max(friend_id = ?), 0) "
        "FROM friend WHERE user_id = ?",
        (friend_id, user_id),
    )
    count, last, there = known.fetchone()
    if not there:
        if count >= MAX_FRIENDS:
            raise FriendRefusedError(full)
        connection.execute("INSERT INTO friend VALUES (?, ?, NULL, ?)", (user_id, friend_id, last + 1))
        _forget(transaction, user_id)


def _forget(transaction: "Transaction", user_id: str) -> None:
    """What the writer remembers of the user's devices has its friends, too."""
    for [device_id] in transaction.connection.execute(
        "SELECT device_id FROM user_device WHERE user_id = ?", (user_id,)
    ).fetchall():
        transaction.inboxes.forget(device_id)


def _load(connection: sqlite3.Connection, from_user_id: str, to_user_id: str) -> FriendRequest | None:
    row = connection.execute(
        f"SELECT {_REQUEST} FROM friend_requests WHERE from_user_id = ? AND to_user_id = ?",  # noqa: S608
        (from_user_id, to_user_id),
    ).fetchone()
    return None if row is None else _request_of(row)


def _request_of(row: tuple[str, str, str, str, str | None, int, int]) -> FriendRequest:
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
