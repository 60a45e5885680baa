"""How many frames a device, and all devices of a user together, may send to others. Off unless configured."""

from collections.abc import Callable

from commucat_proto import FrameType
from commucat_server.security.rate import RateLimit

COUNTED = frozenset(
    {
        FrameType.JOIN,
        FrameType.MSG,
        FrameType.TYPING,
        FrameType.PRESENCE,
        FrameType.KEY_UPDATE,
        FrameType.GROUP_CREATE,
        FrameType.GROUP_INVITE,
        FrameType.GROUP_EVENT,
        FrameType.CALL_OFFER,
    }
)
"""Frames that the limits count. A client's Acks make room, the frames of a call that began belong to it, and
ends are always welcome."""


class MessageLimits:
    """Counts in this process only: a session is served by one, and a message must not wait for another."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._device: RateLimit | None = None
        self._user: RateLimit | None = None
        self.active = False
        """Whether anything is limited at all; read once for each batch of frames."""

    def configure(self, *, device: tuple[int, float] | None, user: tuple[int, float] | None) -> None:
        """Set the numbers: frames at once, and the seconds in which so many come back; None for no limit."""
        self._device = self._changed(self._device, device)
        self._user = self._changed(self._user, user)
        self.active = self._device is not None or self._user is not None

    def take(self, device_id: str, user_id: str) -> float:
        """Count one frame. 0.0 if it may be sent, otherwise the seconds until one may."""
        wait = 0.0 if self._device is None else self._device.take(device_id)
        if wait == 0.0 and self._user is not None:
            wait = self._user.take(user_id)
            if wait > 0.0 and self._device is not None:
                self._device.give_back(device_id)
        return wait

    def _changed(self, limit: RateLimit | None, numbers: tuple[int, float] | None) -> RateLimit | None:
        if numbers is None:
            return None
        burst, period = numbers
        if limit is None:
            return RateLimit(burst=burst, period=period, clock=self._clock)
        limit.configure(burst=burst, period=period)
        return limit
