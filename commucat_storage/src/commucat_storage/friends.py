"""Friends of users, and requests to become one: what a store keeps of them, and what it promises."""

import abc
import enum
from collections.abc import Mapping, Sequence

import attrs

from commucat_storage.errors import StorageError
from commucat_storage.records import DeviceStatus

MAX_FRIENDS = 512
"""Users that one list of friends may name."""
MAX_PENDING_REQUESTS = 512
"""Requests of one user that nobody has answered yet; and of those that it has not answered itself."""


@attrs.frozen(kw_only=True)
class Friend:
    """An entry in somebody's list: what one side says. Two users are friends if each lists the other."""

    user_id: str
    """Of a user that may not exist."""
    alias: str | None = None
    """What the owner of the list calls it."""


class RequestStatus(enum.Enum):
    """What has become of a request."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


@attrs.frozen(kw_only=True)
class FriendRequest:
    """One user asks another. There is one for each pair and direction; asking again begins it anew.

    Its times are microseconds: they are the order in which requests are listed.
    """

    request_id: str
    from_user_id: str
    to_user_id: str
    status: RequestStatus = RequestStatus.PENDING
    message: str | None = None
    created_at: int
    updated_at: int


@attrs.frozen(kw_only=True)
class DeviceSnapshot:
    """What friends may know of a device."""

    device_id: str
    public_key: bytes
    status: DeviceStatus
    created_at: int
    last_rotated_at: int | None
    """Of the newest event about its keys."""


class FriendRefusal(enum.Enum):
    """Why nothing was changed."""

    REQUEST_PENDING = "request_pending"
    NO_REQUEST = "no_request"
    NOT_PENDING = "not_pending"
    TOO_MANY_FRIENDS = "too_many_friends"
    """Of the user who accepts."""
    ASKER_FULL = "asker_full"
    """The user who had asked has as many friends as there may be."""
    TOO_MANY_SENT = "too_many_sent"
    TOO_MANY_WAITING = "too_many_waiting"
    """The user who is asked has as many requests to answer as there may be."""


class FriendRefusedError(StorageError):
    """A request was refused, and nothing was written."""

    def __init__(self, refusal: FriendRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class FriendStore(abc.ABC):
    """The part of :class:`Storage` that is about friends.

    Whoever a user lists is no stranger to its devices, from the commit on. Presence is told between users
    of which each lists the other.
    """

    @abc.abstractmethod
    async def friends_of(self, user_id: str) -> tuple[Friend, ...]:
        """The list of the user, in its order."""

    @abc.abstractmethod
    async def replace_friends(self, user_id: str, friends: Sequence[Friend]) -> None:
        """Make this the list of the user. At most :data:`MAX_FRIENDS`, nobody twice.

        Raises:
            ValueError: too many, or somebody twice.
            StorageError: there is no such user.
        """

    @abc.abstractmethod
    async def remove_friend(self, user_id: str, friend_id: str) -> bool:
        """Take one entry out of the list; False if it is not there. The other side's list stays."""

    @abc.abstractmethod
    async def devices_of_friends(
        self, user_id: str, friend_ids: Sequence[str]
    ) -> Mapping[str, tuple[DeviceSnapshot, ...]]:
        """Devices, revoked ones too, of those of ``friend_ids`` that list the user as it lists them.

        Users without a device, and everybody else, have no entry.
        """

    @abc.abstractmethod
    async def active_devices(self, user_id: str) -> tuple[str, ...]:
        """Ids of the user's active devices, ascending."""

    @abc.abstractmethod
    async def request_friend(self, request: FriendRequest) -> FriendRequest:
        """Store a pending request; what is stored: one that was answered before keeps its id and begins
        anew with the new message and time.

        Raises:
            FriendRefusedError: it is pending already, or there are too many.
        """

    @abc.abstractmethod
    async def friend_requests(
        self, user_id: str
    ) -> tuple[tuple[FriendRequest, ...], tuple[FriendRequest, ...]]:
        """Pending requests to the user, and all requests of the user; the newest first."""

    @abc.abstractmethod
    async def answer_friend_request(
        self, from_user_id: str, to_user_id: str, *, accept: bool, now: int
    ) -> FriendRequest:
        """Accept or reject a pending request; ``now`` in microseconds. The request as it is then.

        Accepting puts each into the other's list, in the same transaction, and answers a pending request in
        the other direction with it.

        Raises:
            FriendRefusedError: there is no such request, it was answered, or a list is full.
        """


def check_friends(friends: Sequence[Friend]) -> None:
    """Raises :class:`ValueError` for a list that may not be stored."""
    if len(friends) > MAX_FRIENDS:
        raise ValueError(f"more than {MAX_FRIENDS} friends")
    if len({friend.user_id for friend in friends}) != len(friends):
        raise ValueError("a friend is named twice")
