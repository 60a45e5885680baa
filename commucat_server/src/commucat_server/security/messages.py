"""How many frames a device, and all devices of a user together, may send to others. Off unless configured."""

from collections.abc import Callable
from typing import Final

import trio

from commucat_proto import FrameType
from commucat_server.security.rate import RateLimit
from commucat_storage.buckets import Buckets

EXCHANGE_INTERVAL: Final = 0.5
"""Seconds between two exchanges with the other processes."""

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


class _SharedCount:
    """A limit of this process, and what it let through since the others were told."""

    def __init__(self, scope: str, limit: RateLimit) -> None:
        self.limit = limit
        self._scope = scope
        self._spent: dict[str, int] = {}

    def took(self, identity: str) -> None:
        self._spent[identity] = self._spent.get(identity, 0) + 1

    async def exchange(self, buckets: Buckets) -> None:
        spent, self._spent = self._spent, {}
        if not spent:
            return
        left = await buckets.spend(self._scope, spent, burst=self.limit.burst, period=self.limit.period)
        for identity, tokens in (left or {}).items():
            # What was taken while the answer was on its way is not in it.
            self.limit.lower(identity, tokens - self._spent.get(identity, 0))


class MessageLimits:
    """Decides in this process, without waiting: a message must not wait for another one.

    With ``buckets`` the processes of a cluster tell each other twice a second what they let through, and
    whoever has sent too much everywhere together waits here too. In the time between, each of them may let
    through a burst of its own; while nobody answers for the cluster each counts by itself.
    """

    def __init__(self, clock: Callable[[], float], buckets: Buckets | None = None) -> None:
        self._clock = clock
        self._buckets = buckets
        self._device: _SharedCount | None = None
        self._user: _SharedCount | None = None
        self.active = False
        """Whether anything is limited at all; read once for each batch of frames."""

    def configure(self, *, device: tuple[int, float] | None, user: tuple[int, float] | None) -> None:
        """Set the numbers: frames at once, and the seconds in which so many come back; None for no limit."""
        self._device = self._changed("message", self._device, device)
        self._user = self._changed("user_message", self._user, user)
        self.active = self._device is not None or self._user is not None

    def take(self, device_id: str, user_id: str) -> float:
        """Count one frame. 0.0 if it may be sent, otherwise the seconds until one may."""
        device, user = self._device, self._user
        wait = 0.0 if device is None else device.limit.take(device_id)
        if wait == 0.0 and user is not None:
            wait = user.limit.take(user_id)
            if wait > 0.0 and device is not None:
                device.limit.give_back(device_id)
        if wait == 0.0 and self._buckets is not None:
            if device is not None:
                device.took(device_id)
            if user is not None:
                user.took(user_id)
        return wait

    async def run(self) -> None:
        """Exchange with the other processes until cancelled; returns at once when there are none."""
        while self._buckets is not None:
            await trio.sleep(EXCHANGE_INTERVAL)
            await self.exchange()

    async def exchange(self) -> None:
        """Tell the other processes what was let through here, and count what they did."""
        if self._buckets is None:
            return
        for count in (self._device, self._user):
            if count is not None:
                await count.exchange(self._buckets)

    def _changed(
        self, scope: str, count: _SharedCount | None, numbers: tuple[int, float] | None
    ) -> _SharedCount | None:
        if numbers is None:
            return None
        burst, period = numbers
        if count is None:
            return _SharedCount(scope, RateLimit(burst=burst, period=period, clock=self._clock))
        count.limit.configure(burst=burst, period=period)
        return count
