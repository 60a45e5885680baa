"""What is checked of a batch before the journal takes it."""

from collections.abc import Sequence

from commucat_storage.federation import check_domain, is_device_elsewhere
from commucat_storage.inbox import (
    MAX_INBOX_NUMBER,
    ChangeGroup,
    Confirm,
    CreateGroup,
    DropRoute,
    GroupAction,
    InviteMember,
    JoinRoom,
    Once,
    Operation,
    ReplaceReplica,
    Resolve,
    SetRoute,
    Submission,
)
from commucat_storage.records import GroupRole
from commucat_storage.rooms import is_reserved

MAX_CHANNEL = 2**32 - 1
MAX_FRAME_TYPE = 255
LATEST_EXPIRY = 2**62 - 1
MAX_ONCE_SCOPE = 64
MAX_ONCE_KEY = 512
"""Characters; an index of PostgreSQL takes less than 2,704 bytes."""


def check_batch(batch: Sequence[Operation]) -> tuple[int, int]:
    """Check the ranges; return the rows (recipients) and payload bytes that the batch may store.

    A message that follows its sender's route or goes to a group counts as one row, because its
    recipients are known only when it is stored.

    Raises:
        ValueError: the batch is empty, a number in it is out of range, or fields contradict each other.
    """
    if not batch:
        raise ValueError("an empty batch")
    rows = size = 0
    for operation in batch:
        if isinstance(operation, Submission):
            _check_message(operation.channel, operation.frame_type, operation.expires_at)
            if operation.recipients is None and "@" in operation.sender:
                raise ValueError("a device of another server has no routes here: name its recipients")
            if operation.report and "@" in operation.sender and not operation.sender.isprintable():
                raise ValueError("the sender's id has characters that no id has")
            if operation.once is not None:
                _check_once(operation.once)
            if operation.group_id is not None:
                _check_group_id(operation.group_id)
            elif operation.group_home is not None:
                raise ValueError("the home of no group")
            rows += len(operation.recipients or ()) or 1
            size += len(operation.payload)
        elif isinstance(operation, Confirm):
            if not 0 <= operation.number <= MAX_INBOX_NUMBER:
                raise ValueError(f"inbox number {operation.number} is out of range")
            rows += 1
        elif isinstance(operation, SetRoute | DropRoute | Resolve):
            _check_channel(operation.channel)
            if isinstance(operation, SetRoute):
                _check_route(operation)
            rows += 1
        elif isinstance(operation, JoinRoom):
            _check_channel(operation.channel)
            rows += len(operation.members) + 1
        elif isinstance(operation, CreateGroup | InviteMember | ChangeGroup):
            _check_message(operation.channel, operation.frame_type, operation.expires_at)
            _check_group(operation)
            rows += len(operation.roles) + 1 if isinstance(operation, CreateGroup) else 1
            size += len(operation.notice)
        elif isinstance(operation, ReplaceReplica):
            _check_replica(operation)
            rows += len(operation.members) + 1
        else:
            raise ValueError(f"not an operation: {operation!r}")
    return rows, size


def _check_message(channel: int, frame_type: int, expires_at: int) -> None:
    _check_channel(channel)
    if not 0 <= frame_type <= MAX_FRAME_TYPE:
        raise ValueError(f"frame type {frame_type} is out of range")
    if not 0 <= expires_at <= LATEST_EXPIRY:
        raise ValueError(f"expiry {expires_at} is out of range")


def _check_once(once: Once) -> None:
    if not (0 < len(once.scope) <= MAX_ONCE_SCOPE and 0 < len(once.key) <= MAX_ONCE_KEY):
        raise ValueError("the name of a message that is stored once is empty or too long")
    if "\0" in once.scope + once.key:
        raise ValueError("the name of a message that is stored once has a NUL in it")
    try:
        (once.scope + once.key).encode()
    except UnicodeEncodeError as exc:
        raise ValueError("the name of a message that is stored once is no text") from exc
    if not 0 <= once.expires_at <= LATEST_EXPIRY:
        raise ValueError(f"expiry {once.expires_at} is out of range")


def _check_channel(channel: int) -> None:
    if not 0 <= channel <= MAX_CHANNEL:
        raise ValueError(f"channel {channel} is out of range")


def _check_route(operation: SetRoute) -> None:
    if operation.route.group_id is not None:
        _check_group_id(operation.route.group_id)
        if operation.route.members:
            raise ValueError("a route to a group names no members of its own")


def _check_group(operation: CreateGroup | InviteMember | ChangeGroup) -> None:
    _check_group_id(operation.group_id)
    if not operation.sender:
        raise ValueError("a group is changed by a device")
    if not isinstance(operation, CreateGroup) and operation.once is not None:
        _check_once(operation.once)
    if isinstance(operation, ChangeGroup):
        if (operation.role is not None) != (operation.action is GroupAction.SET_ROLE):
            raise ValueError("a role belongs to a change of role, and to nothing else")
        if operation.action is GroupAction.LEAVE and operation.device_id != operation.sender:
            raise ValueError("a device can only leave by itself")


def _check_replica(operation: ReplaceReplica) -> None:
    _check_group_id(operation.group_id)
    check_domain(operation.home)
    _check_once(operation.once)
    if not 0 <= operation.revision <= LATEST_EXPIRY:
        raise ValueError(f"revision {operation.revision} is out of range")
    if len({device_id for device_id, _ in operation.members}) != len(operation.members):
        raise ValueError("a member is named twice")
    if sum(role is GroupRole.OWNER for _, role in operation.members) > 1:
        raise ValueError("a group has one owner")
    for device_id, _ in operation.members:
        if not device_id.isprintable() or not (is_device_elsewhere(device_id) or "@" not in device_id):
            raise ValueError("a member's name is no id")


def _check_group_id(group_id: str) -> None:
    if not group_id:
        raise ValueError("a group needs an id")
    if is_reserved(group_id):
        raise ValueError("the id of a group begins with a reserved character")
