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
TURN_BYTES: Final = 16 * 1024
"""Bytes of media in one write, and what may wait on its way out for more to follow: a message that comes now
waits behind no more than this, or one picture."""


class Flowing(Protocol):
    """The stream that a packet belongs to, as far as the queue asks."""

    @property
    def gated(self) -> bool:
        """Whether packets build upon each other, from one key frame to the next."""


class MediaPacket:
    """One packet for any number of receivers. ``rank``: 0 for sound, 1 and more for the layers of video."""

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


class MediaQueue:
    """Of one receiver. Sound goes before video, and each in the order in which it came.

    Args:
        clock: seconds, the one by which packets have arrived.
        lost: told of what is dropped.
    """

    __slots__ = ("_audio", "_bytes", "_clock", "_lost", "_video")

    def __init__(self, clock: Callable[[], float], lost: Lost) -> None:
        self._clock = clock
        self._lost = lost
        self._audio: deque[MediaPacket] = deque()
        self._video: deque[MediaPacket] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._audio) + len(self._video)

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes

    def put(self, packet: MediaPacket) -> bool:
        """Queue a packet; False if that one itself was dropped."""
        queue = self._video if packet.rank else self._audio
        queue.append(packet)
        self._bytes += packet.size
        self._drop_stale(packet.arrived)
        while self._bytes > MEDIA_BYTES and len(self) > 1:
            self._drop(self._least())
        return bool(queue) and queue[-1] is packet

    def take(self, limit: int = TURN_BYTES) -> Iterator[FrameTemplate]:
        """Remove what goes out now: packets of at most ``limit`` bytes together, or a single longer one."""
        self._drop_stale(self._clock())
        first = True
        for queue in (self._audio, self._video):
            while queue and (first or queue[0].size <= limit):
                packet = queue.popleft()
                self._bytes -= packet.size
                limit -= packet.size
                first = False
                yield packet.template
            if queue:
                return

    def _drop_stale(self, now: float) -> None:
        for queue in (self._audio, self._video):
            while queue and now - queue[0].arrived > STALE_AFTER:
                self._drop(queue[0])

    def _least(self) -> MediaPacket:
        """What is dropped first: the oldest of the highest layer."""
        return max(self._video, key=lambda each: each.rank) if self._video else self._audio[0]

    def _drop(self, packet: MediaPacket) -> None:
        """Drop a packet and what cannot be used without it."""
        queue = self._video if packet.rank else self._audio
        dropped, kept = 0, []
        # What waits before it, or builds upon another key frame, is as good as before.
        found, broken = False, packet.stream.gated
        for each in queue:
            follows = found and each.stream is packet.stream
            if follows and each.key_frame:
                broken = False
            if each is packet or (follows and broken):
                found = True
                dropped += 1
                self._bytes -= each.size
            else:
                kept.append(each)
        queue.clear()
        queue.extend(kept)
        self._lost(packet.stream, dropped, broken)
