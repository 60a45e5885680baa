"""Several processes on one store: who they are, and whose device sessions are.

Of a store that only one process can use every method has a plain answer: everything is here.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import attrs

from commucat_storage.bus import LocalBus, NodeBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEAD_AFTER = 10.0
"""Seconds without a sign of life after which a node's sessions count as gone."""

Elsewhere: TypeAlias = Callable[[Mapping[str, Mapping[str, int]]], None]
"""Node, device of a session there, highest inbox number that was committed for it."""


@attrs.frozen(kw_only=True)
class Node:
    """One process of a cluster, from its start to its end."""

    node_id: str
    """Random, another one at each start; 1 to 32 characters of ``0-9a-f``."""
    host: str
    pid: int
    identity: bytes
    """The server's public Ed25519 key, which signs its devices' certificates: one for all nodes."""


@attrs.frozen
class Held:
    """What a node knows of the inbox behind one of its receiving sessions."""

    device_id: str
    claim: int
    number: int
    """Everything up to it was handed over."""
    epoch: str


@attrs.frozen
class Standing:
    """What the store says of such an inbox, where that is more or something else."""

    device_id: str
    claim: int
    """A number above the session's own: a newer session of the device, wherever it is, has taken over."""
    head: int
    epoch: str
    active: bool
    """Whether the device may have sessions at all."""


class NodeStorage:
    """What a store does for the nodes that share it. As it stands here: for one process alone."""

    @property
    def shared(self) -> bool:
        """Whether other processes may commit messages, sessions and changes of their own."""
        return False

    async def enter_cluster(self, node: Node) -> None:
        """From now on this process is ``node``: admissions that claim do so for it.

        Raises:
            StorageError: the store failed, or nodes with another identity are using it.
        """
        return

    async def leave_cluster(self) -> None:
        """The process ends in order: its sessions are nobody's, its leases free. Never raises."""
        return

    async def beat(self) -> None:
        """Give a sign of life; at least every third of :data:`DEAD_AFTER`. Raises :class:`StorageError`."""
        return

    def on_elsewhere(self, told: Elsewhere) -> None:
        """Have ``told`` called after each commit that brought something to sessions on other nodes.

        It is called in the event-loop thread, and must neither wait nor raise. What a commit of unknown
        outcome brought is not told.
        """
        return

    async def look_after(self, held: Sequence[Held]) -> tuple[Standing, ...]:
        """Those of the inboxes of which the store has more, or something else, than this node knows.

        Devices that exist no more are left out, see :meth:`Storage.not_active`. One query, however many.

        Raises:
            StorageError: the store failed.
        """
        return ()

    async def release(self, claims: Sequence[tuple[str, int]]) -> None:
        """Give up device and claim each, of sessions that have ended; no effect on those claimed anew.

        Raises:
            StorageError: the store failed.
        """
        return

    async def owners_of(self, device_ids: Sequence[str]) -> dict[str, str]:
        """Device to node, of those that have a live session on another node that lives.

        Raises:
            StorageError: the store failed.
        """
        return {}

    async def take_lease(self, name: str, seconds: float) -> bool:
        """Take, or renew, the lease of a job that only one node shall do; by the store's clock.

        It ends by itself after ``seconds``, and with the node. False while another node has it.

        Raises:
            StorageError: the store failed.
        """
        return True

    async def sweep_nodes(self) -> tuple[str, ...]:
        """Forget nodes that have given no sign of life for :data:`DEAD_AFTER`; their names.

        Raises:
            StorageError: the store failed.
        """
        return ()

    def open_bus(self, node: str) -> AbstractAsyncContextManager[NodeBus]:
        """Hints between nodes by what the store itself offers, while the block lasts."""
        return _local_bus(node)


@asynccontextmanager
async def _local_bus(node: str) -> "AsyncIterator[NodeBus]":
    yield LocalBus(node)
