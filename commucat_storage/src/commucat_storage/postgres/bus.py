"""Hints between nodes by LISTEN and NOTIFY, on a connection of their own."""

import base64
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

from commucat_storage.asyncio_loop import AsyncioLoop
from commucat_storage.bus import ALL_NODES, MAX_HINT_BYTES, MAX_HINTS, HintInlet
from commucat_storage.postgres.connection import Connection, connect, one_line, place_of
from commucat_storage.postgres.pool import close_connection
from commucat_storage.postgres.settings import PostgresSettings

_log = logging.getLogger(__name__)

LOOK: Final = ":"
"""A notification that only says: look into the database."""
MAX_NOTIFIED: Final = 5_900
"""Bytes of one hint: a notification must stay below 8,000 characters, and is base64."""
_CHANNEL: Final = "commucat_"
_EVERYBODY: Final = "commucat_all"
_MAX_SENT: Final = 500  # hints in one statement
_PULSE: Final = 5.0
"""Seconds without anything to send after which the connection is tried: a dead one brings no hints."""
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0


def channel_of(node: str) -> str:
    """The notification channel of a node."""
    return _CHANNEL + node


class PostgresBus:
    """A :class:`NodeBus`. Where devices are connected is known to the store, not kept here."""

    def __init__(self, loop: AsyncioLoop, dsn: str, settings: PostgresSettings, node: str) -> None:
        self._loop = loop
        self._dsn = dsn
        self._settings = settings
        self._node = node
        self._inlet = HintInlet()
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = 0
        self._more = trio.Event()
        self._connection: Connection | None = None
        self.dropped = 0
        """Hints that were never sent: too long, too many, or the database was away."""

    @property
    def node(self) -> str:
        return self._node

    def publish(self, node: str, hint: bytes) -> None:
        if node in (self._node, ALL_NODES):
            self._inlet.put(hint)
            if node == self._node:
                return
        if len(hint) > MAX_NOTIFIED:
            self.dropped += 1
            return
        self._waiting.append((node, hint))
        self._waiting_bytes += len(hint)
        while len(self._waiting) > MAX_HINTS or self._waiting_bytes > MAX_HINT_BYTES:
            self._take()
            self.dropped += 1
        self._more.set()

    def hints(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[bytes]]:
        return self._inlet.open(fresh=True)

    def note_session(self, device: str, session_hash: str) -> None:
        """Nothing: the claim in the store says it."""

    def forget_session(self, device: str, session_hash: str) -> None:
        """Nothing, as above."""

    def note_presence(self, device: str, state: str, user: Mapping[str, Any] | None) -> None:
        """Nothing: presence is told from node to node."""

    async def route_of(self, devices: Sequence[str]) -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return {}

    def healthy(self) -> str | None:
        if self._connection is None:
            return "the connection for hints between nodes is away; messages between nodes may take a second"
        return None

    async def run(self) -> None:
        """Keep the connection, and send; until cancelled."""
        delay = _FIRST_DELAY
        told = False
        try:
            while True:
                try:
                    if self._connection is None:
                        await self._loop.run(self._connect)
                        self._inlet.miss()
                        delay, told = _FIRST_DELAY, False
                    await self._send_next()
                except Exception as exc:  # noqa: BLE001 - whatever it is, the store knows everything
                    if not told:
                        told = True
                        _log.warning("hints between nodes: %s: %s", place_of(self._dsn), one_line(exc))
                    self._give_up()
                    await trio.sleep(delay)
                    delay = min(2 * delay, _LONGEST_DELAY)
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                with trio.CancelScope(shield=True):
                    await self._loop.run(partial(close_connection, connection))

    async def _connect(self) -> None:
        connection = await connect(self._dsn, self._settings)
        try:
            # A hint that a crash of the database loses is worth no wait for the disk.
            await connection.execute("SET synchronous_commit = off")
            connection.on_end(self._lost)
            for channel in (channel_of(self._node), _EVERYBODY):
                await connection.listen(channel, self._received)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    def _received(self, text: str) -> None:
        sender, _, hint = text.partition(":")
        if sender == self._node:
            return  # what this node told everybody
        if not hint:
            self._inlet.miss()
            return
        try:
            self._inlet.put(base64.b64decode(hint, validate=True))
        except ValueError:
            self._inlet.miss()

    def _lost(self) -> None:
        self._more.set()  # The sender notices it at its next statement.

    async def _send_next(self) -> None:
        if not self._waiting:
            self._more = trio.Event()
            with trio.move_on_after(_PULSE):
                await self._more.wait()
        batch = [self._take() for _ in range(min(len(self._waiting), _MAX_SENT))]
        try:
            await self._loop.run(partial(self._send, batch))
        except Exception:
            self.dropped += len(batch)
            raise

    async def _send(self, batch: list[tuple[str, bytes]]) -> None:
        connection = self._connection
        assert connection is not None, "it was opened before"
        channels = [_EVERYBODY if node == ALL_NODES else channel_of(node) for node, _ in batch]
        texts = [f"{self._node}:{base64.b64encode(hint).decode()}" for _, hint in batch]
        await connection.execute(
            "SELECT pg_notify(n.channel, n.hint) FROM unnest($1::text[], $2::text[]) AS n (channel, hint)",
            channels,
            texts,
        )

    def _take(self) -> tuple[str, bytes]:
        node, hint = self._waiting.popleft()
        self._waiting_bytes -= len(hint)
        return node, hint

    def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


@asynccontextmanager
async def open_bus(
    loop: AsyncioLoop, dsn: str, settings: PostgresSettings, node: str
) -> AsyncIterator[PostgresBus]:
    """Run a bus while the block lasts."""
    bus = PostgresBus(loop, dsn, settings, node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run)
        try:
            yield bus
        finally:
            nursery.cancel_scope.cancel()
