"""How much media a busy server leaves out, so that everything else stays quick."""

from typing import Final

HIGH: Final = 0.05
"""Seconds that the event loop may be late. A message passes it several times until its sender has the Ack."""
LOW: Final = 0.03
SPIKES: Final = 3
"""Looks in a row that must find it late: one long turn, as for a message to thousands, is no overload."""
LOOK_INTERVAL: Final = 0.04
"""Seconds between two looks that count."""
VIDEO_MEMORY: Final = 1.0
"""Seconds after the last picture from which on there is only sound to leave out."""
_MORE: Final = 0.03
_LESS: Final = 0.02
_STEEP: Final = 3.0
"""So many times as much more is left out, at most, where the loop is that many times too late."""
_MOST: Final = 0.95
"""Never all: without media nothing would show that there is room again."""


class Pressure:
    """The part of the media that is dropped before it is passed on, by how late the event loop is.

    Video goes first: only when none of it is left, sound does.
    """

    __slots__ = ("_audio_owed", "_late", "_next_look", "_video_owed", "_video_until", "share")

    def __init__(self) -> None:
        self.share = 0.0
        """0 drops nothing; up to a half more and more video, beyond that all of it and ever more sound. Where
        there is no video it is the part of the sound."""
        self._late = 0
        self._next_look = float("-inf")
        self._video_owed = self._audio_owed = 0.0
        self._video_until = float("-inf")

    def look(self, late: float, now: float) -> None:
        """Something was done ``late`` seconds after it was due."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        self._late = self._late + 1 if late > HIGH else 0
        if self._late >= SPIKES:
            self.share = min(_MOST, self.share + _MORE * min(_STEEP, late / HIGH))
        elif late < LOW:
            self.share = max(0.0, self.share - _LESS)

    def sheds(self, video: bool, now: float) -> bool:
        """Whether this packet is one of those that are left out: an even part of them, not by chance."""
        if video:
            self._video_until = now + VIDEO_MEMORY
        if self.share == 0.0:
            return False
        if video:
            self._video_owed += min(1.0, 2 * self.share)
            shed = self._video_owed >= 1.0
            self._video_owed -= shed
        else:
            beside_video = now < self._video_until
            self._audio_owed += max(0.0, 2 * self.share - 1.0) if beside_video else self.share
            shed = self._audio_owed >= 1.0
            self._audio_owed -= shed
        return shed
