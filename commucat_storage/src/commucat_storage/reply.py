"""What a caller of the journal waits for."""

import trio

from commucat_storage.errors import StorageError


class Reply:
    """What a caller waits for: the value its ``done`` was called with."""

    def __init__(self) -> None:
        self._told = trio.Event()
        self._value: object = None

    def set(self, value: object) -> None:
        self._value = value
        self._told.set()

    async def wait(self) -> object:
        await self._told.wait()
        if isinstance(self._value, StorageError):
            raise self._value
        return self._value
