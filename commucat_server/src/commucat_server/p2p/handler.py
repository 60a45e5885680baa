"""A ``/p2p`` request from its first byte to the meeting of two peers."""

import math
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import attrs
import structlog
import trio

from commucat_server.connect.answering import answer_refusal, send_problem
from commucat_server.connect.modes import Refusal, open_websocket, websocket_refusal
from commucat_server.connect.relay import WorkerRelay
from commucat_server.identity.tokens import token_hash
from commucat_server.listener import ConnectStream
from commucat_server.ops.counters import Counters, count
from commucat_server.p2p.meetings import Meetings
from commucat_server.p2p.passing import attend_passed, pass_on, worker_of
from commucat_server.p2p.peer import Ending
from commucat_server.p2p.tickets import RelayTickets
from commucat_server.p2p.websocket import WebSocketPeer
from commucat_server.security.clients import ClientAddresses
from commucat_server.security.rate import SharedRateLimit, identity_of
from commucat_storage import DeviceStatus, Storage, StorageError

log = structlog.get_logger("commucat.p2p")

SESSION_ID_TIMEOUT: Final = 10.0
_SESSION_ID: Final = re.compile(r"[A-Za-z0-9_-]{16,96}")
_MAX_QUERY: Final = 1024


@attrs.frozen(kw_only=True)
class RelayAccess:
    """Who may use the relay.

    ``owner_of`` tells whom a connection counts for.
    """

    storage: Storage
    tickets: RelayTickets
    clock: Callable[[], float]
    required: bool
    """Whether everybody has to prove himself."""

    async def owner_of(self, stream: ConnectStream) -> str | None:
        """The tag of the owner of a session token (header) or of a ticket (query); ``None``: neither.

        Raises:
            StorageError: the store is away.
        """
        ticket = parse_qs(stream.query[:_MAX_QUERY]).get("ticket", [""])[0]
        if ticket:
            return self.tickets.owner_of(ticket)
        header = stream.headers.get("authorization", "")
        if not header:
            return None if self.required else self.tickets.tag_of(identity_of(stream.remote_host))
        scheme, _, rest = header.partition(" ")
        token = (rest if scheme.lower() == "bearer" else header).strip()
        session = await self.storage.load_session(token_hash(token))
        if session is None or session.expires_at <= self.clock():
            return None
        device = await self.storage.load_device(session.device_id)
        if device is None or device.status is not DeviceStatus.ACTIVE:
            return None
        return self.tickets.tag_of(device.user_id)


@attrs.define(eq=False, kw_only=True)
class RelayHandler:
    """Serves ``/p2p`` streams; the listener calls it once for each."""

    meetings: Meetings
    access: RelayAccess
    limit: SharedRateLimit
    """Requests of one address."""
    clients: ClientAddresses
    counters: Counters
    relay: WorkerRelay | None
    """To the other workers of this server, if there are any."""

    async def __call__(self, stream: ConnectStream) -> None:
        name = self.clients.header_name
        if name is not None:
            stream.remote_host = self.clients.resolve(stream.remote_host, stream.headers.get(name, ""))
        wait = await self.limit.take(identity_of(stream.remote_host))
        if wait > 0.0:
            self.counters.rate_limited_http += 1
            await send_problem(stream, 429, "Too Many Requests", retry_after=max(1, math.ceil(wait)))
            return
        if stream.http_version == "2":
            refusal: Refusal | None = Refusal(400, "BadRequest", "the relay is for WebSocket over HTTP/1.1")
        else:
            refusal = websocket_refusal(stream)
        if refusal is not None:
            await answer_refusal(stream, refusal)
            return
        try:
            owner = await self.access.owner_of(stream)
        except StorageError:
            await send_problem(stream, 503, "ServiceUnavailable", detail="the store is not available")
            return
        if owner is None:
            detail = "the relay needs a session token, or a ticket of /api/p2p/assist"
            await send_problem(stream, 401, "Unauthorized", detail=detail, authenticate=True)
            return
        await open_websocket(stream)
        peer = WebSocketPeer(stream, self.counters.websocket)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.read)
            nursery.start_soon(peer.keep_alive)
            ending = await self._attend(peer, owner)
            reason = (peer.fault or ending).name.lower()
            count(self.counters.p2p_ends, reason)
            log.debug("relay connection closed", reason=reason)
            await peer.close(ending)
            nursery.cancel_scope.cancel()

    async def _attend(self, peer: WebSocketPeer, owner: str) -> Ending:
        message = None
        with trio.move_on_after(SESSION_ID_TIMEOUT):
            message = await peer.take()
        session_id = "" if message is None else message.data.decode("ascii", "replace").strip()
        if not _SESSION_ID.fullmatch(session_id):
            return Ending.NO_SESSION
        relay = self.relay
        if relay is None or (worker := worker_of(session_id, relay.workers)) == relay.worker:
            return await self.meetings.attend(session_id, peer, owner)
        stream = await relay.open(worker)
        if stream is None:
            return Ending.AWAY
        return await pass_on(stream, session_id, owner, peer)

    async def attend_passed(self, stream: trio.SocketStream, session_id: str, owner: str) -> None:
        """Serve a peer that another worker passes on."""
        await attend_passed(stream, session_id, owner, self.meetings)


async def refuse_disabled(stream: ConnectStream) -> None:
    """Serve ``/p2p`` where the relay is switched off."""
    await send_problem(stream, 404, "Not Found")
