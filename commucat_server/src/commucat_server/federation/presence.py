"""Presence of friends on other servers: told at once or never, and only where both servers want that.

A server tells it of users who list the other user as a friend, and shows it to users who list them. Nothing
is stored, nothing is told twice; who comes is told how the others are by their own servers, which it asks to.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NoReturn

import structlog
import trio

from commucat_proto import FrameType, json_text
from commucat_server.federation import problems
from commucat_server.federation.addresses import EVENTS_PATH, event_url, split_address
from commucat_server.federation.client import PeerClient, PeerUnreachableError
from commucat_server.federation.outgoing import EventSigner
from commucat_server.federation.peers import KnownPeer, PeerDirectory
from commucat_server.ops.times import rfc3339
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.presence import MAX_STATE_LEN, PRESENCE_CHANNEL, PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_storage import Storage, StorageError

log = structlog.get_logger("commucat.federation")

KIND: Final = "presence"
GATHER: Final = 0.2
"""Seconds in which changes gather: one event for all that a domain is to be told."""
MAX_WAITING: Final = 10_000
"""Devices whose change may wait; beyond, the oldest news is dropped."""
MAX_ENTRIES: Final = 256
"""Devices of one event."""
MAX_FRIENDS_NAMED: Final = 512
SILENT: Final = 3600.0
"""Seconds for which a server that refuses presence is told none."""
PATIENCE: Final = 5.0
"""Seconds for telling one server; presence that comes late is worth nothing."""
_LATEST: Final = 253_402_300_799


class RemotePresence:
    """One per server that wants it."""

    def __init__(
        self,
        *,
        storage: Storage,
        registry: Registry,
        cluster: Cluster,
        board: PresenceBoard,
        directory: PeerDirectory,
        client: PeerClient,
        signer: EventSigner,
        clock: Callable[[], float],
        ttl: int,
    ) -> None:
        """``ttl``: seconds for which a state is good."""
        self._storage = storage
        self._registry = registry
        self._cluster = cluster
        self._board = board
        self._directory = directory
        self._client = client
        self._signer = signer
        self._clock = clock
        self._ttl = ttl
        self._news: dict[str, tuple[str, bool]] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._silent_until: dict[str, float] = {}

    # -- telling --------------------------------------------------------------------------------------

    def told(self, device_id: str, state: str, newcomer: bool) -> None:
        """A device here has come, gone or changed; a newcomer wants to know how its friends are."""
        before = self._news.pop(device_id, (state, False))
        self._news[device_id] = state, newcomer or before[1]
        if len(self._news) > MAX_WAITING:
            del self._news[next(iter(self._news))]
        self._changed.unpark_all()

    async def run(self) -> NoReturn:
        """Tell other servers; never returns."""
        while True:
            while not self._news:
                await self._changed.park()
            await trio.sleep(GATHER)
            due = dict(islice(self._news.items(), MAX_ENTRIES))
            for device_id in due:
                del self._news[device_id]
            try:
                entries = await self._entries(due)
            except StorageError as exc:
                log.warning("presence not told to other servers", reason=str(exc))
                continue
            # All at once, and all within the same time: one server that hangs holds the next news up, not
            # the others.
            async with trio.open_nursery() as nursery:
                for domain, each in entries.items():
                    nursery.start_soon(self._tell, domain, each)

    async def _entries(self, due: Mapping[str, tuple[str, bool]]) -> dict[str, list[dict[str, Any]]]:
        """What each domain is to be told."""
        found: dict[str, list[dict[str, Any]]] = {}
        for device_id, (state, newcomer) in due.items():
            device = await self._storage.load_device(device_id)
            user = None if device is None else await self._storage.load_user(device.user_id)
            if user is None:
                continue
            friends: dict[str, list[str]] = {}
            for friend in await self._storage.friends_of(user.user_id):
                address = split_address(friend.user_id)
                if address is not None:
                    friends.setdefault(address[1], []).append(address[0])
            for domain, handles in friends.items():
                found.setdefault(domain, []).append(
                    {
                        "device": device_id,
                        "user": user.handle,
                        "state": state,
                        "expires_at": int(self._clock()) + self._ttl,
                        "friends": handles[:MAX_FRIENDS_NAMED],
                        "asks": newcomer,
                    }
                )
        return found

    async def _tell(self, domain: str, entries: Sequence[dict[str, Any]]) -> None:
        peer = self._directory.get(domain)
        if peer is None or trio.current_time() < self._silent_until.get(domain, 0.0):
            return
        payload: dict[str, json_text.JsonValue] = {"type": KIND, "entries": list(entries)}
        body = self._signer.signed(secrets.token_hex(16), payload, domain)
        with trio.move_on_after(PATIENCE):
            try:
                answer = await self._client.post(event_url(peer.endpoint, EVENTS_PATH), body)
            except PeerUnreachableError:
                return
            if answer.status in (400, 404):
                self._silent_until[domain] = trio.current_time() + SILENT

    # -- being told -----------------------------------------------------------------------------------

    async def take(self, peer: KnownPeer, payload: Mapping[str, Any]) -> None:
        """Show users here what another server tells of its own.

        Raises:
            RefusedEventError: it tells something else.
            StorageError: the store failed; nothing more is shown.
        """
        entries = payload.get("entries")
        if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
            raise problems.PAYLOAD.raised()
        for entry in entries:
            match entry:
                case {
                    "device": str(device),
                    "user": str(handle),
                    "state": str(state),
                    "expires_at": int(expires_at),
                    "friends": list(friends),
                } if 0 <= expires_at <= _LATEST and len(friends) <= MAX_FRIENDS_NAMED:
                    address = split_address(f"{device}@{peer.domain}")
                    user = split_address(f"{handle}@{peer.domain}")
                    if address is None or user is None or len(state) > MAX_STATE_LEN:
                        raise problems.PAYLOAD.raised()
                    frame = _frame("@".join(address), "@".join(user), state, expires_at)
                    asks = entry.get("asks") is True
                    for friend in friends:
                        await self._show(str(friend), "@".join(user), frame, asks=asks)
                case _:
                    raise problems.PAYLOAD.raised()

    async def _show(self, handle: str, of_user: str, frame: bytes, *, asks: bool) -> None:
        """Show it to the user with this handle, if that lists the other one."""
        user = None
        if "\0" not in handle:
            user = await self._storage.load_user_by_handle(handle, self._signer.domain)
        if user is None:
            return
        listed = {friend.user_id for friend in await self._storage.friends_of(user.user_id)}
        if of_user not in listed:
            return
        devices = await self._storage.active_devices(user.user_id)
        away: list[str] = []
        for device_id in devices:
            session = self._registry.receiver(device_id)
            if session is None:
                away.append(device_id)
                continue
            session.notice(FrameType.PRESENCE, PRESENCE_CHANNEL, frame)
            state = self._board.here(device_id)
            if asks and state is not None:
                self.told(device_id, state, False)
        elsewhere = await self._cluster.owners_of(away)
        if elsewhere:
            self._cluster.send_live(elsewhere, FrameType.PRESENCE, PRESENCE_CHANNEL, frame)


def _frame(device: str, user: str, state: str, expires_at: int) -> bytes:
    """As presence of a device of this server looks; of the user only the address is known."""
    return json_text.dumps(
        {
            "entity": device,
            "state": state,
            "expires_at": rfc3339(expires_at),
            "user": {
                "id": user,
                "user_id": user,
                "handle": user,
                "display_name": None,
                "avatar_url": None,
            },
        }
    )
