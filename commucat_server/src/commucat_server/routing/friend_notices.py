"""Tells users that somebody wants to be their friend, and what others have answered.

The notice is an ordinary durable frame of the server to each device of the user, committed before the
request is answered; between the two commits a crash can lose a notice, never the request, which stays listed.
"""

from collections.abc import Callable
from typing import Any

import structlog
import trio

from commucat_proto import FrameType, json_text
from commucat_server.ops.times import rfc3339_micros
from commucat_server.routing.inbox import Inbox
from commucat_storage import (
    CommitFailedError,
    FriendRequest,
    Outcome,
    RemoteFriendRequest,
    RequestStatus,
    Storage,
    Submission,
    User,
)

log = structlog.get_logger("commucat.friends")

REQUEST = "friend_request"
RESPONSE = "friend_response"


class FriendNotices:
    """One per server."""

    def __init__(
        self,
        inbox: Inbox,
        storage: Storage,
        *,
        domain: str,
        channel: int,
        lifetime: int,
        clock: Callable[[], float],
    ) -> None:
        """``channel``: of the frames. ``lifetime``: seconds that they wait for a device."""
        self._inbox = inbox
        self._storage = storage
        self._domain = domain
        self._channel = channel
        self._lifetime = lifetime
        self._clock = clock

    async def requested(self, request: FriendRequest, asker: User, asked: User) -> None:
        """Tell the devices of ``asked``; returns when the notices are on disk."""
        notice: dict[str, Any] = {
            "type": REQUEST,
            "request_id": request.request_id,
            "from": self._address(asker),
            "from_user_id": asker.user_id,
            "user_id": asked.user_id,
            "federated": False,
            "timestamp": rfc3339_micros(request.updated_at),
            # The receiver's own, as servers of this protocol have it.
            "handle": asked.handle,
        }
        optional = {
            "display_name": asked.display_name,
            "avatar_url": asked.avatar_url,
            "message": request.message,
        }
        await self._tell(asked, notice | {key: value for key, value in optional.items() if value is not None})

    async def answered(self, request: FriendRequest, asker: User, asked: User) -> None:
        """Tell the devices of ``asker``; returns when the notices are on disk."""
        notice: dict[str, Any] = {
            "type": RESPONSE,
            "request_id": request.request_id,
            "from": self._address(asked),
            "from_user_id": asked.user_id,
            "to": self._address(asker),
            "user_id": asker.user_id,
            "accept": request.status is RequestStatus.ACCEPTED,
            "federated": False,
            "timestamp": rfc3339_micros(request.updated_at),
        }
        await self._tell(asker, notice)

    async def requested_from_afar(self, request: RemoteFriendRequest, asked: User) -> None:
        """Tell the devices of ``asked`` of a request from another server; returns when it is on disk."""
        notice: dict[str, Any] = {
            "type": REQUEST,
            "request_id": request.request_id,
            "from": request.from_address,
            "user_id": asked.user_id,
            "federated": True,
            "timestamp": rfc3339_micros(request.updated_at),
            # The receiver's own, as servers of this protocol have it.
            "handle": asked.handle,
        }
        optional = {
            "display_name": asked.display_name,
            "avatar_url": asked.avatar_url,
            "message": request.message,
        }
        await self._tell(asked, notice | {key: value for key, value in optional.items() if value is not None})

    async def answered_from_afar(self, request: RemoteFriendRequest, asker: User) -> None:
        """Tell the devices of ``asker`` what a user of another server has answered; likewise."""
        notice: dict[str, Any] = {
            "type": RESPONSE,
            "request_id": request.request_id,
            "from": request.to_address,
            "to": request.from_address,
            "user_id": asker.user_id,
            "accept": request.status is RequestStatus.ACCEPTED,
            "federated": True,
            "timestamp": rfc3339_micros(request.updated_at),
        }
        await self._tell(asker, notice)

    def _address(self, user: User) -> str:
        return f"{user.handle}@{self._domain}"

    async def _tell(self, user: User, notice: dict[str, Any]) -> None:
        expires_at = int(self._clock()) + self._lifetime
        batch = [
            Submission(
                "",
                self._channel,
                FrameType.GROUP_EVENT,
                json_text.dumps(notice | {"target_device": device_id}),
                expires_at,
                (device_id,),
            )
            for device_id in await self._storage.active_devices(user.user_id)
        ]
        if not batch:
            return
        told = trio.Event()

        def answer(result: tuple[Outcome, ...] | CommitFailedError) -> None:
            if isinstance(result, CommitFailedError):
                log.warning("a friend notice was not stored", reason=str(result))
            told.set()

        await self._inbox.submit(batch, answer)
        self._inbox.hurry()
        await told.wait()
