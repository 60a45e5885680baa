"""How much media one device may send, and one call may have."""

import attrs

from commucat_proto.calls import StreamKind


@attrs.frozen(kw_only=True)
class ForwardingLimits:
    """What is beyond is dropped and counted; the session of the sender goes on."""

    streams: int = 8
    """Streams that one device sends in a call at once."""
    audio_packets: int = 200
    """Packets of sound that one device may send in a second: four times those of 20 ms each."""
    audio_bytes: int = 512 * 1024
    """Bytes of sound in a second; raw samples in stereo are 192 kB."""
    video_packets: int = 400
    """Pictures that one device may send in a second, over all layers."""
    video_bytes: int = 4 * 1024 * 1024
    """Bytes of video in a second, over all layers."""


class Allowance:
    """So many units in a second, and as many at once after a silence (a token bucket)."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: int) -> None:
        self._rate = float(rate)
        self._left = self._rate
        self._at = float("-inf")

    def take(self, amount: int, now: float) -> bool:
        """False, and nothing is taken, if there are not so many units left.

        What is larger than a whole second's worth passes when the allowance is full: a single picture may be.
        """
        left = self.refill(now)
        if left < min(amount, self._rate):
            return False
        self._left = left - amount
        return True

    def refill(self, now: float) -> float:
        """Units that are left now; below zero, they are owed."""
        passed = now - self._at
        if passed > 0.0:
            # For each packet, so without calls.
            left = self._left + passed * self._rate
            self._left = left if left < self._rate else self._rate
            self._at = now
        return self._left


class Flow:
    """What one device may send of one kind: packets and bytes."""

    __slots__ = ("_bytes", "_packets")

    def __init__(self, kind: StreamKind, limits: ForwardingLimits) -> None:
        audio = kind is StreamKind.AUDIO
        self._packets = Allowance(limits.audio_packets if audio else limits.video_packets)
        self._bytes = Allowance(limits.audio_bytes if audio else limits.video_bytes)

    def take(self, size: int, now: float) -> bool:
        """Whether a packet of ``size`` bytes may pass."""
        return self._packets.take(1, now) and self._bytes.take(size, now)
