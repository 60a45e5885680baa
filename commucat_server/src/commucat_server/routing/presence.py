"""Presence of devices: published at connect, refreshed while the session lives, told to their peers."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NoReturn

import attrs
import structlog
import trio

from commucat_proto import FrameType, json_text
from commucat_server.ops.times import rfc3339
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.hints import HowAre, NewPeers
from commucat_server.routing.registry import Registry
from commucat_storage import Presence, Storage, StorageError
from commucat_storage.bus import NodeBus

log = structlog.get_logger("commucat.presence")

ONLINE = "online"
OFFLINE = "offline"
MAX_STATE_LEN = 64
MAX_PEERS = 1000
"""Devices that are told about one; more would be a broadcast."""
TELL_INTERVAL = 1.0
"""Seconds between two notices about one device; in between only the newest state counts."""
GATHER_INTERVAL = 0.05
"""Seconds that a change waits for others. Each look at the store is a visit to another thread: one for
every arrival and one for every end was a tenth of the cost of a connect."""
MAX_TOLD = 32
"""Devices whose peers are read at once: they may have ``MAX_PEERS`` each."""
PRESENCE_CHANNEL = 0
"""Presence is about a device, not about a conversation."""


@attrs.frozen
class _Here:
    state: str
    user: Mapping[str, Any] | None


@attrs.frozen
class _News:
    here: _Here
    newcomer: bool
    """It is to be told how its peers are, too."""


class PresenceBoard:
    """Writes presence with a lifetime, so that a killed server leaves nobody online for ever."""

    def __init__(
        self,
        storage: Storage,
        registry: Registry,
        cluster: Cluster,
        bus: NodeBus,
        *,
        ttl: int,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._cluster = cluster
        cluster.on_peers(self._answer)
        self._registry = registry
        self._bus = bus
        self._ttl = ttl
        self._clock = clock
        self._here: dict[str, _Here] = {}
        self._news: dict[str, _News] = {}
        self._told: dict[str, float] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self.on_told: Callable[[str, str, bool], None] | None = None
        """Told with whom peers are told of: the device, its state, and whether it is a newcomer."""

    def here(self, device_id: str) -> str | None:
        """The state of a device that has its session here."""
        here = self._here.get(device_id)
        return None if here is None else here.state

    async def arrive(self, device_id: str, user: Mapping[str, Any]) -> None:
        """A session of the device begins to receive; ``user`` is its user's profile as clients see it."""
        await self._set(device_id, _Here(ONLINE, user), newcomer=True)

    async def publish(self, device_id: str, state: str) -> None:
        """The device says how it is; repeated by :meth:`refresh` until it leaves."""
        here = self._here.get(device_id)
        await self._set(device_id, _Here(state, here.user if here else None), newcomer=False)

    async def leave(self, device_id: str) -> None:
        """The device has no session any more."""
        here = self._here.pop(device_id, None)
        self._tell_soon(device_id, _Here(OFFLINE, here.user if here else None), newcomer=False)
        await self._write(device_id, OFFLINE)

    def introduce(self, device_ids: Sequence[str]) -> None:
        """These devices have new peers: tell those how they are, and them how those are, on whatever node."""
        elsewhere = [device_id for device_id in device_ids if not self._introduce(device_id)]
        self._cluster.tell_of_peers(elsewhere)

    def _introduce(self, device_id: str) -> bool:
        here = self._here.get(device_id)
        if here is not None:
            self._tell_soon(device_id, here, newcomer=True)
        return here is not None

    def move(self, device_id: str) -> None:
        """The device has its session on another node now, which tells how it is."""
        self._here.pop(device_id, None)
        self._news.pop(device_id, None)

    async def refresh(self) -> None:
        """Renew the lifetime of everybody who is here."""
        for device_id, here in tuple(self._here.items()):
            await self._write(device_id, here.state)

    async def state_of(self, device_id: str) -> str | None:
        found = await self._storage.read_presence(device_id, int(self._clock()))
        return found.state if found else None

    async def _set(self, device_id: str, here: _Here, *, newcomer: bool) -> None:
        self._here[device_id] = here
        self._bus.note_presence(device_id, here.state, here.user)
        self._tell_soon(device_id, here, newcomer=newcomer)
        await self._write(device_id, here.state)

    async def _write(self, device_id: str, state: str) -> None:
        presence = Presence(device_id=device_id, state=state, expires_at=self._expiry())
        try:
            await self._storage.publish_presence(presence)
        except StorageError as exc:
            # Nobody's session ends because others do not see it; the next refresh tries again.
            log.warning("presence not stored", reason=str(exc))

    def _expiry(self) -> int:
        return int(self._clock()) + max(1, self._ttl)

    # -- telling others ---------------------------------------------------------------------------------

    def _tell_soon(self, device_id: str, here: _Here, *, newcomer: bool) -> None:
        waiting = self._news.get(device_id)
        self._news[device_id] = _News(here, newcomer or (waiting is not None and waiting.newcomer))
        self._changed.unpark_all()

    async def tell_peers(self) -> NoReturn:
        """Tell changes to connected devices that may know of them; one task for all, never returns.

        It falls behind rather than let anybody wait: a state that was overtaken is never told.
        """
        while True:
            if not self._news:
                await self._changed.park()
            if len(self._news) < MAX_TOLD:
                await trio.sleep(GATHER_INTERVAL)
            self._forget_told(trio.current_time() - TELL_INTERVAL)
            due = list(islice((device for device in self._news if device not in self._told), MAX_TOLD))
            if due:
                await self._tell({device_id: self._news.pop(device_id) for device_id in due})
                continue
            if not self._news:
                continue  # who had news has moved to another node meanwhile
            # Everything that waits was told about less than a second ago.
            wake = min(self._told[device_id] for device_id in self._news) + TELL_INTERVAL
            with trio.move_on_at(wake):
                await self._changed.park()

    def _forget_told(self, until: float) -> None:
        while self._told:
            device_id, at = next(iter(self._told.items()))  # the one told longest ago
            if at > until:
                return
            del self._told[device_id]

    async def _tell(self, news: Mapping[str, _News]) -> None:
        self._told.update(dict.fromkeys(news, trio.current_time()))
        try:
            found = await self._storage.peers_of_each(tuple(news), MAX_PEERS)
            away = {peer for peers in found for peer in peers if self._registry.receiver(peer) is None}
            elsewhere = await self._cluster.owners_of(tuple(away))
        except StorageError as exc:
            log.warning("presence not told", reason=str(exc))
            return
        for (device_id, each), peers in zip(news.items(), found, strict=True):
            self._tell_about(device_id, each, peers)
            if self.on_told is not None:
                self.on_told(device_id, each.here.state, each.newcomer)
            self._tell_elsewhere(
                device_id, each, {peer: elsewhere[peer] for peer in peers if peer in elsewhere}
            )

    def _tell_elsewhere(self, device_id: str, news: _News, elsewhere: Mapping[str, str]) -> None:
        if elsewhere:
            payload = self._frame(device_id, news.here)
            self._cluster.send_live(elsewhere, FrameType.PRESENCE, PRESENCE_CHANNEL, payload)
            if news.newcomer:
                self._cluster.ask_how(elsewhere, device_id)

    def _answer(self, asked: HowAre | NewPeers) -> None:
        """Another node wants a newcomer to know how devices are that are here, or these have new peers."""
        if isinstance(asked, NewPeers):
            for device_id in asked.devices:
                self._introduce(device_id)
            return
        for peer in asked.peers:
            here = self._here.get(peer)
            if here is not None:
                payload = self._frame(peer, here)
                newcomer = {asked.device_id: asked.node}
                self._cluster.send_live(newcomer, FrameType.PRESENCE, PRESENCE_CHANNEL, payload)

    def _tell_about(self, device_id: str, news: _News, peers: Sequence[str]) -> None:
        payload = self._frame(device_id, news.here)
        newcomer = self._registry.receiver(device_id) if news.newcomer else None
        for peer in peers:
            session = self._registry.receiver(peer)
            if session is None or peer == device_id:
                continue
            session.notice(FrameType.PRESENCE, PRESENCE_CHANNEL, payload)
            here = self._here.get(peer)
            if newcomer is not None and here is not None:
                newcomer.notice(FrameType.PRESENCE, PRESENCE_CHANNEL, self._frame(peer, here))

    def _frame(self, device_id: str, here: _Here) -> bytes:
        user = dict(here.user) if here.user is not None else None
        return json_text.dumps(
            {
                "entity": device_id,
                "state": here.state,
                "expires_at": rfc3339(self._expiry()),
                "user": user,
            }
        )
