"""What the friends resources take and give: schemas for readers of the API, and the documents themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from commucat_server.api.problems import ProblemError
from commucat_server.api.users import UserDocument
from commucat_server.ops.times import rfc3339, rfc3339_micros
from commucat_storage import MAX_FRIENDS, DeviceSnapshot, Friend, FriendRequest

MAX_NAME_LEN = 128
"""Characters of a user id or an alias."""
MAX_MESSAGE_LEN = 500
NO_OBJECT = "payload must be a JSON object"
FRIENDS_BODY = 1024 * 1024
"""Bytes of a list of friends: the longest one, in characters of four bytes that are written as escapes."""


@attrs.frozen(kw_only=True)
class FriendEntry:
    """An entry of a list of friends; without ``alias`` if there is none."""

    user_id: str
    alias: str | None = None


@attrs.frozen(kw_only=True)
class FriendsPutRequest:
    """A whole list of friends, which replaces the one before."""

    friends: list[FriendEntry]


@attrs.frozen(kw_only=True)
class FriendDeviceSnapshot:
    """A friend's device."""

    device_id: str
    public_key: str
    """Hexadecimal."""
    status: str
    created_at: str
    last_rotated_at: str | None = None


@attrs.frozen(kw_only=True)
class FriendsResponse:
    """The list, and the devices of those of it that list the caller as well."""

    friends: list[FriendEntry]
    devices: dict[str, list[FriendDeviceSnapshot]]


@attrs.frozen(kw_only=True)
class FriendDevicesResponse:
    """One friend's devices; none unless the friend lists the caller as well."""

    friend: str
    devices: list[FriendDeviceSnapshot]


@attrs.frozen(kw_only=True)
class FriendRequestCreate:
    """The optional body of a request."""

    message: str | None = None


@attrs.frozen(kw_only=True)
class FriendRequestDocument:
    """A request: ``pending``, ``accepted`` or ``rejected``."""

    id: str
    from_user_id: str
    to_user_id: str
    status: str
    message: str | None
    created_at: str
    updated_at: str


@attrs.frozen(kw_only=True)
class FriendRequestsListResponse:
    """Requests to the caller that wait for an answer, and all of the caller's own; newest first."""

    incoming: list[FriendRequestDocument]
    outgoing: list[FriendRequestDocument]


@attrs.frozen(kw_only=True)
class FriendRequestSent:
    """A request, and whom it went to."""

    request: FriendRequestDocument
    to_user: UserDocument


@attrs.frozen(kw_only=True)
class FriendRequestAnswered:
    """A request, and whom it came from."""

    request: FriendRequestDocument
    from_user: UserDocument


# -- what is given -------------------------------------------------------------------------------------


def friends_document(
    friends: Sequence[Friend], devices: Mapping[str, Sequence[DeviceSnapshot]]
) -> dict[str, Any]:
    """The members of :class:`FriendsResponse`."""
    return {
        "friends": [_entry(friend) for friend in friends],
        "devices": {friend.user_id: snapshots(devices.get(friend.user_id, ())) for friend in friends},
    }


def snapshots(devices: Sequence[DeviceSnapshot]) -> list[dict[str, Any]]:
    """The members of :class:`FriendDeviceSnapshot`, for each."""
    return [_snapshot(device) for device in devices]


def request_document(request: FriendRequest) -> dict[str, Any]:
    """The members of :class:`FriendRequestDocument`."""
    return {
        "id": request.request_id,
        "from_user_id": request.from_user_id,
        "to_user_id": request.to_user_id,
        "status": request.status.value,
        "message": request.message,
        "created_at": rfc3339_micros(request.created_at),
        "updated_at": rfc3339_micros(request.updated_at),
    }


def _entry(friend: Friend) -> dict[str, str]:
    entry = {"user_id": friend.user_id}
    return entry if friend.alias is None else entry | {"alias": friend.alias}


def _snapshot(device: DeviceSnapshot) -> dict[str, Any]:
    document = {
        "device_id": device.device_id,
        "public_key": device.public_key.hex(),
        "status": device.status.value,
        "created_at": rfc3339(device.created_at),
    }
    if device.last_rotated_at is not None:
        document["last_rotated_at"] = rfc3339(device.last_rotated_at)
    return document


# -- what is taken -------------------------------------------------------------------------------------


def friends_of_document(document: Mapping[str, Any]) -> list[Friend]:
    """The list that a client wants to have.

    Raises:
        ProblemError: 400, saying what is wrong.
    """
    if "friends" not in document:
        raise ProblemError(400, '"friends" field is required')
    entries = document["friends"]
    if not isinstance(entries, list):
        raise ProblemError(400, '"friends" must be an array')
    if len(entries) > MAX_FRIENDS:
        raise ProblemError(400, "too many friends")
    friends: dict[str, Friend] = {}
    for entry in entries:
        friend = _friend_of(entry)
        if friend.user_id in friends:
            raise ProblemError(400, f"duplicate friend user_id: {friend.user_id}")
        friends[friend.user_id] = friend
    return list(friends.values())


def _friend_of(entry: object) -> Friend:
    if not isinstance(entry, dict):
        raise ProblemError(400, "friend entry must be a JSON object")
    # The terminal client of 2025 writes both as null when it has none.
    if entry.get("handle") is not None:
        raise ProblemError(400, "friend entry must specify user_id; handle is not supported")
    for name in entry:
        if name not in ("user_id", "alias", "handle"):
            raise ProblemError(400, f"unexpected field in friend entry: {name[:MAX_NAME_LEN]}")
    if "user_id" not in entry:
        raise ProblemError(400, "friend.user_id is required")
    user_id, alias = entry["user_id"], entry.get("alias")
    if not isinstance(user_id, str) or not user_id.strip():
        raise ProblemError(400, "friend.user_id must be a non-empty string")
    if alias is not None and not isinstance(alias, str):
        raise ProblemError(400, "friend.alias must be a string if present")
    alias = alias.strip() if alias is not None else ""
    return Friend(
        user_id=_checked(user_id.strip(), "friend.user_id"),
        alias=_checked(alias, "friend.alias") if alias else None,
    )


def _checked(text: str, name: str) -> str:
    if len(text) > MAX_NAME_LEN:
        raise ProblemError(400, f"{name} is too long (max {MAX_NAME_LEN} characters)")
    if any(ord(character) < 32 or character == "\x7f" for character in text):
        raise ProblemError(400, f"{name} must not hold control characters")
    return text


def message_of_document(document: Mapping[str, Any]) -> str | None:
    """The words that go with a request.

    Raises:
        ProblemError: 400, saying what is wrong.
    """
    message = document.get("message")
    if message is None:
        return None
    if not isinstance(message, str):
        raise ProblemError(400, "message must be a string if present")
    if len(message) > MAX_MESSAGE_LEN:
        raise ProblemError(400, f"message is too long (max {MAX_MESSAGE_LEN} characters)")
    if "\0" in message:
        raise ProblemError(400, "message must not hold control characters")
    return message
