"""One device of a user has answered: the user's others, where the same call rings, are told and ring no
more."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import attrs
import structlog
import trio

from commucat_server.calls.call import Call
from commucat_storage import Storage, StorageError

log = structlog.get_logger("commucat.calls")

MAX_ANSWERS = 1024
"""Answers that may wait for the look at their users' devices; of more, the other devices ring on."""


@attrs.frozen
class Answered:
    """A device has accepted, or declined in the name of its user."""

    call: Call
    device_id: str
    user_id: str
    accepted: bool


class Siblings:
    """Looks up, behind the call frames, which devices are the same user's."""

    def __init__(
        self, storage: Storage, silence: Callable[[Answered, Sequence[str]], Awaitable[None]]
    ) -> None:
        """``silence`` is called with the other devices at which the call rings, if there are any."""
        self._storage = storage
        self._silence = silence
        self._answers: deque[Answered] = deque()
        self._came = trio.lowlevel.ParkingLot()

    def answered(self, answer: Answered) -> None:
        """To be looked at soon; nothing where the call rings nowhere else."""
        if not answer.call.invited:
            return
        if len(self._answers) >= MAX_ANSWERS:
            log.warning("other devices not told of an answer", device=answer.device_id)
            return
        self._answers.append(answer)
        self._came.unpark_all()

    async def run(self) -> NoReturn:
        """Never returns."""
        while True:
            while self._answers:
                await self._look(self._answers.popleft())
            await self._came.park()

    async def _look(self, answer: Answered) -> None:
        try:
            devices = await self._storage.active_devices(answer.user_id)
        except StorageError as exc:
            log.warning("other devices not told of an answer", device=answer.device_id, reason=str(exc))
            return
        others = [each for each in devices if each in answer.call.invited]
        if others:
            await self._silence(answer, others)
