"""Media that waits for one slow receiver: little of it, and never for long.

Media is worth something only while it is new. What has waited too long goes first, then, when there is too
much, video of higher layers, video of lower ones, and sound last; each time the oldest. Video behind a gap
cannot be decoded before the stream's next key frame: it goes with what it follows.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from commucat_proto import FrameTemplate

MEDIA_BYTES: Final = 512 * 1024
"""Bytes of media that wait for one receiver: half a second of eight pictures at 1 Mbit/s."""
STALE_AFTER: Final = 0.4
"""Seconds after which a packet is not worth sending: the receiver's own buffer holds less."""
LAYERS: Final = 3
"""Of video."""
TURN_BYTES: Final = 16 * 1024
"""Bytes of media in one write, and what may wait on its way out for more to follow: a message that comes now
waits behind no more than this, or one picture."""


class Flowing(Protocol):
    """The stream that a packet belongs to, as far as the queue asks."""

    @property
    def gated(self) -> bool:
        """Whether packets build upon each other, from one key frame to the next; always the same."""


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
    """A picture's place in the queue. Empty once it was dropped for the sake of one before it."""

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

    __slots__ = (
        "_bytes",
        "_chains",
        "_clock",
        "_count",
        "_fresh_until",
        "_layers",
        "_length",
        "_lost",
        "_sound",
    )

    def __init__(self, clock: Callable[[], float], lost: Lost) -> None:
        self._clock = clock
        self._lost = lost
        # Nothing builds upon sound: its packets need no places of their own.
        self._sound: deque[MediaPacket] = deque()
        self._layers: tuple[deque[_Waiting], ...] = tuple(deque() for _ in range(LAYERS))
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
        waiting: _Waiting | None = None
        if packet.rank:
            self._count += 1
            waiting = _Waiting(self._count, packet)
            self._layers[packet.rank - 1].append(waiting)
            if packet.stream.gated:
                self._chains.setdefault(packet.stream, deque()).append(waiting)
        else:
            self._sound.append(packet)
        arrived = packet.arrived
        stale_at = arrived + STALE_AFTER
        self._length += 1
        self._bytes += packet.size
        if self._length == 1:
            self._fresh_until = stale_at
        else:
            # What comes from a transcoder arrived before others that are here already.
            if stale_at < self._fresh_until:
                self._fresh_until = stale_at
            if arrived > self._fresh_until:
                self._drop_stale(arrived)
        while self._bytes > MEDIA_BYTES and self._length > 1:
            self._drop_least()
        # Sound is dropped for what waits longer than itself, and last.
        return waiting is None or waiting.packet is not None

    def take(self, limit: int = TURN_BYTES) -> list[FrameTemplate]:
        """Remove what goes out now: packets of at most ``limit`` bytes together, or a single longer one."""
        now = self._clock()
        if now > self._fresh_until:
            self._drop_stale(now)
        taken: list[FrameTemplate] = []
        sound = self._sound
        while self._length:
            # By far the most frequent first.
            queue = None if sound else self._first_picture()
            packet = sound[0] if queue is None else queue[0].packet
            assert packet is not None
            if taken and packet.size > limit:
                break
            if queue is None:
                sound.popleft()
                self._length -= 1
                self._bytes -= packet.size
            else:
                self._remove(queue)
            limit -= packet.size
            taken.append(packet.template)
        return taken

    def _first_picture(self) -> deque[_Waiting]:
        """Where the picture stands that goes out first; there is one."""
        return min((queue for queue in self._waiting() if queue), key=lambda queue: queue[0].number)

    def _waiting(self) -> tuple[deque[_Waiting], ...]:
        """The layers, each with a picture at its head."""
        for queue in self._layers:
            while queue and queue[0].packet is None:
                queue.popleft()
        return self._layers

    def _drop_least(self) -> None:
        """Drop the oldest picture of the highest layer, or sound."""
        for queue in reversed(self._waiting()):
            if queue:
                self._drop(queue)
                return
        self._drop_sound()

    def _drop_stale(self, now: float) -> None:
        while self._sound and now - self._sound[0].arrived > STALE_AFTER:
            self._drop_sound()
        for queue in self._layers:
            while queue and ((oldest := queue[0].packet) is None or now - oldest.arrived > STALE_AFTER):
                if oldest is None:
                    queue.popleft()
                else:
                    self._drop(queue)
        heads = [self._sound[0]] if self._sound else []
        heads += [queue[0].packet for queue in self._layers if queue and queue[0].packet is not None]
        self._fresh_until = min((each.arrived for each in heads), default=now) + STALE_AFTER

    def _drop_sound(self) -> None:
        packet = self._sound.popleft()
        self._length -= 1
        self._bytes -= packet.size
        self._lost(packet.stream, 1, False)

    def _drop(self, queue: deque[_Waiting]) -> None:
        """Drop the picture at the head, and what cannot be used without it."""
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
        """Take the picture at the head out; nothing of its stream waits before it."""
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
