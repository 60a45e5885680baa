"""Friend requests between users of two servers, and their answers.

What is asked is stored here first, then it goes into the outbox of the other domain; a crash between the two
leaves a request that is listed as pending and can be sent again by asking again.
"""

import secrets
from collections.abc import Callable
from typing import Final

from commucat_proto import json_text
from commucat_proto.federation import FriendEvent, FriendEventError, FriendEventKind, parse_instant
from commucat_server.federation import problems
from commucat_server.federation.addresses import split_address
from commucat_server.federation.event_window import EventWindow
from commucat_server.federation.inbound import Inbound
from commucat_server.federation.outgoing import FRIEND_EVENT
from commucat_server.federation.peers import KnownPeer, PeerDirectory
from commucat_server.federation.problems import EventRefusal
from commucat_server.federation.queueing import queue
from commucat_server.ops.times import rfc3339_micros
from commucat_server.routing.friend_notices import FriendNotices
from commucat_server.routing.inbox import Inbox
from commucat_storage import (
    AlreadyExistsError,
    FriendRefusal,
    FriendRefusedError,
    RemoteFriendRequest,
    RequestStatus,
    Storage,
    User,
)

_UNSIGNED: Final = bytes(64)
"""In the outbox; the signature is made when the event is sent."""


class RemoteFriends:
    """One per server."""

    def __init__(
        self,
        *,
        domain: str,
        storage: Storage,
        inbox: Inbox,
        directory: PeerDirectory,
        inbound: Inbound,
        window: EventWindow,
        clock: Callable[[], float],
        notices: FriendNotices,
    ) -> None:
        self._domain = domain
        self._storage = storage
        self._inbox = inbox
        self._directory = directory
        self._inbound = inbound
        self._window = window
        self._clock = clock
        self._notices = notices

    # -- of our users ---------------------------------------------------------------------------------

    def knows(self, domain: str) -> bool:
        """Whether users of this domain can be asked."""
        return self._directory.get(domain) is not None

    async def ask(self, asker: User, address: str, message: str | None) -> RemoteFriendRequest:
        """Ask ``handle@domain`` for our user.

        Raises:
            FriendRefusedError: too many wait for an answer.
            NotQueuedError: try again.
            StorageError: the store failed.
        """
        now = self._micros()
        request = await self._storage.put_remote_request(
            RemoteFriendRequest(
                request_id=secrets.token_hex(32),
                from_address=self._address(asker),
                to_address=address,
                status=RequestStatus.PENDING,
                message=message,
                incoming=False,
                created_at=now,
                updated_at=now,
                user_id=asker.user_id,
            )
        )
        await self._queue(
            FriendEvent(
                kind=FriendEventKind.REQUEST,
                request_id=request.request_id,
                sender=request.from_address,
                recipient=request.to_address,
                timestamp=rfc3339_micros(request.updated_at),
                message=request.message,
                signature=_UNSIGNED,
            )
        )
        return request

    async def answer(self, user: User, request_id: str, *, accept: bool) -> RemoteFriendRequest:
        """Answer a request to our user.

        Raises:
            FriendRefusedError: there is no such request, it was answered otherwise, or the list is full.
            NotQueuedError: it is answered here; answering again tells the other server.
            StorageError: the store failed.
        """
        asked = await self._storage.load_remote_request(request_id)
        if asked is None or not asked.incoming or asked.user_id != user.user_id:
            raise FriendRefusedError(FriendRefusal.NO_REQUEST)
        answered = await self._storage.answer_remote_request(request_id, accept=accept, now=self._micros())
        await self._queue(
            FriendEvent(
                kind=FriendEventKind.RESPONSE,
                request_id=request_id,
                sender=answered.to_address,
                recipient=answered.from_address,
                timestamp=rfc3339_micros(answered.updated_at),
                accept=accept,
                signature=_UNSIGNED,
            )
        )
        return answered

    async def _queue(self, event: FriendEvent) -> None:
        address = split_address(event.recipient)
        assert address is not None, "it was looked at before"
        await queue(
            self._inbox,
            address[1],
            FRIEND_EVENT,
            json_text.dumps(event.to_wire()),
            int(self._clock()) + self._window.lifetime,
            "the request",
        )

    # -- of other servers -----------------------------------------------------------------------------

    async def take(self, body: bytes) -> dict[str, str]:
        """Take the body of a request to ``/federation/friend-request``; what is answered.

        Raises:
            RefusedEventError, RateLimitedError, StorageError: nothing of it is stored.
        """
        if not body:
            raise problems.EMPTY.raised()
        try:
            event = FriendEvent.from_wire(_json(body))
            peer = self._believed(event)
        except FriendEventError as exc:
            raise EventRefusal(400, "BadRequest", str(exc)).raised() from exc
        self._inbound.count(peer.domain)
        self._inbound.heard(peer.domain)
        if event.kind is FriendEventKind.REQUEST:
            await self._requested(event)
        else:
            await self._answered(event)
        return {"status": "accepted", "request_id": event.request_id}

    def _believed(self, event: FriendEvent) -> KnownPeer:
        sender, recipient = split_address(event.sender.strip()), split_address(event.recipient.strip())
        if sender is None:
            raise FriendEventError("'from' must include domain")
        if recipient is None or recipient[1] != self._domain:
            domain = event.recipient.partition("@")[2][:255]
            raise FriendEventError(f"target domain '{domain}' does not match server domain '{self._domain}'")
        peer = self._directory.get(sender[1])
        if peer is None:
            # Not known yet, perhaps: the peer is to try again, which 400 would forbid.
            raise EventRefusal(403, "UnknownPeer", f"unknown peer: {sender[1]}").raised()
        if not any(_is_signed_by(event, key) for key in peer.keys):
            raise EventRefusal(403, "InvalidSignature", "invalid signature").raised()
        if not self._window.takes(parse_instant(event.timestamp.strip()), self._clock()):
            raise problems.CLOCK.raised()
        return peer

    async def _requested(self, event: FriendEvent) -> None:
        user = await self._user(event.recipient)
        now = self._micros()
        wanted = RemoteFriendRequest(
            request_id=event.request_id.strip(),
            from_address=_normal(event.sender),
            to_address=_normal(event.recipient),
            status=RequestStatus.PENDING,
            message=event.message,
            incoming=True,
            created_at=now,
            updated_at=now,
            user_id=user.user_id,
        )
        known = await self._storage.load_remote_request(wanted.request_id)
        try:
            stored = await self._storage.put_remote_request(wanted)
        except AlreadyExistsError as exc:
            raise EventRefusal(409, "Conflict", "another request has this request_id").raised() from exc
        except FriendRefusedError as exc:
            raise EventRefusal(
                409, "Conflict", "the user has too many friend requests to answer"
            ).raised() from exc
        if known is None:
            await self._notices.requested_from_afar(stored, user)

    async def _answered(self, event: FriendEvent) -> None:
        user = await self._user(event.recipient)
        request_id = event.request_id.strip()
        asked = await self._storage.load_remote_request(request_id)
        if (
            asked is None
            or asked.incoming
            or asked.user_id != user.user_id
            or asked.to_address.lower() != _normal(event.sender).lower()
        ):
            raise EventRefusal(404, "NotFound", "friend request not found").raised()
        accept = bool(event.accept)
        try:
            answered = await self._storage.answer_remote_request(
                request_id, accept=accept, now=self._micros()
            )
        except FriendRefusedError as exc:
            raise EventRefusal(409, "Conflict", exc.refusal.value).raised() from exc
        if asked.status is RequestStatus.PENDING:
            await self._notices.answered_from_afar(answered, user)

    async def _user(self, address: str) -> User:
        parts = split_address(address.strip())
        assert parts is not None, "_believed looked"
        user = None
        if "\0" not in parts[0]:
            user = await self._storage.load_user_by_handle(parts[0], self._domain)
        if user is None:
            raise problems.NO_USER.raised()
        return user

    def _address(self, user: User) -> str:
        return f"{user.handle}@{self._domain}"

    def _micros(self) -> int:
        return int(self._clock() * 1_000_000)


def remote_request_document(request: RemoteFriendRequest) -> dict[str, object]:
    """A request as our user sees it."""
    return {
        "id": request.request_id,
        "from": request.from_address,
        "to": request.to_address,
        "status": request.status.value,
        "message": request.message,
        "created_at": rfc3339_micros(request.created_at),
    }


def _json(body: bytes) -> json_text.JsonValue:
    try:
        return json_text.loads(body)
    except json_text.JsonTextError as exc:
        raise FriendEventError("invalid JSON payload") from exc


def _is_signed_by(event: FriendEvent, key: bytes) -> bool:
    try:
        event.verify(key)
    except FriendEventError:
        return False
    return True


def _normal(address: str) -> str:
    parts = split_address(address.strip())
    assert parts is not None, "_believed looked"
    return "@".join(parts)
