"""What only a look from time to time can tell: how late the event loop is, and how long it was stopped."""

import gc
import time
from collections.abc import Mapping
from typing import Literal

import trio

from commucat_storage import Timings

LAG_INTERVAL = 0.5
GENERATIONS = 3


class LoopLag:
    """How much later than it asked for a task is woken: what everybody else waits, too."""

    def __init__(self) -> None:
        self.timings = Timings()

    async def run(self) -> None:
        """Look twice a second; never returns."""
        while True:
            due = trio.current_time() + LAG_INTERVAL
            await trio.sleep_until(due)
            self.timings.note(trio.current_time() - due)


class CollectorPauses:
    """How long the garbage collector stopped everybody, by generation."""

    def __init__(self) -> None:
        self.timings = tuple(Timings() for _ in range(GENERATIONS))
        self._began = 0.0

    async def run(self) -> None:
        """Look at every collection of the process; never returns."""
        gc.callbacks.append(self._told)
        try:
            await trio.sleep_forever()
        finally:
            gc.callbacks.remove(self._told)

    def _told(self, phase: Literal["start", "stop"], info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        elif self._began:
            self.timings[info["generation"]].note(time.perf_counter() - self._began)
