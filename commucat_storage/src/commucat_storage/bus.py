"""Hints between the processes of one cluster, and where its devices are connected.

The truth is in the database; what passes here only makes it known sooner. So nothing here is waited
for on the path of a message, and everything may be lost: each node also looks into the database itself.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import attrs
import trio

ALL_NODES: Final = "*"
"""In place of a node: every node, the sender perhaps too."""
MISSED: Final = b""
"""A hint that tells nothing but that others may have been lost: look into the database now. The first
after each subscription, and after hints were dropped because nobody took them."""
MAX_HINTS: Final = 10_000
"""Hints that wait to be sent, and that wait to be taken. Each is worth less than the memory of more."""
MAX_HINT_BYTES: Final = 16 * 1024**2
"""Of all hints that wait to be sent."""


@attrs.define
class BusCounters:
    """What a bus over a network counts, since start."""

    errors: int = 0
    """Commands that were answered with an error, and connections that failed or could not be made."""
    connections: int = 0
    """Connections made; more than two mean that some were lost."""
    unanswered: int = 0
    """Questions that had no answer in time; whoever asked decided without."""
    hints_sent: int = 0
    hints_received: int = 0
    hints_dropped: int = 0
    """Hints that were never sent, or never taken. Each costs time, none costs a message."""


class NodeBus(Protocol):
    """Hints between nodes: may be lost, doubled or late, never wrong in effect.

    All methods are called in the thread of the Trio loop.
    """

    @property
    def node(self) -> str:
        """The name of this node: printable ASCII without a colon, another one at each start."""
        ...

    def publish(self, node: str, hint: bytes) -> None:
        """Send a hint to a node, or to ``ALL_NODES``.

        Never waits and never raises; when ``MAX_HINTS`` or ``MAX_HINT_BYTES`` wait already the oldest
        are dropped. A hint to the own node does not leave the process.
        """
        ...

    def hints(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[bytes]]:
        """Receive the hints for this node while the block lasts; one block at a time."""
        ...

    def note_session(self, device: str, session_hash: str) -> None:
        """A session of the device is live here, until :meth:`forget_session`. A later one replaces it."""
        ...

    def forget_session(self, device: str, session_hash: str) -> None:
        """The session has ended; no effect if a later one was noted meanwhile, here or on another node."""
        ...

    def note_presence(self, device: str, state: str, user: Mapping[str, Any] | None) -> None:
        """How the device is that has a live session here, and its user's profile as clients see it."""
        ...

    async def route_of(self, devices: Sequence[str]) -> dict[str, str]:
        """Device to the node that it was last said to be connected to. Waits for a fraction of a second.

        Devices of which nothing is known are left out; all of them while the bus is down.
        """
        ...

    def healthy(self) -> str | None:
        """None, or one line that says what is degraded; it names no hosts and no secrets."""
        ...


class LocalBus:
    """The bus of a process that is alone: there is nobody to tell."""

    def __init__(self, node: str = "local") -> None:
        self._node = node
        self._sessions: dict[str, str] = {}
        self._inlet = HintInlet()

    @property
    def node(self) -> str:
        return self._node

    def publish(self, node: str, hint: bytes) -> None:
        if node in (self._node, ALL_NODES):
            self._inlet.put(hint)

    def hints(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[bytes]]:
        return self._inlet.open(fresh=False)

    def note_session(self, device: str, session_hash: str) -> None:
        self._sessions[device] = session_hash

    def forget_session(self, device: str, session_hash: str) -> None:
        if self._sessions.get(device) == session_hash:
            del self._sessions[device]

    def note_presence(self, device: str, state: str, user: Mapping[str, Any] | None) -> None:
        pass  # nobody asks: the store of a process that is alone knows it

    async def route_of(self, devices: Sequence[str]) -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return {device: self._node for device in devices if device in self._sessions}

    def healthy(self) -> str | None:
        return None


class HintInlet:
    """Hands hints to whoever takes them; what nobody takes is dropped, and that is told."""

    def __init__(self) -> None:
        self._outlet: trio.MemorySendChannel[bytes] | None = None
        self._missed = False
        self.dropped = 0
        """Hints that were not taken in time."""

    @property
    def is_open(self) -> bool:
        return self._outlet is not None

    @asynccontextmanager
    async def open(self, *, fresh: bool) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        """Take hints while the block lasts; ``fresh``: the first says that others may have been lost.

        Raises:
            RuntimeError: somebody takes them already.
        """
        if self._outlet is not None:
            raise RuntimeError("the hints of this node are being taken already")
        outlet, inlet = trio.open_memory_channel[bytes](MAX_HINTS)
        self._outlet, self._missed = outlet, fresh
        async with outlet, inlet:
            if fresh:
                self.miss()
            try:
                yield inlet
            finally:
                self._outlet = None

    def put(self, hint: bytes) -> None:
        """Hand one over, or drop it."""
        if self._outlet is None:
            return
        try:
            if self._missed:
                self._outlet.send_nowait(MISSED)
                self._missed = False
            self._outlet.send_nowait(hint)
        except (trio.WouldBlock, trio.BrokenResourceError):
            self.dropped += 1
            self._missed = True

    def miss(self) -> None:
        """Say that hints may have been lost; with the next one if there is no room now."""
        self._missed = True
        if self._outlet is None:
            return
        try:
            self._outlet.send_nowait(MISSED)
            self._missed = False
        except (trio.WouldBlock, trio.BrokenResourceError):
            pass
