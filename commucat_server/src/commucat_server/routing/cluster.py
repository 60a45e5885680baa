"""This process among the others that share its store.

Each receiving session has an owner, a row in the store with a claim that only rises. What the others
commit for a session here is found in two ways: by a hint, at once, and by a look into the store every
second, which also finds newer claims and revocations. So a lost hint costs time, never a message.
Where nobody shares the store all this has nothing to do.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

import attrs
import structlog
import trio

from commucat_proto import FrameType
from commucat_server.ops.counters import Counters
from commucat_server.routing.hints import (
    CallMedia,
    CallMoved,
    CallRings,
    Claimed,
    Hint,
    HowAre,
    LiveFrame,
    NewPeers,
    NewRows,
    PeerNews,
    decode_hint,
    encode_hint,
)
from commucat_server.routing.live import LiveSession
from commucat_server.routing.registry import RENEWED, REVOKED, Registry
from commucat_storage import ALL_NODES, MISSED, Held, NodeBus, Standing, Storage, StorageError

log = structlog.get_logger("commucat.cluster")

LOOK_INTERVAL = 1.0
"""Seconds between two looks into the store, which are signs of life too."""
RELEASE_INTERVAL = 0.05
"""Seconds in which ends of sessions gather: one statement for all of them."""
HINT_BYTES = 5_500
"""What a hint that names devices may take, so that every bus can carry it."""


class Cluster:
    """One per server."""

    def __init__(self, storage: Storage, bus: NodeBus, registry: Registry, counters: Counters) -> None:
        self._storage = storage
        self._bus = bus
        self._registry = registry
        self._counters = counters
        self._of_peers: Callable[[HowAre | NewPeers], None] | None = None
        self._of_calls: Callable[[CallRings | CallMoved], None] | None = None
        self._of_media: Callable[[CallMedia], None] | None = None
        self._of_federation: Callable[[PeerNews], None] | None = None
        self._released: list[tuple[str, int]] = []
        self._ended = trio.lowlevel.ParkingLot()
        self._look_now = trio.Event()
        self._failing = False
        if storage.shared:
            storage.on_elsewhere(self._committed)

    @property
    def node(self) -> str:
        """The name of this node."""
        return self._bus.node

    @property
    def shared(self) -> bool:
        """Whether there may be other nodes."""
        return self._storage.shared

    def on_peers(self, answer: Callable[[HowAre | NewPeers], None]) -> None:
        """Have ``answer`` called when another node asks how devices are, or says that they have new peers."""
        self._of_peers = answer

    def on_calls(self, told: Callable[[CallRings | CallMoved], None]) -> None:
        """Have ``told`` called with what other nodes say of calls; what this one said may come back."""
        self._of_calls = told

    def on_media(self, told: Callable[[CallMedia], None]) -> None:
        """Have ``told`` called with media of calls that comes from other nodes."""
        self._of_media = told

    def on_federation(self, told: Callable[[PeerNews], None]) -> None:
        """Have ``told`` called with news for the node that carries to other servers."""
        self._of_federation = told

    async def run(self) -> NoReturn:
        """Listen and look; never returns. Cancelled, it gives up what was claimed here."""
        if not self._storage.shared:
            await trio.sleep_forever()
        async with self._bus.hints() as hints, trio.open_nursery() as nursery:
            nursery.start_soon(self._release)
            nursery.start_soon(self._look)
            while True:
                hint = await hints.receive()
                if hint == MISSED:
                    self._look_now.set()
                    continue
                try:
                    self._take(decode_hint(hint))
                except Exception as exc:
                    log.warning("a hint of another node cannot be followed", exc_info=exc)

    # -- from the sessions ----------------------------------------------------------------------------

    def claimed(self, session: LiveSession, displaced: str | None) -> None:
        """A session begins whose claim is in the store; ``displaced`` is the node that had the device."""
        if session.claim and displaced not in (None, self.node):
            self._bus.publish(str(displaced), encode_hint(Claimed(session.device_id, session.claim)))

    def ended(self, session: LiveSession) -> None:
        """A receiving session has ended; its claim is given up soon."""
        if session.claim and not session.displaced:
            self._released.append((session.device_id, session.claim))
            self._ended.unpark_all()

    def send_live(
        self, elsewhere: Mapping[str, str], frame_type: FrameType, channel: int, payload: bytes
    ) -> None:
        """Pass a live frame to devices on other nodes (device to node); it may be dropped on the way."""
        self._counters.live_forwarded += len(elsewhere)
        for node, devices in _by_node(elsewhere).items():
            for portion in _portions(devices, HINT_BYTES - len(payload)):
                self._bus.publish(node, encode_hint(LiveFrame(tuple(portion), frame_type, channel, payload)))

    def send_media(
        self, elsewhere: Mapping[str, str], call_id: str, sender: str, frame_type: FrameType, payload: bytes
    ) -> None:
        """Pass media of a call to devices on other nodes (device to node), once to each node if they fit."""
        self._counters.live_forwarded += len(elsewhere)
        for node, devices in _by_node(elsewhere).items():
            for portion in _portions(devices, HINT_BYTES - len(payload)):
                hint = CallMedia(call_id, sender, self.node, tuple(portion), frame_type, payload)
                self._bus.publish(node, encode_hint(hint))

    def ask_how(self, elsewhere: Mapping[str, str], newcomer: str) -> None:
        """Have the newcomer told how devices on other nodes are."""
        for node, devices in _by_node(elsewhere).items():
            for portion in _portions(devices, HINT_BYTES):
                self._bus.publish(node, encode_hint(HowAre(self.node, newcomer, tuple(portion))))

    def tell_of_peers(self, devices: Sequence[str]) -> None:
        """Tell every node that these devices have new peers."""
        if self._storage.shared:
            for portion in _portions(devices, HINT_BYTES):
                self._bus.publish(ALL_NODES, encode_hint(NewPeers(tuple(portion))))

    def tell_of_call(self, hint: CallRings | CallMoved) -> None:
        """Tell every node what became of a call."""
        if not self._storage.shared:
            return
        if isinstance(hint, CallMoved):
            self._bus.publish(ALL_NODES, encode_hint(hint))
            return
        for portion in _portions(hint.invited, HINT_BYTES - 1024):
            self._bus.publish(ALL_NODES, encode_hint(attrs.evolve(hint, invited=tuple(portion))))

    def tell_of_peer(self, news: PeerNews) -> None:
        """Tell every node: one of them carries to other servers."""
        if self._storage.shared:
            self._bus.publish(ALL_NODES, encode_hint(news))

    async def owners_of(self, devices: Sequence[str]) -> dict[str, str]:
        """Device to node, of those with sessions on other nodes.

        Raises:
            StorageError: the store failed.
        """
        if not devices or not self._storage.shared:
            return {}
        return await self._storage.owners_of(devices)

    # -- hints ----------------------------------------------------------------------------------------

    def _committed(self, elsewhere: Mapping[str, Mapping[str, int]]) -> None:
        for node, heads in elsewhere.items():
            for portion in _portions(heads, HINT_BYTES):
                self._bus.publish(node, encode_hint(NewRows({each: heads[each] for each in portion})))

    def _take(self, hint: Hint | None) -> None:
        match hint:
            case NewRows(heads):
                for device_id, number in heads.items():
                    self._registry.suspect(device_id, number)
            case Claimed(device_id, claim):
                self._displace(device_id, claim)
            case LiveFrame(devices, frame_type, channel, payload):
                for device_id in devices:
                    session = self._registry.receiver(device_id)
                    if session is not None and session.notice(frame_type, channel, payload):
                        self._counters.live_delivered += 1
                    else:
                        self._counters.live_dropped += 1
            case HowAre() | NewPeers():
                if self._of_peers is not None:
                    self._of_peers(hint)
            case CallRings() | CallMoved():
                if self._of_calls is not None:
                    self._of_calls(hint)
            case CallMedia():
                if self._of_media is not None:
                    self._of_media(hint)
            case PeerNews():
                if self._of_federation is not None:
                    self._of_federation(hint)
            case None:
                pass

    def _displace(self, device_id: str, claim: int) -> None:
        if self._registry.displace(device_id, claim):
            self._counters.sessions_displaced += 1

    # -- looks ----------------------------------------------------------------------------------------

    async def _look(self) -> NoReturn:
        while True:
            with trio.move_on_after(LOOK_INTERVAL):
                await self._look_now.wait()
            self._look_now = trio.Event()
            try:
                await self._storage.beat()
                held = [
                    Held(each.device_id, each.claim, each.cursor, each.epoch)
                    for each in self._registry
                    if each.receives and each.farewell is None
                ]
                found = await self._storage.look_after(held)
            except StorageError as exc:
                if not self._failing:
                    log.warning("cannot look into the store", reason=str(exc))
                self._failing = True
                continue
            self._failing = False
            for standing in found:
                self._compare(standing)

    def _compare(self, standing: Standing) -> None:
        device_id = standing.device_id
        if not standing.active:
            self._registry.end_device(device_id, REVOKED)
            return
        self._displace(device_id, standing.claim)
        session = self._registry.receiver(device_id)
        if session is not None and session.claim == standing.claim:
            if session.epoch != standing.epoch:
                session.end(RENEWED)
            session.suspect(standing.head)

    async def _release(self) -> NoReturn:
        try:
            while True:
                while not self._released:
                    await self._ended.park()
                await trio.sleep(RELEASE_INTERVAL)
                await self._release_all()
        finally:
            # The rest goes when the node takes its leave of the store.
            self._released = []

    async def _release_all(self) -> None:
        released, self._released = self._released, []
        try:
            await self._storage.release(released)
        except StorageError as exc:
            # Costs hints that nobody takes, until the device connects again or this node ends.
            log.warning("claims not given up", claims=len(released), reason=str(exc))


def _by_node(elsewhere: Mapping[str, str]) -> dict[str, list[str]]:
    devices: dict[str, list[str]] = {}
    for device_id, node in elsewhere.items():
        devices.setdefault(node, []).append(device_id)
    return devices


def _portions(devices: Iterable[str], size: int) -> Iterator[list[str]]:
    """The devices in portions whose names take at most ``size`` bytes in a hint; one at least in each."""
    portion: list[str] = []
    left = size
    for device_id in devices:
        needed = len(device_id.encode(errors="replace")) + 24
        if portion and needed > left:
            yield portion
            portion, left = [], size
        portion.append(device_id)
        left -= needed
    if portion:
        yield portion
