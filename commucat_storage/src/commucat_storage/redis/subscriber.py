"""The connection on which the hints of other nodes arrive."""

from typing import Final

import trio

from commucat_storage.asyncio_loop import AsyncioLoop
from commucat_storage.bus import ALL_NODES, HintInlet
from commucat_storage.redis.address import RedisAddress
from commucat_storage.redis.backoff import Backoff
from commucat_storage.redis.connection import RedisConnection
from commucat_storage.redis.health import Health
from commucat_storage.redis.link import Link
from commucat_storage.redis.outbox import channel_of
from commucat_storage.redis.settings import RedisSettings
from commucat_storage.redis.trouble import TroubleError, trouble_of

SUBSCRIBER: Final = "hints"
"""The name of this part in :class:`Health`."""


class Subscriber:
    """Subscribes, and subscribes again as often as needed."""

    def __init__(
        self,
        loop: AsyncioLoop,
        address: RedisAddress,
        settings: RedisSettings,
        health: Health,
        inlet: HintInlet,
        link: Link,
        *,
        node: str,
        name: str,
    ) -> None:
        self._loop = loop
        self._address = address
        self._settings = settings
        self._health = health
        self._inlet = inlet
        self._link = link
        self._channels = [channel_of(address.db, node), channel_of(address.db, ALL_NODES)]
        self._name = name
        self._connection: RedisConnection | None = None

    async def run(self) -> None:
        """Never returns by itself."""
        backoff = Backoff(self._settings.first_delay, self._settings.longest_delay)
        while True:
            try:
                connection = await self._subscribe()
                backoff.connected(trio.current_time())
                self._health.well(SUBSCRIBER)
                # Nobody knows what was published meanwhile.
                self._inlet.miss()
                await self._listen(connection)
            except TroubleError as trouble:
                self.abort()
                self._link.check()
                self._health.failed(SUBSCRIBER, trouble)
                await trio.sleep(backoff.next(trio.current_time()))

    def abort(self) -> None:
        """Drop the connection; what waits for it fails at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def _subscribe(self) -> RedisConnection:
        try:
            connection = await self._loop.run(
                lambda: RedisConnection.open(self._address, self._name, self._settings.connect_timeout)
            )
            self._health.counters.connections += 1
            self._connection = connection
            await self._loop.run(lambda: connection.subscribe(self._channels, self._settings.command_timeout))
        except Exception as exc:
            raise trouble_of(exc, self._address) from exc
        return connection

    async def _listen(self, connection: RedisConnection) -> None:
        try:
            await self._loop.run(
                lambda: connection.listen(
                    self._take, self._settings.ping_interval, self._settings.command_timeout
                )
            )
        except Exception as exc:
            raise trouble_of(exc, self._address) from exc

    def _take(self, hint: bytes) -> None:
        self._health.counters.hints_received += 1
        self._inlet.put(hint)
