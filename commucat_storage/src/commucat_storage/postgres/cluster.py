"""The part of the PostgreSQL store that knows of other nodes."""

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio

from commucat_storage.asyncio_loop import AsyncioLoop
from commucat_storage.bus import NodeBus
from commucat_storage.errors import StorageError
from commucat_storage.nodes import Elsewhere, Held, Node, NodeStorage, Standing
from commucat_storage.postgres import nodes
from commucat_storage.postgres.bus import open_bus
from commucat_storage.postgres.connection import place_of
from commucat_storage.postgres.journal import Journal
from commucat_storage.postgres.pool import Pool
from commucat_storage.postgres.settings import PostgresSettings

_log = logging.getLogger(__name__)

_LEAVE_TIMEOUT = 5.0


class PostgresNodes(NodeStorage):
    """This process among those that share the database. Outside of a cluster until it has entered one."""

    def __init__(
        self, loop: AsyncioLoop, dsn: str, settings: PostgresSettings, journal: Journal, pool: Pool
    ) -> None:
        self._loop = loop
        self._dsn = dsn
        self._settings = settings
        self._teller = journal
        self._pool = pool
        self._node: Node | None = None

    @property
    def node_name(self) -> str | None:
        """The name of this node; None outside of a cluster, as for an operator's command."""
        return None if self._node is None else self._node.node_id

    @property
    def shared(self) -> bool:
        return True

    async def enter_cluster(self, node: Node) -> None:
        await self._pool.write(partial(nodes.enter, node=node, place=place_of(self._dsn)))
        self._node = node

    async def leave_cluster(self) -> None:
        name = self.node_name
        if name is None:
            return
        with trio.move_on_after(_LEAVE_TIMEOUT, shield=True):
            try:
                while await self._pool.write(partial(nodes.give_free, node=name)):
                    pass
                await self._pool.write(partial(nodes.leave, node=name))
            except StorageError as exc:
                _log.warning("this node could not take its leave: %s", exc)

    async def beat(self) -> None:
        node = self._node
        if node is not None:
            await self._pool.write(partial(nodes.beat, node=node))

    def on_elsewhere(self, told: Elsewhere) -> None:
        self._teller.on_elsewhere(told, self._own_name())

    async def look_after(self, held: Sequence[Held]) -> tuple[Standing, ...]:
        if not held:
            return ()
        name = self._own_name()
        return await self._pool.read(lambda connection: nodes.look_after(connection, name, held))

    async def release(self, claims: Sequence[tuple[str, int]]) -> None:
        if claims:
            await self._pool.write(lambda connection: nodes.release(connection, claims))

    async def owners_of(self, device_ids: Sequence[str]) -> dict[str, str]:
        name = self._own_name()
        return await self._pool.read(lambda connection: nodes.owners_of(connection, name, device_ids))

    async def take_lease(self, name: str, seconds: float) -> bool:
        holder = self._own_name()
        return await self._pool.write(lambda connection: nodes.take_lease(connection, name, holder, seconds))

    async def sweep_nodes(self) -> tuple[str, ...]:
        dead = await self._pool.read(nodes.dead_nodes)
        for node in dead:
            while await self._pool.write(partial(nodes.give_free, node=node)):
                pass
            await self._pool.write(partial(nodes.forget_node, node=node))
        return tuple(dead)

    def open_bus(self, node: str) -> AbstractAsyncContextManager[NodeBus]:
        return open_bus(self._loop, self._dsn, self._settings, node)

    def _own_name(self) -> str:
        if self._node is None:
            raise StorageError("this process has not entered the cluster")
        return self._node.node_id
