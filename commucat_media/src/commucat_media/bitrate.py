"""How many bits per second a sender should send, from what its receivers and the server report.

Loss-based control as in the congestion control of WebRTC (draft-ietf-rmcat-gcc, section 6): up in small steps
while nearly nothing is lost, down by half of what is lost when much is, and no change between, where the loss
may be a network's own that no lower bitrate would mend. What the server drops for slow receivers is the
clearest sign of all. No clock is read: the time is an argument.
"""

from typing import Final

import attrs

FEW_LOST: Final = 0.02
"""Share of packets lost below which more is tried."""
MANY_LOST: Final = 0.10
"""Share of packets lost above which less is sent."""
RISE: Final = 1.08
CAREFUL_RISE: Final = 1.05
"""The same near the bitrate at which there was trouble last."""
CONGESTED: Final = 0.85
"""What remains of the bitrate when the server had to drop packets."""
STEP_SECONDS: Final = 1.0
"""Seconds from one change to the next: reports about the bitrate before it are still on their way."""
CAREFUL_SECONDS: Final = 4.0
"""The same for rising near the bitrate at which there was trouble last, so that there mostly is none."""
TROUBLE_SECONDS: Final = 60.0
"""Seconds that this bitrate is remembered: networks change."""
REPORT_SECONDS: Final = 5.0
"""Seconds that a receiver's report counts; it sends one about every second."""
MOST_RECEIVERS: Final = 64
"""Receivers whose reports are kept; more devices are in no call."""
_NEAR_TROUBLE: Final = 0.8


@attrs.frozen
class _Report:
    loss: float
    time: float


class BitrateController:
    """The bitrate of one stream, or of all streams that one device sends in a call.

    The receiver that loses most decides. One that is always worse than the others should take a lower layer
    of the video, which the server gives it.
    """

    def __init__(self, *, lowest: int, highest: int, start: int | None = None) -> None:
        """Keep the bitrate from ``lowest`` to ``highest``, in bit/s; begin with ``start``, or the highest.

        Raises:
            ValueError: ``lowest`` is not positive or above ``highest``.
        """
        if not 0 < lowest <= highest:
            raise ValueError(f"bitrates from {lowest} to {highest}")
        self._lowest = lowest
        self._highest = highest
        self._bitrate = float(min(max(start if start is not None else highest, lowest), highest))
        self._reports: dict[str, _Report] = {}
        self._risen = self._fallen = -float("inf")
        self._trouble = 0.0

    @property
    def bitrate(self) -> int:
        """Bits per second to send now."""
        return round(self._bitrate)

    def loss(self, now: float) -> float:
        """Share of packets, 0 to 1, that the receiver loses that loses most; for Opus's error correction."""
        self._forget_old(now)
        return max((report.loss for report in self._reports.values()), default=0.0)

    def report(self, receiver: str, loss: float, now: float) -> int:
        """Take in that a receiver lost this share (0 to 1) of the packets lately; return the bitrate.

        What is no share counts as the nearest one; a peer may report anything.
        """
        # Not a number compares false with everything, and counts as no loss.
        loss = min(loss, 1.0) if loss > 0 else 0.0
        self._forget_old(now)
        if receiver not in self._reports and len(self._reports) >= MOST_RECEIVERS:
            del self._reports[min(self._reports, key=lambda name: self._reports[name].time)]
        self._reports[receiver] = _Report(loss, now)
        worst = max(report.loss for report in self._reports.values())
        if worst > MANY_LOST:
            # Only a report about this very moment can be about the bitrate of now.
            if loss == worst:
                self._fall(1 - worst / 2, now)
        elif worst < FEW_LOST:
            self._rise(now)
        return self.bitrate

    def congested(self, now: float, bitrate: int | None = None) -> int:
        """Take in that packets were dropped for want of room, here or by the server; return the bitrate.

        ``bitrate`` is what the server believes would fit, if it has said so.
        """
        self._fall(CONGESTED, now)
        if bitrate is not None:
            self._set(min(self._bitrate, bitrate))
        return self.bitrate

    def _rise(self, now: float) -> None:
        recent = now - self._fallen < TROUBLE_SECONDS
        careful = recent and self._trouble * _NEAR_TROUBLE < self._bitrate < self._trouble / _NEAR_TROUBLE
        if now - max(self._risen, self._fallen) < (CAREFUL_SECONDS if careful else STEP_SECONDS):
            return
        self._risen = now
        self._set(self._bitrate * (CAREFUL_RISE if careful else RISE))

    def _fall(self, factor: float, now: float) -> None:
        if now - self._fallen < STEP_SECONDS:
            return
        self._fallen = now
        self._trouble = self._bitrate
        self._set(self._bitrate * factor)

    def _set(self, bitrate: float) -> None:
        self._bitrate = min(max(bitrate, self._lowest), self._highest)

    def _forget_old(self, now: float) -> None:
        old = [name for name, report in self._reports.items() if now - report.time > REPORT_SECONDS]
        for name in old:
            del self._reports[name]
