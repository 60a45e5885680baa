"""One connection to Redis. Runs in the asyncio loop; every call ends within the deadline that it is given."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from commucat_storage.redis.address import RedisAddress

Argument: TypeAlias = bytes | str | int | float
Reply: TypeAlias = Any
"""bytes, int, None or a list of these, or the error that the server answered."""


class RedisConnection:
    """What is used of redis's connection."""

    def __init__(self, raw: AbstractConnection) -> None:
        self._raw = raw
        self._aborted = False

    @classmethod
    async def open(cls, address: RedisAddress, name: str, seconds: float) -> "RedisConnection":
        """Connect, log in, choose the database, and see that the server answers.

        Raises:
            Exception: whatever went wrong; see :func:`trouble_of`.
        """
        connection = cls(address.connection(name))
        try:
            async with asyncio.timeout(seconds):
                await connection._raw.connect()  # type: ignore[no-untyped-call]  # it has no annotations
                await connection._ask("PING")
        except BaseException:
            connection.abort()
            raise
        return connection

    async def exchange(self, commands: Sequence[tuple[Argument, ...]], seconds: float) -> list[Reply]:
        """Send the commands at once and return as many replies; errors that the server answered among them.

        Raises:
            Exception: the connection is lost or too slow, and closed now. Whether the server has executed
                the commands is not known.
        """
        self._check()
        try:
            async with asyncio.timeout(seconds):
                await self._raw.send_packed_command(self._raw.pack_commands(commands), check_health=False)
                return [await self._reply() for _ in commands]
        except BaseException:
            self.abort()
            raise

    async def subscribe(self, channels: Sequence[str], seconds: float) -> None:
        """Ask for the messages of these channels. Raises as :meth:`exchange`."""
        self._check()
        try:
            async with asyncio.timeout(seconds):
                await self._raw.send_command("SUBSCRIBE", *channels, check_health=False)
                for _ in channels:
                    await self._raw.read_response()
        except BaseException:
            self.abort()
            raise

    async def listen(self, take: Callable[[bytes], None], ping_interval: float, seconds: float) -> None:
        """Hand over messages until the connection is lost. Raises as :meth:`exchange`; never returns."""
        self._check()
        try:
            asked = False
            while True:
                message = await self._raw.read_response(timeout=seconds if asked else ping_interval)
                if message is None and asked:
                    raise TimeoutError("no sign of life")
                if message is None:
                    self._check()  # It may have been dropped in the very moment of the timeout.
                    async with asyncio.timeout(seconds):
                        await self._raw.send_command("PING", check_health=False)
                asked = message is None
                if isinstance(message, list) and message[0] == b"message":
                    take(message[2])
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Drop the connection at once; a call that waits for it fails."""
        self._aborted = True
        # Closing politely would wait for a server that does not read.
        writer: asyncio.StreamWriter | None = self._raw._writer
        if writer is not None:
            writer.transport.abort()
            self._raw._reader = self._raw._writer = None

    def _check(self) -> None:
        if self._aborted:
            # The library would connect again by itself.
            raise LostError("the connection is closed")

    async def _ask(self, *command: Argument) -> Reply:
        await self._raw.send_command(*command, check_health=False)
        return await self._raw.read_response()

    async def _reply(self) -> Reply:
        try:
            return await self._raw.read_response()
        except ResponseError as exc:
            return exc
