"""What the friends resources take and give."""

from collections.abc import Mapping, Sequence
from typing import Any

from commucat_server.api.problems import ProblemError
from commucat_server.ops.times import rfc3339, rfc3339_micros
from commucat_storage import MAX_FRIENDS, DeviceSnapshot, Friend, FriendRefusal, FriendRequest

MAX_NAME_LEN = 128
"""Characters of a user id or an alias."""
MAX_MESSAGE_LEN = 500
NO_OBJECT = "payload must be a JSON object"
FRIENDS_BODY = 1024 * 1024
"""Bytes of a list of friends: the longest one, in characters of four bytes that are written as escapes."""

REFUSALS = {
    FriendRefusal.REQUEST_PENDING: (409, "friend request already exists"),
    FriendRefusal.NO_REQUEST: (404, "friend request not found"),
    FriendRefusal.NOT_PENDING: (400, "request is not pending"),
    FriendRefusal.TOO_MANY_FRIENDS: (400, "too many friends"),
    FriendRefusal.ASKER_FULL: (400, "the other user has too many friends"),
    FriendRefusal.TOO_MANY_SENT: (409, "too many friend requests are waiting for an answer"),
    FriendRefusal.TOO_MANY_WAITING: (409, "the other user has too many friend requests to answer"),
}
"""Status and detail of the problem that a refusal of the store is."""

# -- what is given -------------------------------------------------------------------------------------


def friends_document(
    friends: Sequence[Friend], devices: Mapping[str, Sequence[DeviceSnapshot]]
) -> dict[str, Any]:
    """The list, and the devices of those of it that list the caller as well."""
    return {
        "friends": [_entry(friend) for friend in friends],
        "devices": {friend.user_id: snapshots(devices.get(friend.user_id, ())) for friend in friends},
    }


def snapshots(devices: Sequence[DeviceSnapshot]) -> list[dict[str, Any]]:
    """What a friend sees of each device."""
    return [_snapshot(device) for device in devices]


def request_document(request: FriendRequest) -> dict[str, Any]:
    """A request as both sides see it."""
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
