"""The bus of a cluster with Redis."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from commucat_storage.bus import ALL_NODES, HintInlet
from commucat_storage.redis.asks import Asks, UnansweredError
from commucat_storage.redis.health import Health
from commucat_storage.redis.outbox import HintOutbox
from commucat_storage.redis.sessions import SessionTable, route_key


class RedisBus:
    """:class:`commucat_storage.bus.NodeBus` over Redis."""

    def __init__(
        self,
        node: str,
        *,
        sessions: SessionTable,
        outbox: HintOutbox,
        inlet: HintInlet,
        asks: Asks,
        health: Health,
        seconds: float,
    ) -> None:
        self._node = node
        self._sessions = sessions
        self._outbox = outbox
        self._inlet = inlet
        self._asks = asks
        self._health = health
        self._seconds = seconds

    @property
    def node(self) -> str:
        return self._node

    def publish(self, node: str, hint: bytes) -> None:
        if node in (self._node, ALL_NODES):
            self._inlet.put(hint)
        if node != self._node:
            self._outbox.put(node, hint)

    @asynccontextmanager
    async def hints(self) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        async with self._inlet.open(fresh=True) as hints:
            yield hints

    def note_session(self, device: str, session_hash: str) -> None:
        self._sessions.note(device, session_hash)

    def forget_session(self, device: str, session_hash: str) -> None:
        self._sessions.forget(device, session_hash)

    def note_presence(self, device: str, state: str, user: Mapping[str, Any] | None) -> None:
        self._sessions.describe(device, state, user)

    async def route_of(self, devices: Sequence[str]) -> dict[str, str]:
        routes: dict[str, str] = {}
        if not devices:
            return routes
        keys = [route_key(device) for device in devices]
        try:
            found = await self._asks.ask("MGET", *keys, seconds=self._seconds)
        except UnansweredError:
            return routes
        for device, value in zip(devices, found, strict=True):
            node, colon, _ = value.decode("utf-8", "replace").rpartition(":") if value else ("", "", "")
            if colon:
                routes[device] = node
        return routes

    def healthy(self) -> str | None:
        return self._health.line()
