"""The jitter buffer: puts packets in order and says, every frame, what to play.

It never waits and never reads a clock: :meth:`JitterBuffer.put` is called when a packet arrives,
:meth:`JitterBuffer.take` once for every frame that the listener hears, both with the time.

The *playhead* is the timestamp of the frame that is played next. Where it should be follows from the clock
and from :class:`~commucat_media.playout_delay.PlayoutDelay`. It moves on with each frame played, and

- stays where it is while nothing is there to play: what is late is then played late, instead of never;
- skips what is missing once the frames after that are due;
- is held for a frame when packets need more time than before, and skips one when they need less, in quiet
  moments if there are any: a frame too many or too few is hardly heard in a pause.

What is missing is lost if a number is missing as well; otherwise the sender was silent (DTX). Only a lost
frame is worth error correction, which the packet after it carries.
"""

import enum
import math
from typing import Final

import attrs

from commucat_media.errors import MediaFormatError
from commucat_media.packet import AUDIO_TICKS, U32_MASK, AudioCodec
from commucat_media.playout_delay import PlayoutDelay
from commucat_media.reception import Reception, ReceptionReport

LONGEST_DATA: Final = 16_384
"""Bytes that one packet may have here: a frame of raw stereo sound of 60 ms has 11,520."""
CLOCK_BREAK: Final = 2.0
"""Seconds by which a packet may be early or late against the others, or the sender's clock is another one."""
QUIET_LEVEL: Final = 50
"""From this level on (in -dBov) a frame may be repeated or left out without being missed."""
LOUD_CHANGE_FRAMES: Final = 25
"""Frames between two changes of the delay that are made although somebody speaks."""
SILENT_AFTER_FRAMES: Final = 50
"""Frames with nothing there after which nothing more is made up: with DTX a packet comes every 400 ms."""


class Arrival(enum.Enum):
    """What became of a packet that was put in."""

    KEPT = enum.auto()
    REPEATED = enum.auto()
    """Its number came before, or is far from all others."""
    LATE = enum.auto()
    """Its time to be played is over."""


class PlayoutKind(enum.Enum):
    """What the listener hears next."""

    FRAME = enum.auto()
    """Decode ``data``."""
    RECOVER = enum.auto()
    """One frame is lost: decode it from the error correction in ``data``, the packet after it."""
    CONCEAL = enum.auto()
    """Nothing is there: let the decoder make something up."""
    SILENCE = enum.auto()
    """Nothing has been there for long, or not yet: no decoder is needed."""


@attrs.frozen(kw_only=True)
class Playout:
    """One frame to play. ``skipped`` is to be decoded before, and not heard: the decoder's state needs it."""

    kind: PlayoutKind
    codec: AudioCodec = AudioCodec.OPUS
    data: bytes = attrs.field(default=b"", repr=False)
    skipped: "Playout | None" = None


_CONCEAL: Final = Playout(kind=PlayoutKind.CONCEAL)
_SILENCE: Final = Playout(kind=PlayoutKind.SILENCE)


@attrs.frozen
class _Waiting:
    number: int
    level: int
    codec: AudioCodec
    data: bytes = attrs.field(repr=False)

    def played(self, kind: PlayoutKind, skipped: Playout | None = None) -> Playout:
        return Playout(kind=kind, codec=self.codec, data=self.data, skipped=skipped)


@attrs.define
class PlayoutCounts:
    """What was played since the beginning, in frames, and what came in vain, in packets."""

    frames: int = 0
    recovered: int = 0
    concealed: int = 0
    skipped: int = 0
    late: int = 0
    repeated: int = 0
    overflowed: int = 0
    """Packets thrown away because too many waited."""


