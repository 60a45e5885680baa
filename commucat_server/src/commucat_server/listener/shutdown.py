"""The one signal that tells every part of the server to come to an end."""

import trio


class ShutdownSignal:
    """A switch that goes from "run" to "stop" once; any number of tasks may watch it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    @property
    def requested(self) -> bool:
        """Whether the end has been asked for."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask for the end; again has no effect. Call it inside the Trio thread."""
        self._event.set()

    async def wait(self) -> None:
        """Return as soon as the end has been asked for."""
        await self._event.wait()
