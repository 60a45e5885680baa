"""Media that waits for one slow receiver: little of it, and never for long.

Media is worth something only while it is new. What has waited too long goes first, then, when there is too
much, video of higher layers, video of lower ones, and sound last; each time the oldest. Video behind a gap
cannot be decoded before the stream's next key frame: it goes with what it follows.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from commucat_proto import FrameTemplate

MEDIA_BYTES: Final = 512 * 1024
"""Bytes of media that wait for one receiver: half a second of eight pictures at 1 Mbit/s."""
STALE_AFTER: Final = 0.4
"""Seconds after which a packet is not worth sending: the receiver's own buffer holds less."""
RANKS: Final = 4
"""Sound, and three layers of video."""
TURN_BYTES: Final = 16 * 1024
"""Bytes of media in one write, and what may wait on its way out for more to follow: a message that comes now
waits behind no more than this, or one picture."""


class Flowing(Protocol):
    """The stream that a packet belongs to, as far as the queue asks."""

    @property
    def gated(self) -> bool:
        """Whether packets build upon each other, from one key frame to the next."""


class MediaPacket:
    """One packet for any number of receivers. ``rank``: 0 for sound, 1 to 3 for the layers of video."""

    __slots__ = ("arrived", "key_frame", "rank", "size", "stream", "template")

    def __init__(
        self,
        template: FrameTemplate,
        size: int,
        stream: Flowing,
        *,
        rank: int,
        key_frame: bool,
        arrived: float,
    ) -> None:
        self.template: Final = template
        self.size: Final = size
        self.stream: Final = stream
        self.rank: Final = rank
        self.key_frame: Final = key_frame
        self.arrived: Final = arrived


Lost = Callable[[Flowing, int, bool], None]
"""Told of a stream, how many of its packets were dropped, and whether what comes before its next key frame is
of no use."""


class _Waiting:
    """A place in the queue. Empty once its packet was dropped for the sake of one before it."""

    __slots__ = ("number", "packet")

    def __init__(self, number: int, packet: MediaPacket) -> None:
        self.number: Final = number
        self.packet: MediaPacket | None = packet


class MediaQueue:
    """Of one receiver. Sound goes before video, and each in the order in which it came.

    However much waits, each call takes as long as what it adds or removes: many who send to many that do not
    read must not keep the server busy.

    Args:
        clock: seconds, the one by which packets have arrived.
        lost: told of what is dropped.
    """

    __slots__ = ("_bytes", "_chains", "_clock", "_count", "_fresh_until", "_length", "_lost", "_ranks")

    def __init__(self, clock: Callable[[], float], lost: Lost) -> None:
        self._clock = clock
        self._lost = lost
        self._ranks: tuple[deque[_Waiting], ...] = tuple(deque() for _ in range(RANKS))
        # Of each stream whose packets build upon each other, what waits.
        self._chains: dict[Flowing, deque[_Waiting]] = {}
        self._bytes = self._length = self._count = 0
        # Nothing that waits is stale before.
        self._fresh_until = 0.0

    def __len__(self) -> int:
        return self._length

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes

    def put(self, packet: MediaPacket) -> bool:
        """Queue a packet; False if that one itself was dropped."""
        self._count += 1
        waiting = _Waiting(self._count, packet)
        self._ranks[packet.rank].append(waiting)
        if packet.stream.gated:
            self._chains.setdefault(packet.stream, deque()).append(waiting)
        self._length += 1
        self._bytes += packet.size
        if self._length == 1:
            self._fresh_until = packet.arrived + STALE_AFTER
        else:
            # What comes from a transcoder arrived before others that are here already.
            self._fresh_until = min(self._fresh_until, packet.arrived + STALE_AFTER)
            if packet.arrived > self._fresh_until:
                self._drop_stale(packet.arrived)
        while self._bytes > MEDIA_BYTES and self._length > 1:
            self._drop(self._least())
        return waiting.packet is not None

    def take(self, limit: int = TURN_BYTES) -> Iterator[FrameTemplate]:
        """Remove what goes out now: packets of at most ``limit`` bytes together, or a single longer one."""
        now = self._clock()
        if now > self._fresh_until:
            self._drop_stale(now)
        first = True
        sound = self._ranks[0]
        while self._length:
            queue = self._first()
            packet = queue[0].packet
            assert packet is not None
            if not first and packet.size > limit:
                return
            if queue is sound:
                # Nothing builds upon it.
                queue.popleft()
                self._length -= 1
                self._bytes -= packet.size
            else:
                self._remove(queue)
            limit -= packet.size
            first = False
            yield packet.template

    def _first(self) -> deque[_Waiting]:
        """Where the packet stands that goes out first; there is one."""
        audio = self._ranks[0]
        if audio and audio[0].packet is not None:
            return audio  # By far the most frequent.
        audio, *video = self._waiting()
        if audio:
            return audio
        return min((queue for queue in video if queue), key=lambda queue: queue[0].number)

    def _least(self) -> deque[_Waiting]:
        """Where the packet stands that is dropped first: the oldest of the highest layer, or sound."""
        return next(queue for queue in reversed(self._waiting()) if queue)

    def _waiting(self) -> tuple[deque[_Waiting], ...]:
        """The queues, each with a packet at its head."""
        for queue in self._ranks:
            while queue and queue[0].packet is None:
                queue.popleft()
        return self._ranks

    def _drop_stale(self, now: float) -> None:
        for queue in self._ranks:
            while queue and ((oldest := queue[0].packet) is None or now - oldest.arrived > STALE_AFTER):
                if oldest is None:
                    queue.popleft()
                else:
                    self._drop(queue)
        oldest_left = min(
            (queue[0].packet.arrived for queue in self._ranks if queue and queue[0].packet is not None),
            default=now,
        )
        self._fresh_until = oldest_left + STALE_AFTER

    def _drop(self, queue: deque[_Waiting]) -> None:
        """Drop the packet at the head, and what cannot be used without it."""
        stream = self._remove(queue).stream
        dropped, chain = 1, self._chains.get(stream)
        # What builds upon another key frame is as good as before.
        while chain and (follower := chain[0].packet) is not None and not follower.key_frame:
            self._forget(chain.popleft())
            dropped += 1
        if chain is not None and not chain:
            del self._chains[stream]
        self._lost(stream, dropped, stream.gated and not chain)

    def _remove(self, queue: deque[_Waiting]) -> MediaPacket:
        """Take the packet at the head out; nothing of its stream waits before it."""
        waiting = queue.popleft()
        packet = self._forget(waiting)
        chain = self._chains.get(packet.stream)
        if chain is not None:
            chain.popleft()
            if not chain:
                del self._chains[packet.stream]
        return packet

    def _forget(self, waiting: _Waiting) -> MediaPacket:
        packet, waiting.packet = waiting.packet, None
        assert packet is not None
        self._length -= 1
        self._bytes -= packet.size
        return packet