class JitterBuffer:
    """Packets of one stream of sound, on their way from the network to the decoder."""

    def __init__(
        self,
        *,
        frame_ticks: int = 960,
        ticks_per_second: int = AUDIO_TICKS,
        first_delay: float = 0.06,
        longest_delay: float = 0.4,
    ) -> None:
        """Every packet lasts ``frame_ticks``. The delay starts with ``first_delay`` and follows the network.

        Raises:
            ValueError: ``longest_delay`` has no room for two frames.
        """
        self._frame = frame_ticks
        self._ticks = ticks_per_second
        self._frame_seconds = frame_ticks / ticks_per_second
        if longest_delay < 2 * self._frame_seconds:
            raise ValueError(f"a longest delay of {longest_delay} s has no room for two frames")
        self._delay = PlayoutDelay(first=first_delay, shortest=self._frame_seconds, longest=longest_delay)
        # Twice the longest delay: a burst after a pause of the network fits, a flood does not.
        self._capacity = 2 * math.ceil(longest_delay / self._frame_seconds)
        self._reception = Reception(ticks_per_second)
        self._waiting: dict[int, _Waiting] = {}
        self._playhead: int | None = None
        self._last_number: int | None = None
        self._empty_frames = 0
        self._frames_since_change = 0
        self._next_unnumbered = (0, 0, -math.inf)
        self.counts = PlayoutCounts()

    def __len__(self) -> int:
        """Packets that wait."""
        return len(self._waiting)

    @property
    def target_delay(self) -> float:
        """Seconds that a packet waits here at best."""
        return self._delay.target(self._spare)

    def report(self) -> ReceptionReport:
        """What arrived since the report before; for CallStats."""
        return self._reception.report()

    def put(
        self,
        *,
        number: int,
        timestamp: int,
        data: bytes,
        now: float,
        level: int = 0,
        codec: AudioCodec = AudioCodec.OPUS,
    ) -> Arrival:
        """Take in a packet as it arrives, ``number`` and ``timestamp`` with 32 bits.

        Raises:
            MediaFormatError: its data are longer than :data:`LONGEST_DATA`.
        """
        if len(data) > LONGEST_DATA:
            raise MediaFormatError(f"{len(data)} bytes of sound in a packet; at most {LONGEST_DATA}")
        placed = self._reception.place(number, timestamp)
        if placed is None:
            self.counts.repeated += 1
            return Arrival.REPEATED
        full_number, full_timestamp = placed
        transit = now - full_timestamp / self._ticks
        if abs(self._delay.lateness(transit)) > CLOCK_BREAK:
            self._start_anew()
        self._reception.measure(full_timestamp, now)
        self._delay.measure(transit)
        if self._playhead is not None and full_timestamp < self._playhead:
            self.counts.late += 1
            return Arrival.LATE
        if full_timestamp in self._waiting:
            self.counts.repeated += 1
            return Arrival.REPEATED
        self._waiting[full_timestamp] = _Waiting(full_number, level, codec, data)
        if len(self._waiting) > self._capacity:
            # The oldest goes: who listens wants to hear what is said now.
            oldest = min(self._waiting)
            del self._waiting[oldest]
            self.counts.overflowed += 1
            if oldest == full_timestamp:
                return Arrival.LATE
        return Arrival.KEPT

    def put_unnumbered(self, data: bytes, now: float, *, codec: AudioCodec = AudioCodec.OPUS) -> Arrival:
        """Take in a packet of version 1, which has no number: it is the one after the packet before.

        A pause of more than three frames counts as silence, not as delay.
        """
        number, timestamp, last = self._next_unnumbered
        pause = now - last
        if not self._waiting and 3 * self._frame_seconds < pause < math.inf:
            timestamp += (math.floor(pause / self._frame_seconds) - 1) * self._frame
        self._next_unnumbered = ((number + 1) & U32_MASK, (timestamp + self._frame) & U32_MASK, now)
        return self.put(number=number, timestamp=timestamp & U32_MASK, data=data, now=now, codec=codec)

    def take(self, now: float) -> Playout:
        """Return what to play for the next frame. To be called once for the length of a frame."""
        due = self._due(now)
        if not self._waiting:
            return self._nothing_there()
        first = min(self._waiting)
        if self._playhead is None:
            if due < first:
                return _SILENCE
            self._playhead = first
        self._frames_since_change += 1
        gap = first - self._playhead
        if gap >= self._frame and due < first:
            return self._in_gap(first, gap, due)
        self._empty_frames = 0
        behind = due - first
        # A playhead far behind, after the network has stood still: what is too old is not worth hearing.
        if behind > self._longest:
            self._drop_before(due)
            if not self._waiting:
                self._playhead = due
                return self._nothing_there()
            first = min(self._waiting)
            behind = due - first
        if behind <= -self._frame and self._may_change(first):
            self.counts.concealed += 1
            return _CONCEAL
        skipped = None
        following = first + self._frame
        if behind >= 2 * self._frame and following in self._waiting and self._may_change(first):
            skipped = self._pull(first).played(PlayoutKind.FRAME)
            self.counts.skipped += 1
            first = following
        self.counts.frames += 1
        return self._pull(first).played(PlayoutKind.FRAME, skipped)

    @property
    def _longest(self) -> int:
        return round(self._delay.longest * self._ticks)

    @property
    def _spare(self) -> float:
        # Error correction for a frame is in the packet after it: with losses that one must be awaited.
        return self._frame_seconds if self._reception.missing else 0.0

    def _due(self, now: float) -> int:
        return math.floor(self._delay.due(now, self._spare) * self._ticks)

    def _nothing_there(self) -> Playout:
        if self._playhead is None or self._empty_frames >= SILENT_AFTER_FRAMES:
            return _SILENCE
        self._empty_frames += 1
        self.counts.concealed += 1
        return _CONCEAL

    def _in_gap(self, first: int, gap: int, due: int) -> Playout:
        """What comes next is not due yet, and something before it is missing or was never sent."""
        assert self._playhead is not None
        lost = self._last_number is not None and self._waiting[first].number != self._last_number + 1
        if not lost:
            # Silence: the pause ends when the clock says so, whatever the delay was before it.
            self._playhead = min(max(self._playhead, due), first)
            return self._nothing_there()
        self._playhead += self._frame
        if gap < 2 * self._frame:
            self.counts.recovered += 1
            return self._waiting[first].played(PlayoutKind.RECOVER)
        self.counts.concealed += 1
        return _CONCEAL

    def _may_change(self, first: int) -> bool:
        """Whether the delay may change by a frame now; if so it is taken for changed."""
        quiet = self._waiting[first].level >= QUIET_LEVEL
        if not quiet and self._frames_since_change < LOUD_CHANGE_FRAMES:
            return False
        self._frames_since_change = 0
        return True

    def _pull(self, timestamp: int) -> _Waiting:
        packet = self._waiting.pop(timestamp)
        self._playhead = timestamp + self._frame
        self._last_number = packet.number
        return packet

    def _drop_before(self, timestamp: int) -> None:
        for old in [waiting for waiting in self._waiting if waiting < timestamp]:
            del self._waiting[old]
            self.counts.skipped += 1

    def _start_anew(self) -> None:
        """The sender's clock is another one now: what waits belongs to the old one."""
        self._delay.forget()
        self._waiting.clear()
        self._playhead = None
        self._last_number = None
