"""The one connection that carries commands, and the one task that uses it.

Nobody else waits for the network: others leave commands with a source, and the task sends everything
that the sources have as one pipeline, reads the replies, and begins again. So no cancellation of a
caller can meet the connection half-way.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import attrs
import trio

from commucat_storage.asyncio_loop import AsyncioLoop
from commucat_storage.redis.address import RedisAddress
from commucat_storage.redis.backoff import Backoff
from commucat_storage.redis.connection import Argument, RedisConnection, Reply
from commucat_storage.redis.health import Health
from commucat_storage.redis.settings import RedisSettings
from commucat_storage.redis.trouble import TroubleError, needs_new_connection, trouble_of

LINK: Final = "commands"
"""The name of this part in :class:`Health`."""


def _nobody(_reply: Reply) -> None:
    pass


@attrs.frozen
class Command:
    """One command, and who wants the reply.

    ``done`` is called with the answer, with the error that the server answered, or with a
    :class:`TroubleError` if the connection failed and nobody knows whether the command was executed.
    """

    arguments: tuple[Argument, ...]
    done: Callable[[Reply], None] = _nobody
    writes: bool = False
    """Needs memory or a primary: its success says that Redis takes writes."""


_PROBE: Final = "return redis.call('GET', KEYS[1])"
_PING: Final = Command(("PING",))


class Source(Protocol):
    """Where commands come from."""

    def take(self, now: float) -> list[Command]:
        """Commands to send now, a bounded number. What is taken gets its reply or an error."""
        ...

    def next_time(self) -> float:
        """When there will be commands although nobody wakes the link; ``inf`` for never."""
        ...

    def connected(self) -> None:
        """A connection is new: what the server knew may be gone."""
        ...

    def disconnected(self, trouble: TroubleError) -> None:
        """There is no connection. Told again after each attempt."""
        ...


class Link:
    """Keeps the connection; see the module."""

    def __init__(
        self, loop: AsyncioLoop, address: RedisAddress, settings: RedisSettings, health: Health, *, name: str
    ) -> None:
        self._loop = loop
        self._address = address
        self._settings = settings
        self._health = health
        self._name = name
        self._sources: tuple[Source, ...] = ()
        self._connection: RedisConnection | None = None
        self._wakeup = trio.Event()
        # One of each kind that the sources send; of these the first needs memory and a primary.
        mine = f"commucat:{address.db}:probe:{name}"
        self._probes = (
            Command(("SET", mine, "1", "EX", 10), writes=True),
            Command(("EVAL", _PROBE, 1, mine)),
            Command(("MGET", mine)),
            Command(("PUBLISH", mine, b"")),
        )
        self._refused = False
        self._closing = False
        self._doubtful = False
        self._finished = trio.Event()

    @property
    def is_up(self) -> bool:
        return self._connection is not None

    def serve(self, sources: Sequence[Source]) -> None:
        """Whose commands are sent, the most urgent first; to be told before :meth:`run`."""
        self._sources = tuple(sources)

    def wake(self) -> None:
        """A source has something new."""
        self._wakeup.set()

    def check(self) -> None:
        """Something hints at the connection being lost: find out now, not with the next ping."""
        self._doubtful = True
        self.wake()

    async def connect(self) -> None:
        """Connect if there is no connection.

        Raises:
            TroubleError: it failed.
        """
        if self._connection is not None:
            return
        try:
            connection = await self._loop.run(
                lambda: RedisConnection.open(self._address, self._name, self._settings.connect_timeout)
            )
            self._health.counters.connections += 1
            self._connection = connection
            await self._examine(connection)
        except BaseException as exc:
            self.abort()
            if isinstance(exc, Exception):
                raise trouble_of(exc, self._address) from exc
            raise

    async def _examine(self, connection: RedisConnection) -> None:
        """See what Redis lets us do, before anything depends on it."""
        replies = await self._loop.run(
            lambda: connection.exchange(
                [command.arguments for command in self._probes], self._settings.command_timeout
            )
        )
        refused = [reply for reply in replies if isinstance(reply, Exception)]
        if not refused:
            self._refused = False
            self._health.well(LINK)
            return
        trouble = trouble_of(refused[0], self._address)
        if trouble.lasting or needs_new_connection(refused[0]):
            raise trouble
        self._refuse(trouble)

    async def run(self) -> None:
        """Serve the sources until :meth:`finish`, connecting again as often as needed."""
        backoff = Backoff(self._settings.first_delay, self._settings.longest_delay)
        while not self._closing:
            try:
                await self.connect()
                backoff.connected(trio.current_time())
                for source in self._sources:
                    source.connected()
                await self._serve()
            except TroubleError as trouble:
                self.abort()
                self._health.failed(LINK, trouble)
                for source in self._sources:
                    source.disconnected(trouble)
                if not self._closing:
                    await trio.sleep(backoff.next(trio.current_time()))
        self._finished.set()

    async def finish(self) -> None:
        """Send what is left, unless there is no connection; :meth:`run` ends, and this with it."""
        self._closing = True
        self.wake()
        if self.is_up:
            await self._finished.wait()

    def abort(self) -> None:
        """Drop the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def _serve(self) -> None:
        while True:
            self._wakeup = trio.Event()
            now = trio.current_time()
            commands = [command for source in self._sources for command in source.take(now)]
            if self._doubtful and not commands:
                commands.append(_PING)
            if commands:
                self._doubtful = False
                await self._exchange(commands)
                continue
            if self._closing:
                return
            wake_at = min((source.next_time() for source in self._sources), default=math.inf)
            ping_at = now + self._settings.ping_interval
            with trio.move_on_at(min(wake_at, ping_at)) as waiting:
                await self._wakeup.wait()
            if waiting.cancelled_caught and ping_at <= wake_at:
                await self._exchange([self._probes[0] if self._refused else _PING])

    async def _exchange(self, commands: list[Command]) -> None:
        connection = self._connection
        try:
            if connection is None:
                raise ConnectionError("the connection was dropped")
            replies = await self._loop.run(
                lambda: connection.exchange(
                    [command.arguments for command in commands], self._settings.command_timeout
                )
            )
        except Exception as exc:
            trouble = trouble_of(exc, self._address)
            for command in commands:
                command.done(trouble)
            raise trouble from exc
        self._settle(commands, replies)

    def _settle(self, commands: list[Command], replies: list[Reply]) -> None:
        wrote = False
        refused: Exception | None = None
        for command, reply in zip(commands, replies, strict=True):
            command.done(reply)
            if isinstance(reply, Exception):
                self._health.count_error()
                refused = reply
            else:
                wrote = wrote or command.writes
        if refused is not None:
            trouble = trouble_of(refused, self._address)
            if needs_new_connection(refused):
                raise trouble
            self._refuse(trouble)
        elif wrote:
            self._refused = False
            self._health.well(LINK)

    def _refuse(self, trouble: TroubleError) -> None:
        self._refused = True
        self._health.refused(LINK, trouble)
