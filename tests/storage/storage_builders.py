"""Records and operations as the storage tests need them."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from commucat_storage import (
    Admission,
    AdmissionKind,
    CertificateRow,
    ChangeGroup,
    Confirm,
    CreateGroup,
    Device,
    DeviceStatus,
    EnrolmentCode,
    FriendRequest,
    GroupAction,
    GroupOutcome,
    GroupRole,
    InboxRow,
    InboxState,
    InviteMember,
    JoinRoom,
    KeyEvent,
    Operation,
    Outcome,
    Refusal,
    RefusalReason,
    Route,
    Secret,
    SessionRow,
    SetRoute,
    Storage,
    Submission,
    SubmissionOutcome,
    User,
)

NOW = 1_760_000_000
LATER = NOW + 3600


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection holds the write lock, as a disk that does not answer would."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


def key_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def user(name: str, domain: str = "cats.example") -> User:
    return User(user_id=f"user-{name}", handle=name, domain=domain, created_at=NOW)


def device(name: str, owner: str | None = None, status: DeviceStatus = DeviceStatus.ACTIVE) -> Device:
    return Device(
        device_id=name,
        user_id=f"user-{owner or name}",
        public_key=key_of(name),
        status=status,
        created_at=NOW,
    )


def new_user(name: str) -> Admission:
    return Admission(kind=AdmissionKind.NEW_USER, device=device(name), user=user(name), now=NOW)


def second_device(name: str, owner: str) -> Admission:
    """One more device of a user that exists."""
    return Admission(kind=AdmissionKind.BY_HANDLE, device=device(name, owner), device_limit=99, now=NOW)


def known(name: str) -> Admission:
    return Admission(kind=AdmissionKind.KNOWN_DEVICE, device=device(name), now=NOW)


def certificate(serial: int, name: str, issued_at: int = NOW) -> CertificateRow:
    return CertificateRow(
        serial=serial,
        user_id=f"user-{name}",
        device_id=name,
        public_key=key_of(name),
        issuer=key_of("authority"),
        issued_at=issued_at,
        expires_at=issued_at + 100,
        signature=bytes(64),
        source="register",
    )


def key_event(name: str) -> KeyEvent:
    return KeyEvent(event_id=f"event-{name}", device_id=name, public_key=key_of(name), recorded_at=NOW)


def session(token: str, name: str, refreshed_at: int = NOW, ttl_seconds: int = 100) -> SessionRow:
    return SessionRow(
        token_hash=token,
        user_id=f"user-{name}",
        device_id=name,
        created_at=NOW,
        refreshed_at=refreshed_at,
        ttl_seconds=ttl_seconds,
        tls_fingerprint="fp",
    )


def code(text: str, name: str, expires_at: int = LATER) -> EnrolmentCode:
    return EnrolmentCode(
        code_hash=key_of(text), user_id=f"user-{name}", created_at=NOW, expires_at=expires_at
    )


def friend_request(asker: str, asked: str, at: int = NOW * 1_000_000 + 123_456) -> FriendRequest:
    """``at``: microseconds."""
    return FriendRequest(
        request_id=f"{asker}-asks-{asked}",
        from_user_id=asker,
        to_user_id=asked,
        created_at=at,
        updated_at=at,
    )


def secret(
    version: int, name: str = "noise-static", valid_after: int = NOW, expires_at: int = LATER
) -> Secret:
    return Secret(
        name=name,
        version=version,
        secret=b"private",
        public=b"public",
        metadata='{"key":"1"}',
        created_at=NOW,
        valid_after=valid_after,
        rotates_at=valid_after,
        expires_at=expires_at,
    )


def message(
    *recipients: str,
    payload: bytes = b"meow",
    sender: str = "",
    channel: int = 7,
    expires_at: int = LATER,
) -> Submission:
    return Submission(sender, channel, 1, payload, expires_at, recipients)


def asking(reference: bytes, *recipients: str, sender: str = "s", **fields: Any) -> Submission:
    """A message whose sender wants to know what becomes of it."""
    return attrs.evolve(message(*recipients, sender=sender, **fields), report=True, reference=reference)


def by_route(sender: str, channel: int = 7, payload: bytes = b"meow") -> Submission:
    return Submission(sender, channel, 1, payload, LATER, None)


def route(name: str, channel: int, *members: str, relay: bool = False) -> SetRoute:
    return SetRoute(name, channel, Route(members=frozenset(members), relay=relay))


def group_route(name: str, channel: int, group_id: str = "g", *, relay: bool = False) -> SetRoute:
    return SetRoute(name, channel, Route(group_id=group_id, relay=relay))


def join_room(name: str, channel: int, *members: str, relay: bool = False) -> JoinRoom:
    return JoinRoom(name, channel, members, relay, NOW)


def create(
    sender: str, *members: str, group_id: str = "g", channel: int = 7, **roles: GroupRole
) -> CreateGroup:
    """``members`` come in as plain members, ``roles`` with the role given."""
    named = (*((name, GroupRole.MEMBER) for name in members), *roles.items())
    return CreateGroup(sender, channel, group_id, named, True, 10, b"created", LATER, NOW)


def invite(
    sender: str, name: str, role: GroupRole = GroupRole.MEMBER, *, group_id: str = "g", channel: int = 7
) -> InviteMember:
    return InviteMember(sender, channel, group_id, name, role, 11, b"invited", LATER)


def change(
    sender: str,
    action: GroupAction,
    name: str | None = None,
    role: GroupRole | None = None,
    *,
    group_id: str = "g",
    channel: int = 7,
) -> ChangeGroup:
    return ChangeGroup(sender, channel, group_id, action, name or sender, role, 12, b"changed", LATER)


def notified(outcome: Outcome) -> dict[str, int]:
    """Who got the notice of a change that was made."""
    assert isinstance(outcome, GroupOutcome)
    assert outcome.refused is None
    return dict(outcome.notice.accepted)


def not_changed(outcome: Outcome) -> RefusalReason | None:
    assert isinstance(outcome, GroupOutcome)
    return outcome.refused


def refused(outcome: Outcome) -> dict[str, RefusalReason]:
    assert isinstance(outcome, SubmissionOutcome)
    return {each.device_id: each.reason for each in outcome.refused}


def refusal(device_id: str, reason: RefusalReason) -> Refusal:
    return Refusal(device_id=device_id, reason=reason)


def accepted(outcome: Outcome) -> dict[str, int]:
    assert isinstance(outcome, SubmissionOutcome)
    return dict(outcome.accepted)


async def add_devices(storage: Storage, *names: str) -> dict[str, InboxState]:
    """One new user with one device for each name."""
    return {name: (await storage.admit(new_user(name))).inbox for name in names}


async def add_siblings(storage: Storage, owner: str, *names: str) -> None:
    """Further devices of the user of the device ``owner``."""
    for name in names:
        await storage.admit(second_device(name, owner))


async def send(storage: Storage, *operations: Operation) -> tuple[Outcome, ...]:
    return await storage.commit(operations)


async def confirm(storage: Storage, name: str, number: int) -> Outcome:
    state = await storage.inbox_state(name)
    assert state is not None
    [outcome] = await storage.commit([Confirm(name, state.epoch, number)])
    return outcome


async def stored(storage: Storage, name: str, above: int = 0, now: int = NOW) -> tuple[InboxRow, ...]:
    page = await storage.read_after(name, above, limit_rows=1000, limit_bytes=2**30, now=now)
    assert page.complete
    return page.rows


def numbers(rows: Iterable[InboxRow]) -> list[int]:
    return [each.number for each in rows]
