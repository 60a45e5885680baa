"""Networks that lose, delay and reorder packets, and a listener behind one; all in simulated time."""

import heapq
import random
from collections.abc import Callable, Iterable, Iterator

import attrs

from commucat_media.jitter_buffer import JitterBuffer, Playout

FRAME = 0.02


@attrs.frozen(kw_only=True)
class Network:
    """A packet is lost with the probability ``loss``, else it takes ``delay`` plus up to ``jitter`` seconds.

    ``stalls`` are stretches of time in which nothing comes through; what was sent comes at their end.
    """

    loss: float = 0.0
    delay: float = 0.05
    jitter: float = 0.0
    repeats: float = 0.0
    stalls: tuple[tuple[float, float], ...] = ()
    seed: int = 1

    def arrivals(self, sent: Iterable[float]) -> list[tuple[float, int]]:
        """Arrival times of the packets sent at these times, with their index, in the order of arrival."""
        chance = random.Random(self.seed)
        arrived: list[tuple[float, int]] = []
        for index, time in enumerate(sent):
            lost, jitter = chance.random() < self.loss, chance.random() * self.jitter
            again = chance.random() < self.repeats
            if lost:
                continue
            at = time + self.delay + jitter
            for start, end in self.stalls:
                if start <= at < end:
                    at = end
            arrived.append((at, index))
            if again:
                arrived.append((at + 0.001, index))
        return sorted(arrived)


def listen(
    arrivals: Iterable[tuple[float, int]],
    put: Callable[[int, float], object],
    take: Callable[[float], object],
    *,
    frames: int,
    phase: float = 0.003,
) -> Iterator[tuple[float, object]]:
    """Hand packets over as they arrive, and take ``frames`` frames, one every 20 ms, with their times."""
    waiting = list(arrivals)
    heapq.heapify(waiting)
    for frame in range(frames):
        now = frame * FRAME + phase
        while waiting and waiting[0][0] <= now:
            at, index = heapq.heappop(waiting)
            put(index, at)
        yield now, take(now)


@attrs.frozen
class Heard:
    """What a jitter buffer gave: times and frames."""

    playouts: list[tuple[float, Playout]]
    buffer: JitterBuffer

    def kinds(self) -> list[str]:
        return [playout.kind.name for _, playout in self.playouts]

    def indexes(self) -> list[int]:
        return [index_of(playout.data) for _, playout in self.playouts if playout.kind.name == "FRAME"]

    def delays(self) -> list[float]:
        """Seconds between when a frame was sent (one every 20 ms) and when it was played."""
        return [
            now - index_of(playout.data) * FRAME
            for now, playout in self.playouts
            if playout.kind.name == "FRAME"
        ]


def index_of(data: bytes) -> int:
    return int.from_bytes(data, "big")


def played(
    network: Network,
    *,
    frames: int = 500,
    levels: Callable[[int], int] = lambda index: 20,
    first_number: int = 0,
    first_timestamp: int = 0,
    spoken: Callable[[int], bool] = lambda index: True,
) -> Heard:
    """Send a frame every 20 ms (those that are ``spoken``) and play them; a packet's data is its index."""
    sent = [index for index in range(frames) if spoken(index)]
    buffer = JitterBuffer()

    def put(position: int, now: float) -> object:
        index = sent[position]
        return buffer.put(
            number=(first_number + position) % 2**32,
            timestamp=(first_timestamp + index * 960) % 2**32,
            data=index.to_bytes(4, "big"),
            level=levels(index),
            now=now,
        )

    arrivals = network.arrivals(index * FRAME for index in sent)
    playouts = [
        (now, playout)
        for now, playout in listen(arrivals, put, buffer.take, frames=frames + 30)
        if isinstance(playout, Playout)
    ]
    return Heard(playouts, buffer)
