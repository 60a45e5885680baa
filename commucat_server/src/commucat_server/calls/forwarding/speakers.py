"""Who is loudest: an order of the devices in a call, from the levels that their packets tell."""

from collections.abc import Iterable
from typing import Final

from commucat_proto.calls import MAX_SPEAKERS

LOUDEST: Final = 127
"""Loudness counts up, from 0, silence: 127 minus the level of RFC 6464."""
SPEAKS_FROM: Final = 67.0
"""Loudness of a voice: levels of -60 dBov and above."""
MARGIN: Final = 6.0
"""So much louder (dB) somebody has to be to take another's place: two who speak stay where they are."""
QUIET_AFTER: Final = 0.6
"""Seconds without a packet after which a device counts as silent: it may have stopped sending in a pause."""
RANK_INTERVAL: Final = 0.2
TELL_INTERVAL: Final = 0.5
"""Seconds between two orders, and between two words about who speaks."""
LOOK_INTERVAL: Final = 0.05
"""Seconds between two looks whether there is such a word."""
_RISE: Final = 0.3
_FALL: Final = 0.05
"""Part of the difference that one packet of 20 ms makes: quick to hear somebody, slow to let them go."""
_COMFORT_NOISE: Final = 11
"""Bytes of data up to which a packet of version 1, which tells no level, is taken for a pause: Opus sends one
or two bytes then, and a little more for the sound of the room."""
_SPEECH_SIZE: Final = 40
"""Bytes of 20 ms of speech at 16 kbit/s."""


def loudness_of_size(size: int) -> float:
    """What the size of a packet's data says where it tells no level."""
    if size <= _COMFORT_NOISE:
        return 0.0
    return min(float(LOUDEST), SPEAKS_FROM + 20.0 * size / _SPEECH_SIZE)


class Speakers:
    """The order, and what of it the participants have been told."""

    __slots__ = ("_loudness", "_next_rank", "_next_word", "_told", "ranking")

    def __init__(self) -> None:
        self._loudness: dict[str, tuple[float, float]] = {}
        self._next_rank = self._next_word = float("-inf")
        self._told: tuple[str, ...] = ()
        self.ranking: tuple[str, ...] = ()
        """Devices that send sound, the loudest first."""

    def hear(self, device_id: str, loudness: float, now: float) -> bool:
        """A packet of this loudness (0 to 127) came. True when the order is another by it."""
        before, _ = self._loudness.get(device_id, (0.0, now))
        rate = _RISE if loudness > before else _FALL
        self._loudness[device_id] = (before + rate * (loudness - before), now)
        if device_id not in self.ranking:
            self.ranking = (*self.ranking, device_id)
            return True
        if now < self._next_rank:
            return False
        self._next_rank = now + RANK_INTERVAL
        return self._rank(now)

    def forget(self, device_id: str) -> None:
        """The device has left."""
        self._loudness.pop(device_id, None)
        self.ranking = tuple(each for each in self.ranking if each != device_id)

    def loudest(self, count: int, others_than: str) -> frozenset[str]:
        """So many at the head of the order, without one device: that which listens."""
        return frozenset([each for each in self.ranking if each != others_than][:count])

    def word(self, now: float) -> tuple[str, ...] | None:
        """Who speaks, if that is to be told now; at most three, the loudest first."""
        if now < self._next_word:
            return None
        speaking = tuple(self._speaking(now))[:MAX_SPEAKERS]
        if speaking == self._told:
            # With each packet of everybody it would be most of what a packet costs here.
            self._next_word = now + LOOK_INTERVAL
            return None
        self._told = speaking
        self._next_word = now + TELL_INTERVAL
        return speaking

    @property
    def told(self) -> tuple[str, ...]:
        """What was told last; for those who came later."""
        return self._told

    def _speaking(self, now: float) -> Iterable[str]:
        return (each for each in self.ranking if self._value(each, now) >= SPEAKS_FROM)

    def _value(self, device_id: str, now: float) -> float:
        loudness, heard = self._loudness[device_id]
        return loudness if now - heard <= QUIET_AFTER else 0.0

    def _rank(self, now: float) -> bool:
        ranking = list(self.ranking)
        # Insertion with a margin: whoever is not clearly louder stays behind.
        for index in range(1, len(ranking)):
            place, value = index, self._value(ranking[index], now)
            while place and value > self._value(ranking[place - 1], now) + MARGIN:
                place -= 1
            if place != index:
                ranking.insert(place, ranking.pop(index))
        changed = tuple(ranking) != self.ranking
        self.ranking = tuple(ranking)
        return changed
