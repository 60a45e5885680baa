"""What a worker gets from its parent: open descriptors, named on its command line.

Its standard input is a pipe that the parent holds open: at its end the parent is gone.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from commucat_server.listener import ShutdownSignal


@attrs.frozen(kw_only=True)
class Inheritance:
    """Descriptors of the lock of the data directory and of the listening sockets."""

    worker: int
    """From 1."""
    lock: int
    sockets: tuple[int, ...]
    relay: int
    """The local socket at which other workers pass on what is for this one."""
    folder: Path
    """Where the local sockets of all are."""

    def to_argument(self) -> str:
        """The value of the worker's hidden option."""
        return f"{self.worker}:{self.lock}:{','.join(map(str, self.sockets))}:{self.relay}:{self.folder}"

    @classmethod
    def from_argument(cls, text: str) -> "Inheritance":
        """Raises :class:`ValueError`."""
        worker, lock, sockets, relay, folder = text.split(":", 4)
        return cls(
            worker=int(worker),
            lock=int(lock),
            sockets=tuple(map(int, sockets.split(","))),
            relay=int(relay),
            folder=Path(folder),
        )

    def open_sockets(self) -> Sequence[socket.socket]:
        """The listening sockets; whoever takes them closes them."""
        return [socket.socket(fileno=descriptor) for descriptor in self.sockets]

    def open_relay(self) -> socket.socket:
        """The local socket; whoever takes it closes it."""
        return socket.socket(fileno=self.relay)


async def request_at_end_of_parent(shutdown: ShutdownSignal) -> None:
    """Ask for the end when the parent is gone, however it went."""
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        if not os.read(sys.stdin.fileno(), 1024):
            shutdown.request()
            return
